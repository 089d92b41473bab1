"""Data sets: a module a source. `load` gives all of a source's samples; `splits` cuts them into parts."""

from __future__ import annotations

from functools import cache, partial

from benchmark.datasets import digits, fashion_mnist
from benchmark.datasets.data import Data, DataError
from benchmark.datasets.synthetic import synthetic
from benchmark.errors import suggest

__all__ = ["NAMES", "SYNTHETIC", "Data", "DataError", "load"]

_SOURCES = {"digits": digits.load, "fashion_mnist": fashion_mnist.load}
_MADE_UP = {
    "synthetic-2x1": partial(synthetic, "synthetic-2x1", classes=2, channels=1, each=180),
    "synthetic-100x3": partial(synthetic, "synthetic-100x3", classes=100, channels=3, each=55),
    "synthetic-noise": partial(synthetic, "synthetic-noise", classes=10, channels=1, each=72, learnable=False),
}
NAMES = tuple(_SOURCES)
SYNTHETIC = tuple(_MADE_UP)
"""For the contract checks alone; not offered to users."""


@cache
def load(name: str) -> Data:
    """All samples of the data set `name`, duplicates dropped; loaded once a process.

    Raises DataError for an unknown name, and for data that can't be had or is damaged.
    """
    sources = _SOURCES | _MADE_UP
    if name not in sources:
        raise DataError(f"unknown data set {name!r}{suggest(name, NAMES)}")
    return sources[name]()
