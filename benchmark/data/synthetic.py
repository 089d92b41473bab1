"""Synthetic images for the contract checks, with numbers of classes and channels that the real sources don't have.

Each class has a random pattern; an image is the mean of its class's pattern and its own noise. That is easy to learn, and
no two images are equal. All bytes come from PCG64's raw stream by integer arithmetic, so that the digests that protocols
pin hold on every machine and every version of NumPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dataset import Data, make

SIDE = 8
"""Pixels a side, as the digits have. So small that a network trains in a second."""


def synthetic(name: str, classes: int, channels: int, each: int, *, learnable: bool = True) -> Data:
    """`each` images (channels, 8, 8) of every class, the classes in turn.

    Where they are not `learnable`, each image has the pattern of a random class. Labels and images are then independent,
    and a network can only be right by memorising.
    """
    n = classes * each
    rng = np.random.PCG64(classes * 10 + channels)
    y = np.arange(n, dtype=np.int64) % classes
    pattern_of = y if learnable else (rng.random_raw(n) % classes).astype(np.int64)
    patterns = _bytes(rng, (classes, channels, SIDE, SIDE)).astype(np.uint16)
    x = (patterns[pattern_of] + _bytes(rng, (n, channels, SIDE, SIDE))) // 2
    return make(name, x.astype(np.uint8), y, {"pad": 1, "flip": False})


def _bytes(rng: np.random.PCG64, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    words = rng.random_raw(-(-int(np.prod(shape)) // 8)).astype("<u8")
    return words.view(np.uint8)[: np.prod(shape)].reshape(shape)
