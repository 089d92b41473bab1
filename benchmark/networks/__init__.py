"""Networks for small images: one module for each family, in `families/`. All are `Network`s: `forward(x)` is `head(embed(x))`.

A family's module has `NETWORKS`: builders (classes, (c, h, w)) -> `Network` by name. A new file there is a new family.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import torch

from benchmark.api.network import Network
from benchmark.digests import code_of, libraries_of
from benchmark.errors import UserError, suggest
from benchmark.networks import families

__all__ = ["NAMES", "Network", "UnknownArchitecture", "build", "code", "libraries"]

Builder = Callable[[int, tuple[int, int, int]], Network]


def _builders() -> dict[str, Builder]:
    modules = (import_module(f"{families.__name__}.{module.name}") for module in iter_modules(families.__path__))
    return {name: builder for module in modules for name, builder in module.NETWORKS.items()}


_BUILDERS = _builders()
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
    builder = _builder(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerators
        return builder(classes, shape)


def code(name: str) -> str:
    """Digest of the code that builds this architecture, for keys: other architectures do not count. Raises UnknownArchitecture."""
    return code_of(_root(name))


def libraries(name: str) -> list[str]:
    """The packages besides PyTorch that build this architecture. Raises UnknownArchitecture."""
    return sorted(libraries_of(_root(name)))


def _root(name: str) -> str:
    """Where `code_of` starts from."""
    builder = _builder(name)
    return f"{builder.__module__.partition('.')[2]}:{builder.__name__}"


def _builder(name: str) -> Builder:
    if name not in _BUILDERS:
        raise UnknownArchitecture(name)
    return _BUILDERS[name]
