"""`Data`, which every source returns: 8-bit images without duplicates, their labels and attribute, and a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.data.attribute import above_class_median, thickness
from benchmark.errors import UserError


class DataError(UserError):
    """A data set is missing or damaged; the one-line message names the ways to get it."""


@dataclass(frozen=True, eq=False)
class Data:
    """x (n, c, h, w) uint8, y (n,) int64 in [0, classes), attribute (n,) int64, 0 or 1; on the CPU.

    `simple` has the parameters of the augmentation "simple" for this data: {"pad": pixels, "flip": bool}.
    `duplicates` counts the images that were dropped because they equal an earlier one.
    """

    name: str
    x: Tensor
    y: Tensor
    attribute: Tensor
    classes: int
    simple: Mapping[str, Any]
    duplicates: int

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        c, h, w = self.x.shape[1:]
        return c, h, w

    @property
    def published(self) -> Mapping[str, NDArray[np.int64]]:
        """The indices of the publisher's parts by name; {} where there are none."""
        return {}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the shapes and bytes of x and y."""
        digest = hashlib.sha256()
        for array in (self.x.numpy(), self.y.numpy()):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def followed_by(self, other: Data) -> Data:
        """These samples, then those of another data set, resized and with channels averaged as this one's shape asks."""
        c, h, w = self.shape
        x = other.x.float()
        if other.shape[0] != c:
            x = x.mean(1, keepdim=True).expand(-1, c, -1, -1)
        if x.shape[2:] != (h, w):
            x = nn.functional.interpolate(x, (h, w), mode="bilinear", antialias=True)
        x = torch.cat([self.x, x.round().clamp(0, 255).to(torch.uint8)])
        y, attribute = (torch.cat([getattr(data, name) for data in (self, other)]) for name in ("y", "attribute"))
        return replace(self, x=x, y=y, attribute=attribute)


def make(name: str, x: NDArray[np.uint8], y: NDArray[np.int64], simple: Mapping[str, Any]) -> Data:
    """`Data` of images x (n, c, h, w) and labels y (n,): drops exact duplicates, then computes the attribute."""
    kept = first_occurrences(x)
    duplicates = len(x) - len(kept)
    x, y = x[kept], y[kept]
    attribute = above_class_median(thickness(x), y)
    images, labels, attributes = (torch.from_numpy(array) for array in (x, y, attribute))
    return Data(name, images, labels, attributes, int(y.max()) + 1, simple, duplicates)


def first_occurrences(x: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Ascending indices of the images (n, c, h, w) that equal no earlier one.

    An image on both sides of a split would be a non-member that was trained on (RULES 1). Equal images with different
    labels count as equal: the first one's label stays.
    """
    rows = np.ascontiguousarray(x).reshape(len(x), -1)
    images = rows.view(np.dtype((np.void, rows.shape[1]))).ravel()
    return np.sort(np.unique(images, return_index=True)[1])
