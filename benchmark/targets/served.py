"""A model as an attack queries it: a network behind guards. Its answers are read from the store or computed now."""

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
from benchmark.targets.experiment import NetworkId, owner_of
from benchmark.targets.network import Network, training_code
from benchmark.targets.store import digest, tensor_digest

_PARTS = {"target": ("target-train", "target-test"), "shadow": ("shadow-train", "shadow-test")}
"""By role, the parts with the members and the non-members.

Both are queried in one shuffle: a guard that counts its calls must not learn who is a member.
"""


def serving_code() -> str:
    """Digest of the code by which a model answers."""
    return code_of("targets.served:ServedModel", "networks.access:raw")


@dataclass(eq=False)
class Guard:
    """A guard at its place in a cascade, as it is prepared on one network: `before`, behind the guards that come first."""

    part: Part
    before: ServedModel

    @cached_property
    def key(self) -> str:
        """The store key of the guard's state."""
        main, experiment = self.before, self.before.experiment
        stamp = experiment.stamp(main.seed, main.owner)
        before = [[experiment.key(g.part), stamp] for g in main.guards]  # the stamp: their noise is in its answers
        network = main.network
        return digest(
            "guard", experiment.key(self.part), before, network.key, network.place, main.owner, training_code()
        )

    def state(self) -> dict[str, Tensor]:
        """The tensors that the guard has prepared on `before`."""
        network, part = self.before.network, self.part
        return network.experiment.store.get(
            "guard",
            self.key,
            lambda: network.defender(part).prepare(self.before.predictor(), network.training_of(part)),
        )


@dataclass(eq=False)
class ServedModel:
    """A network behind guards, innermost first. `before`: the same network behind all guards but the last.

    `role`: in which it answers (`experiment.NetworkId`).
    """

    network: Network
    role: str
    guards: tuple[Guard, ...] = ()
    before: ServedModel | None = None

    def __post_init__(self) -> None:
        network = self.network
        self.experiment, self.population, self.seed = network.experiment, network.population, network.seed
        self.owner, self.parts = owner_of(self.role, network.number), _PARTS.get(self.role, ("candidates",))

    @property
    def id(self) -> NetworkId:
        """Its role and number."""
        return self.role, self.network.number

    @cached_property
    def key(self) -> str:
        """What identifies the model in keys of its answers."""
        network, stamp = self.network, self.experiment.stamp(self.seed, self.owner) if self.guards else ""
        return digest("served", network.key, network.place, [guard.key for guard in self.guards], stamp)

    def behind(self, guards: int) -> ServedModel:
        """The same network behind the first `guards` of its guards."""
        return self if self.before is None or guards >= len(self.guards) else self.before.behind(guards)

    def predictor(self, *, stored: bool = True, kept: bool = True) -> Predict:
        """The predictor that attacks query: the network, or its stored answers, behind the guards.

        With `kept` false, what guards remember from now on is dropped after this job; they can't tell. With `stored`
        false no stored answer is used, and nothing is remembered.
        """
        cache_key, predictors = (self, stored, kept), self.experiment.predictors
        if cache_key in predictors:
            return predictors[cache_key]
        innermost = self._innermost() if stored and self.guards else self.network.predictor()
        predict = self._checked(innermost, self.network.training)
        for guard in self.guards:
            state = guard.state()
            context = self._context(guard.part, state, kept)
            if not stored:
                context = replace(context, remember=lambda name, x, make: make())
            predict = self._checked(self.network.defender(guard.part).guard(predict, state, context), guard.part)
        if self.role in ("target", "shadow"):  # reference models are many, and each is queried once
            predictors[cache_key] = predict
        return predict

    def _checked(self, predict: Predict, part: Part) -> Predict:
        """A predictor that raises ValueError, in the part's name, for answers that are no log-posteriors."""
        return lambda x: check_log_posteriors(predict(x), len(x), self.population.data.classes, part.name)

    def _innermost(self) -> Predict:
        """What the first guard asks: the network's stored answers, and the network itself for other images."""
        stored, predictor = self.behind(0).known(*self.parts), cache(self.network.predictor)
        return GuardedTarget("posterior", lambda x: predictor()(x), stored).log_posteriors

    def _context(self, part: Part, state: dict[str, Tensor], kept: bool = True) -> Context:
        """What the contract hands to a guard while it answers."""
        experiment, stamp = self.experiment, self.experiment.stamp(self.seed, self.owner)
        # A tensor whose name begins with _ does not affect what is remembered: DIFFENCE's interval differs by network,
        # its
        # reconstructions don't.
        shared_state = [[name, tensor_digest(t)] for name, t in sorted(state.items()) if not name.startswith("_")]
        made_from = digest(experiment.source(part), shared_state)

        def remember(name: str, x: Tensor, make: object) -> Tensor:
            key = digest("derived", made_from, name, stamp, tensor_digest(x), experiment.environment)
            store = experiment.store if kept or experiment.store.has("derived", key) else experiment.throwaway
            return store.get("derived", key, lambda: {"value": make()})["value"]  # type: ignore[operator]

        return Context(experiment.noise_key(self.seed, self.owner), experiment.device, remember)

    def answers(self, part: str) -> Tensor:
        """Log-posteriors (n, k) float64 on a part, computed once for all attacks."""
        together = next((parts for parts in _PARTS.values() if part in parts), (part,))
        rows = {name: self.population.rows(name) for name in together}
        key = digest("answers", self.key, [[name, digest_of(each)] for name, each in rows.items()], serving_code())

        def make() -> dict[str, Tensor]:
            x = torch.cat([self.population.part(name).x for name in together])
            # All models are queried in the same calls, so that what a guard remembers for a call serves all of them.
            rng = np.random.default_rng(seed_of("asked", self.seed, secret=self.experiment.secret))
            answers = ask(self.predictor(), x, rng).split([len(each) for each in rows.values()])
            return dict(zip(together, answers, strict=True))

        return self.experiment.store.get("answers", key, make)[part]

    def known(self, *parts: str) -> Answers:
        """The stored answers on these parts, to be looked up by image."""
        known = Answers()
        for part in parts:
            known.add(self.population.part(part).x, self.answers(part))
        return known

    def answers_to(self, x: Tensor) -> Tensor:
        """Log-posteriors (n, k) float64 on any images (n, c, h, w), computed once for all attacks."""
        key = digest("asked", self.key, tensor_digest(x), serving_code())
        return self.experiment.store.get("answers", key, lambda: {"value": self.predictor()(x)})["value"]
