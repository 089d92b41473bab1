"""A model as it is asked: a network behind the guards of a defense, and its answers, from the store or made now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

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

_PARTS = {"target": ("target-train", "target-test"), "shadow": ("shadow-train", "shadow-test")}
"""By role, members and non-members. They are asked in one shuffle: a guard that counts its calls must not learn who is who."""


def serving_code() -> str:
    return code_of("targets.served:ServedModel", "networks.access:raw")


@dataclass(eq=False)
class Guard:
    """A guard in its place: `before` is its world's main network behind the guards that come before it."""

    part: Part
    before: ServedModel

    @cached_property
    def key(self) -> str:
        main, experiment = self.before, self.before.experiment
        stamp = experiment.stamp(main.seed, main.world)
        before = [[experiment.key(g.part), stamp] for g in main.guards]  # it is prepared behind their noise
        return digest("guard", experiment.key(self.part), before, main.network.key, main.world, training_code())

    def state(self) -> dict[str, Tensor]:
        """What it needs in its world, prepared on `before`."""
        network, part = self.before.network, self.part
        return network.experiment.store.get(
            "guard",
            self.key,
            lambda: network.defender(part).prepare(self.before.predictor(), network.training_of(part)),
        )


@dataclass(eq=False)
class ServedModel:
    """A network behind guards, innermost first; `before` is the same network behind all but the last of them."""

    network: Network
    guards: tuple[Guard, ...] = ()
    before: ServedModel | None = None

    def __post_init__(self) -> None:
        network, role = self.network, self.network.role
        self.experiment, self.population, self.seed = network.experiment, network.population, network.seed
        self.world, self.parts = world_of(role), _PARTS.get(role, ("candidates",))

    @cached_property
    def key(self) -> str:
        network, stamp = self.network, self.experiment.stamp(self.seed, self.world) if self.guards else ""
        return digest("served", network.key, network.place, [guard.key for guard in self.guards], stamp)

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
        first = self._first() if stored and self.guards else self.network.predictor()
        predict = self._checked(first, self.network.training)
        for guard in self.guards:
            state = guard.state()
            context = self._context(guard.part, state, kept)
            if not stored:
                context = replace(context, remember=lambda name, x, make: make())
            predict = self._checked(self.network.defender(guard.part).guard(predict, state, context), guard.part)
        if self.network.role in ("target", "shadow"):  # the reference models are many, and each is asked once
            predictors[at_hand] = predict
        return predict

    def _checked(self, predict: Predict, who: Part) -> Predict:
        return lambda x: check_log_posteriors(predict(x), len(x), self.population.data.classes, who.name)

    def _first(self) -> Predict:
        """What the first guard asks: the network, and what it has said already as a target without guards."""
        known, predictor = self.behind(0).known(*self.parts), cache(self.network.predictor)
        return GuardedTarget("posterior", lambda x: predictor()(x), known).log_posteriors

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
        together = next((parts for parts in _PARTS.values() if part in parts), (part,))
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
