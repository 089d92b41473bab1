"""What is known of a network before it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper

from benchmark.api.network import Network
from benchmark.errors import UserError

Shape = tuple[int, int, int]
"""Channels, height and width of an image, the latter in pixels."""


class WrongShape(UserError, ValueError):
    """A network takes no images of this shape."""


@dataclass
class Architecture:
    """A network's title, its paper, the least height and width of its images in pixels, and what builds it.

    `build` takes the number of classes and the shape (c, h, w), and returns a `Network` whose weights are drawn from PyTorch's
    global random state. A file of one's own leaves it out: there it is the function of that name.
    """

    title: str
    paper: str = ""
    least: int = 1
    build: Callable[[int, Shape], Network] | None = None

    def __post_init__(self) -> None:
        if self.build:
            update_wrapper(self, self.build)  # keys are made of the code of `build`, which they find by module and name

    def __call__(self, classes: int, shape: Shape) -> Network:
        """A fresh network. Raises WrongShape for images that are too small."""
        assert self.build is not None
        if min(shape[1:]) < self.least:
            raise WrongShape(
                f"{self.title}: expected images of at least {self.least}x{self.least} pixels, given {shape[1]}x{shape[2]}"
            )
        return self.build(classes, shape)
