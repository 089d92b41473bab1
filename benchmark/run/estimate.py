"""How many hours a protocol takes on one GPU, from FLOPs: an estimate before anything is trained or any data are here.

Training: networks x samples x epochs x 3 (a forward and a backward pass) x multiply-adds x 2. Hyperparameters that multiply a
defense's updates count: adversarial `steps`, sub-`models`, the views of `augmult`. Attacks: forward passes of the queries, and passes with
gradients where they read the network. What runs outside the network is not in it: MemGuard's search, perceptrons of attacks,
diffusion models, Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmark.data.standin import facts
from benchmark.entries.registry import Part, Registry
from benchmark.judge.kinds import KINDS
from benchmark.networks.cost import cost
from benchmark.protocol import Protocol
from benchmark.run.rehearsal import training_samples

SMALL, LARGE = 25e12, 200e12
"""FLOPs a second that training reaches on one H100 or H200 in bfloat16, about: with networks whose layers do not fill the GPU, and others."""
FILLS = 1_000_000_000
"""Multiply-adds of an image from which a network fills the GPU."""
PASSES = 3
"""A forward and a backward pass cost as much as so many forward passes."""


@dataclass(frozen=True)
class Estimate:
    """FLOPs of all seeds, numbers of networks and scenarios, samples of a training set, and multiply-adds of an image."""

    networks: int
    scenarios: int
    samples: int
    multiply_adds: int
    training: float
    attacks: float

    @property
    def throughput(self) -> float:
        """The FLOPs a second that are assumed."""
        return SMALL if self.multiply_adds < FILLS else LARGE

    def hours(self) -> tuple[float, float]:
        """Of training and of attacks."""
        return self.training / self.throughput / 3600, self.attacks / self.throughput / 3600


def estimate(protocol: Protocol, registry: Registry) -> Estimate:
    """Of a whole protocol, with nothing stored. Raises UserError where nothing is known of its data."""
    known, n = facts(protocol.dataset), training_samples(protocol)
    an_image = cost(protocol.architecture, known.classes, known.shape).multiply_adds
    attacks = [registry.attack(a) for a in protocol.attacks]
    chains = [registry.chain(d, protocol.baseline) for d in protocol.defenses]
    needs = {need for a in attacks for need in a.entry.needs}
    shadow = protocol.split.shadow_world and any(
        "shadow" in a.entry.needs or a.entry.calibrate == "shadow" for a in attacks
    )
    networks, passes = 0, 0.0
    for training in {c.training.name: c.training for c in chains}.values():
        sizes = protocol.references
        if protocol.costly and protocol.costly.references and training.entry.id in protocol.costly.defenses:
            sizes = protocol.costly.references
        references = sizes.online if "references-online" in needs else 0
        count = max(protocol.targets, 1 + references) + int(shadow)
        count += sizes.offline if "references-offline" in needs else 0
        recipe = protocol.recipe_of("target", training.axes, n)
        networks += count
        passes += count * n * recipe.epochs * PASSES * _updates(training)
    scored = 2 * (protocol.split.scored or round(n * (1 - protocol.split.known_fraction)))
    asked = sum(_queries(a, protocol, scored, n, known.classes) for a in attacks) * len(chains)
    if any(KINDS[a.entry.task].evaluator for a in attacks):
        networks += 2
    seeds, flops = len(protocol.seeds), 2.0 * an_image
    return Estimate(
        networks * seeds,
        len(chains) * (len(attacks) + 1) * seeds,
        n,
        an_image,
        passes * seeds * flops,
        asked * seeds * flops,
    )


def _value(part: Part, name: str, default: float) -> float:
    value: Any = getattr(part.params, name, default)
    return float(value) if type(value) in (int, float) else default


def _updates(training: Part) -> float:
    """How many updates' worth of passes one update of a defense takes."""
    models = _value(training, "models", 0)
    left = models * (1 - _value(training, "left_out", 0) / models) if models else 0.0
    return (1 + _value(training, "steps", 0)) * _value(training, "augmult", 1) + left


def _queries(attack: Part, protocol: Protocol, scored: int, n: int, classes: int) -> float:
    """Forward passes of an attack on one target, about."""
    if attack.entry.task == "stealing":
        images = min(n, _value(attack, "queries", n))
        # Rounds of choosing train copies of 1, 2, ... equal parts of the queries.
        copies = 1 if getattr(attack.params, "choose", "random") == "random" else (_value(attack, "rounds", 1) + 1) / 2
        return images * (1 + _value(attack, "epochs", 1) * PASSES * copies)
    if attack.entry.task == "inversion":
        return classes * _value(attack, "steps", 1) * PASSES
    few = protocol.label_only if attack.entry.access == "label" else None
    candidates = min(scored, few or scored)
    asks = max(_value(attack, name, 1) for name in ("queries", "copies", "views"))
    if attack.entry.access == "white-box" and attack.entry.task == "membership":
        asks = max(asks, 20 * _value(attack, "labels", 1)) * PASSES  # a search of 20 steps a label
    twice = 2 if attack.entry.calibrate == "shadow" and protocol.split.shadow_world else 1
    return candidates * asks * twice * protocol.targets
