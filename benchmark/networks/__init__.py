"""Networks: one module for each family, in `families/`. All are `Network`s: `forward(x)` is `head(embed(x))`.

A family's module has `NETWORKS`: an `Architecture` for each name, which builds it. A new file there is a new family. The
plain name is the network with a stem for small images; NAME_as_released is the one for ImageNet, as the library or the
paper's code has it. Files `networks/NAME.py` of the project are the user's own networks (`own.read`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

import torch

from benchmark import places
from benchmark.api.network import Network
from benchmark.digests import code_of, libraries_of
from benchmark.errors import UserError, suggest
from benchmark.networks import families, own
from benchmark.networks.architecture import Architecture

__all__ = [
    "NAMES", "PACKAGED", "Architecture", "Network", "UnknownArchitecture", "about", "broken", "build", "code", "discover", "libraries",
    "own_texts", "use",
]  # fmt: skip


def _builders() -> dict[str, Architecture]:
    modules = (import_module(f"{families.__name__}.{module.name}") for module in iter_modules(families.__path__))
    return {name: builder for module in modules for name, builder in module.NETWORKS.items()}


_BUILDERS = _builders()
NAMES = tuple(_BUILDERS)
PACKAGED = dict(_BUILDERS)
"""The package's own networks."""
own_texts: dict[str, str] = {}
"""The files of the user's own networks, by name: what another process needs to build them (`use`)."""
broken: dict[str, str] = {}
"""What is wrong with those of them that cannot be read, by name."""


class UnknownArchitecture(UserError, ValueError):
    """No architecture has this name; the message suggests one."""

    def __init__(self, name: str):
        super().__init__(f"unknown architecture {name!r}{suggest(name, NAMES)}")


def build(name: str, classes: int, shape: tuple[int, int, int], seed: int) -> Network:
    """A fresh float32 network in training mode, on the CPU, for images of shape (c, h, w).

    Its weights depend on the seed (64 bits) alone; the global random state stays as it was. Raises
    UnknownArchitecture, WrongShape for images that it does not take, and UserError for a user's own file that fails.
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


def about(name: str) -> Architecture:
    """Title, paper and least size of a network. Raises UnknownArchitecture."""
    return _builder(name)


def discover() -> None:
    """Know the networks of the project's folder as it is now, and no others beside the package's."""
    use(own.texts_in(places.networks()))


def use(texts: Mapping[str, str]) -> None:
    """Know these files, by name, as the user's own networks. None is run here; what cannot be read is in `broken`."""
    global NAMES
    for kept in (_BUILDERS, own_texts, broken):
        kept.clear()
    _BUILDERS.update(PACKAGED)
    for name, text in texts.items():
        try:
            if name in PACKAGED:
                raise UserError(f"{own.path_of(name)}: expected a name that no other network has, given {name!r}")
            _BUILDERS[name] = own.read(name, text)
            own_texts[name] = text
        except UserError as problem:
            broken[name] = str(problem)
    NAMES = tuple(_BUILDERS)


def _root(name: str) -> str:
    """Where `code_of` starts from."""
    builder = _builder(name)
    return f"{builder.__module__.partition('.')[2]}:{builder.__name__}"  # type: ignore[attr-defined]


def _builder(name: str) -> Architecture:
    if name not in _BUILDERS:
        raise UnknownArchitecture(name)
    return _BUILDERS[name]


discover()
