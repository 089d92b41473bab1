"""Data sets: a module a source. `load` gives all of a source's samples; `splits` cuts them into parts."""

from __future__ import annotations

from functools import cache

from benchmark.datasets import digits, fashion_mnist
from benchmark.datasets.data import Data, DataError
from benchmark.errors import suggest

__all__ = ["NAMES", "Data", "DataError", "load"]

_SOURCES = {"digits": digits.load, "fashion_mnist": fashion_mnist.load}
NAMES = tuple(_SOURCES)


@cache
def load(name: str) -> Data:
    """All samples of the data set `name`, duplicates dropped; loaded once a process.

    Raises DataError for an unknown name, and for data that can't be had or is damaged.
    """
    if name not in _SOURCES:
        raise DataError(f"unknown data set {name!r}{suggest(name, NAMES)}")
    return _SOURCES[name]()
