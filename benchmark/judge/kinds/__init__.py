"""Kinds of attack: a module a kind, whose `Scenario` is found by the task that it names. A new file here is a new kind."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from benchmark.entries.registry import Chain, Part
from benchmark.judge.scenario import Scenario
from benchmark.targets.artifacts import Artifacts

KINDS: dict[str, type[Scenario]] = {
    found.name: import_module(f"{__name__}.{found.name}").Kind for found in iter_modules(__path__)
}
"""By the `task` of an attack's base class, which is the module's name."""


def scenario(artifacts: Artifacts, attack: Part, chain: Chain, seed: int) -> Scenario:
    """An attack on a defense, of the attack's own kind."""
    return KINDS[attack.entry.task](artifacts, attack, chain, seed)
