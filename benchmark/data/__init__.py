"""Data sets. `load` gives all samples of one; `splits` divides them into parts.

A file in `sources/`, or in `data/` of the user's project, is a data set (`source`); `intake` prepares it, and it is then
loaded by its name and view, ID/VIEW. What needs no preparing is in `loaders/ready.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pkgutil import iter_modules

from benchmark.data import loaders as sources
from benchmark.data.dataset import Data, DataError
from benchmark.data.loaders.prepared import prepared
from benchmark.data.synthetic import synthetic
from benchmark.errors import suggest

__all__ = ["NAMES", "SYNTHETIC", "Data", "DataError", "load", "names", "refresh"]

_SOURCES: dict[str, Callable[[], Data]] = {
    name: read
    for module in iter_modules(sources.__path__)
    for name, read in import_module(f"{sources.__name__}.{module.name}").SOURCES.items()
}
_SYNTHETIC = {
    "synthetic-2x1": partial(synthetic, "synthetic-2x1", classes=2, channels=1, each=180),
    "synthetic-100x3": partial(synthetic, "synthetic-100x3", classes=100, channels=3, each=55),
    "synthetic-noise": partial(synthetic, "synthetic-noise", classes=10, channels=1, each=72, learnable=False),
}
NAMES = tuple(_SOURCES)
SYNTHETIC = tuple(_SYNTHETIC)
"""Synthetic data sets, for the contract checks alone: messages do not offer them."""


@cache
def load(name: str) -> Data:
    """All samples of the data set `name`, without duplicates; loaded once a process.

    Raises DataError for an unknown name, and for data that can't be found or is damaged.
    """
    known = _SOURCES | _SYNTHETIC
    if name not in known:
        raise DataError(f"unknown data set {name!r}{suggest(name, NAMES)}")
    return known[name]()


def names() -> tuple[str, ...]:
    """The names that `load` knows now, the synthetic ones apart."""
    return tuple(_SOURCES)


def refresh() -> None:
    """See the data sets of the project as they are now: what was prepared, or which project it is, may have changed."""
    before, now = [name for name in _SOURCES if "/" in name], prepared()
    for name in before:
        del _SOURCES[name]
    _SOURCES.update(now)
    if before or now:  # what is ready stays loaded where nothing is prepared
        load.cache_clear()
