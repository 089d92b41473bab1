"""Data sets: a module a source, in `sources/`. `load` gives all of a source's samples; `splits` cuts them into parts.

A source's module has `SOURCES`: functions () -> `Data` by name. A new file there is a new source.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pkgutil import iter_modules

from benchmark.data import sources
from benchmark.data.dataset import Data, DataError
from benchmark.data.synthetic import synthetic
from benchmark.errors import suggest

__all__ = ["NAMES", "SYNTHETIC", "Data", "DataError", "load"]

_SOURCES: dict[str, Callable[[], Data]] = {
    name: read
    for found in iter_modules(sources.__path__)
    for name, read in import_module(f"{sources.__name__}.{found.name}").SOURCES.items()
}
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
    known = _SOURCES | _MADE_UP
    if name not in known:
        raise DataError(f"unknown data set {name!r}{suggest(name, NAMES)}")
    return known[name]()
