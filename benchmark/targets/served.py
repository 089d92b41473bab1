"""A model as it is asked: a network behind the guards of a defense, and its answers, from the store or made now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Context, Predict
from benchmark.data.population import digest_of, seed_of
from benchmark.digests import code_of
from benchmark.entries.registry import Part
from benchmark.networks.access import Answers, GuardedTarget, ask, check_log_posteriors
from benchmark.targets.experiment import world_of
from benchmark.targets.network import Network, training_code
from benchmark.targets.store import digest, tensor_digest

_TOGETHER = (("target-train", "target-test"), ("shadow-train", "shadow-test"))
"""Parts that a target is asked in one shuffle: a guard that counts its calls must not learn who was trained on."""


def serving_code() -> str:
    return code_of("targets.served:ServedModel", "networks.access:raw")


@dataclass(eq=False)
class Guard:
    """A guard in its place: `before` is its world's main network behind the guards that come before it."""

    part: Part
    before: ServedModel

    @cached_property
    def key(self) -> str:
        network = self.before.network
        experiment, world = network.experiment, world_of(network.role)
        stamp = experiment.stamp(network.seed, world)
        before = [[experiment.key(g.part), stamp] for g in self.before.guards]  # it is prepared behind their noise
        return digest("guard", experiment.key(self.part), before, network.key, world, training_code())

    def state(self) -> dict[str, Tensor]:
        """What it needs in its world, prepared on `before`."""
        network = self.before.network

        def make() -> dict[str, Tensor]:
            return network.defender(self.part).prepare(self.before.predictor(), network.task(self.part))

        return network.experiment.store.get("guard", self.key, make)


@dataclass(eq=False)
class ServedModel:
    """A network behind guards, innermost first; `before` is the same network behind all but the last of them."""

    network: Network
    guards: tuple[Guard, ...] = ()
    before: ServedModel | None = None

    def __post_init__(self) -> None:
        self.experiment, self.population, self.seed = (
            self.network.experiment,
            self.network.population,
            self.network.seed,
        )
        self.world = world_of(self.network.role)

    @cached_property
    def key(self) -> str:
        network, guards = self.network, [guard.key for guard in self.guards]
        place = network.group.index((network.role, network.number))
        return digest(
            "served", network.key, place, guards, self.experiment.stamp(self.seed, self.world) if guards else ""
        )

    def behind(self, guards: int) -> ServedModel:
        """The same network behind the first `guards` of its guards."""
        return self if self.before is None or guards >= len(self.guards) else self.before.behind(guards)

    def predictor(self, *, stored: bool = True, kept: bool = True) -> Predict:
        """As attacks ask it.

        With `kept` false, what guards remember from now on is kept for this job alone: they can't tell. With `stored`
        false nothing is known beforehand, and none remembers anything.
        """
        at_hand, predictors = (self, stored, kept), self.experiment.predictors
        if at_hand in predictors:
            return predictors[at_hand]
        classes = self.population.data.classes
        first = self._first() if stored and self.guards else self.network.predictor()
        predict = _checked(first, classes, self.network.training.name)
        for guard in self.guards:
            state = guard.state()
            context = self._context(guard.part, state, kept)
            if not stored:
                context = replace(context, remember=lambda name, x, make: make())
            served = self.network.defender(guard.part).guard(predict, state, context)
            predict = _checked(served, classes, guard.part.name)
        if self.network.role in ("target", "shadow"):  # the models of a bank are many, and each is asked once
            predictors[at_hand] = predict
        return predict

    def _first(self) -> Predict:
        """What the first guard asks: the network, and what it has said already as a target without guards."""
        parts = {"target": ("target-train", "target-test"), "shadow": ("shadow-train", "shadow-test")}
        known = self.behind(0).known(*parts.get(self.network.role, ("candidates",)))

        @lru_cache(maxsize=1)
        def served() -> Predict:
            return self.network.predictor()

        return GuardedTarget("posterior", lambda x: served()(x), known).log_posteriors

    def _context(self, part: Part, state: dict[str, Tensor], kept: bool = True) -> Context:
        experiment, stamp = self.experiment, self.experiment.stamp(self.seed, self.world)
        # What begins with _ only serves the answers: DIFFENCE's interval differs by network, its reconstructions don't.
        shared = [[name, tensor_digest(t)] for name, t in sorted(state.items()) if not name.startswith("_")]
        made_from = digest(experiment.source(part), shared)

        def remember(name: str, x: Tensor, make: object) -> Tensor:
            address = digest("derived", made_from, name, stamp, tensor_digest(x), experiment.environment)
            store = experiment.store if kept or experiment.store.has("derived", address) else experiment.throwaway
            return store.get("derived", address, lambda: {"value": make()})["value"]  # type: ignore[operator]

        return Context(experiment.noise_key(self.seed, self.world), experiment.device, remember)

    def answers(self, part: str) -> Tensor:
        """Log-posteriors (n, k) on a part, computed once for all attacks."""
        together = next((g for g in _TOGETHER if part in g), (part,))
        rows = {name: self.population.rows(name) for name in together}
        key = digest("answers", self.key, [[name, digest_of(each)] for name, each in rows.items()], serving_code())

        def make() -> dict[str, Tensor]:
            x = torch.cat([self.population.part(name).x for name in together])
            # In the same calls for all models: what guards remember of a call serves them all.
            rng = np.random.default_rng(seed_of("asked", self.seed, secret=self.experiment.secret))
            answered = ask(self.predictor(), x, rng).split([len(each) for each in rows.values()])
            return dict(zip(together, answered, strict=True))

        return self.experiment.store.get("answers", key, make)[part]

    def known(self, *parts: str) -> Answers:
        """The answers on these parts, by image."""
        known = Answers()
        for part in parts:
            known.add(self.population.part(part).x, self.answers(part))
        return known

    def asked(self, x: Tensor) -> Tensor:
        """Log-posteriors (n, k) on any images, computed once for all attacks."""
        key = digest("asked", self.key, tensor_digest(x), serving_code())
        return self.experiment.store.get("answers", key, lambda: {"value": self.predictor()(x)})["value"]


def _checked(predict: Predict, classes: int, who: str) -> Predict:
    return lambda x: check_log_posteriors(predict(x), len(x), classes, who)
