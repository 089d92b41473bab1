"""Kinds of attack, one module each. A module is named after the task, and its class `Kind` is the `Scenario`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from benchmark.entries.registry import Chain, Part
from benchmark.judge.scenario import Scenario
from benchmark.targets.artifacts import Artifacts

KINDS: dict[str, type[Scenario]] = {
    module.name: import_module(f"{__name__}.{module.name}").Kind for module in iter_modules(__path__)
}
"""By the `task` of an attack's base class, which is the module's name. A new file here is a new kind."""


def scenario(artifacts: Artifacts, attack: Part, chain: Chain, seed: int) -> Scenario:
    """The scenario of an attack on a defense, of the attack's kind."""
    return KINDS[attack.entry.task](artifacts, attack, chain, seed)
