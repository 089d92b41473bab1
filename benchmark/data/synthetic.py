"""Made-up images for the contract checks: more or fewer classes and channels than the real sources have.

A class is a random pattern, an image half its class's pattern and half noise of its own: easy to learn,
and no two images are equal. Every byte comes from PCG64's raw stream and integer arithmetic, so that the
digests that protocols pin hold on every machine and every version of NumPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dataset import Data, make

SIDE = 8
"""Pixels a side, as the digits have: a network trains in a second."""


def synthetic(name: str, classes: int, channels: int, each: int, *, learnable: bool = True) -> Data:
    """`each` images (channels, 8, 8) of every class, the classes in turn.

    Where they are not `learnable`, the pattern is that of another class, drawn for each image: the labels
    say nothing of the images, and all that a network gets right about them it has memorised.
    """
    n = classes * each
    raw = np.random.PCG64(classes * 10 + channels)
    y = np.arange(n, dtype=np.int64) % classes
    shown = y if learnable else (raw.random_raw(n) % classes).astype(np.int64)
    patterns = _bytes(raw, (classes, channels, SIDE, SIDE)).astype(np.uint16)
    x = (patterns[shown] + _bytes(raw, (n, channels, SIDE, SIDE))) // 2
    return make(name, x.astype(np.uint8), y, {"pad": 1, "flip": False})


def _bytes(raw: np.random.PCG64, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    words = raw.random_raw(-(-int(np.prod(shape)) // 8)).astype("<u8")
    return words.view(np.uint8)[: np.prod(shape)].reshape(shape)
