"""Networks for small images: a module a family. All are `Network`s: `forward(x)` is `head(embed(x))`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmark.architectures.convolutional import simple_cnn, small_cnn
from benchmark.architectures.network import Network
from benchmark.architectures.residual import resnet18
from benchmark.architectures.vgg import vgg11
from benchmark.errors import UserError, suggest

__all__ = ["NAMES", "Network", "UnknownArchitecture", "build"]

_BUILDERS: dict[str, Callable[[int, tuple[int, int, int]], Network]] = {
    "simple_cnn": simple_cnn,
    "small_cnn": small_cnn,
    "resnet18": resnet18,
    "vgg11": vgg11,
}
NAMES = tuple(_BUILDERS)


class UnknownArchitecture(UserError, ValueError):
    """No architecture has this name; the message suggests one."""

    def __init__(self, name: str):
        super().__init__(f"unknown architecture {name!r}{suggest(name, NAMES)}")


def build(name: str, classes: int, shape: tuple[int, int, int], seed: int) -> Network:
    """A fresh float32 network in training mode, on the CPU, for images of shape (c, h, w).

    Its weights depend on the seed (64 bits) alone; the global random state stays as it was. Raises
    UnknownArchitecture.
    """
    if name not in _BUILDERS:
        raise UnknownArchitecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerators
        return _BUILDERS[name](classes, shape)
