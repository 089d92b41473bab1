"""The prepared data sets of the project, by the names ID/VIEW."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmark.data.dataset import Data
from benchmark.data.prepared import found, load


def prepared() -> dict[str, Callable[[], Data]]:
    """Those that there are now."""
    return {name: partial(load, folder, name) for name, folder in found().items()}


SOURCES = prepared()
