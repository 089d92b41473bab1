"""Model stealing: how well does a copy that was trained on the target's answers agree with the target?"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.api import Predict, Samples
from benchmark.data.population import seed_of
from benchmark.judge import reports
from benchmark.judge.scenario import Measurements, Scenario, asked_parts, expect
from benchmark.networks.access import GuardedTarget
from benchmark.sandbox.remote import AnyBuilder
from benchmark.targets.served import ServedModel

_WORTH = 50
"""Images in a query from which on the answers are stored: each query is a file."""


class Kind(Scenario):
    """Labels of the copy on target-test, compared with the target's labels and with the true ones."""

    asks = ("shadow-train",)

    def judge(self, attack: Any) -> Measurements:
        # Known non-members lie in target-test, on which the copy is scored: it must know nothing of them (RULES 5).
        knowledge = replace(self._knowledge(), partial=None)
        builder = self.artifacts.builder(self.seed)
        queries, build = self._queries(), AnyBuilder(builder.setup, builder.seed)
        start = time.perf_counter()
        attack.fit(knowledge)
        predict = attack.answer(self.target, queries, build)
        seconds = time.perf_counter() - start
        self.target.close()  # so that the copy can't query the target at test time
        test = self.population.part("target-test")
        copy_answers = predict(test.x)
        expect(copy_answers, (len(test), self.population.data.classes), "answers of the copy")
        target_answers = self._model().answers("target-test")
        metrics, intervals = reports.stealing_metrics(
            copy_answers.argmax(1).numpy(),
            target_answers.argmax(1).numpy(),
            test.y.numpy(),
            np.random.default_rng(seed_of("bootstrap", self.seed)),
        )
        return Measurements(metrics, intervals, {"seconds": seconds})

    def _queries(self) -> Samples:
        """What the attack has images of: shadow-train, or members of the target that it knows, or both; or none."""
        needs, population = self.attack.entry.needs, self.population
        rows = [population.parts["shadow-train"]] if "shadow" in needs else []
        rows += [population.known(self.number)[0]] if "partial" in needs else []
        return population.samples(np.concatenate([np.zeros(0, np.int64), *rows]))

    def _target(self, role: str, *asked: str) -> GuardedTarget:
        """As of every attack; answers to images of the attack's own making are stored as well, for the copies to come."""
        model, entry = self._model(role), self.attack.entry
        known = model.known(*model.parts, *asked_parts(asked, entry))
        return GuardedTarget(entry.access, self._kept(model), known, lambda: self._network(model))  # type: ignore[arg-type]

    def _kept(self, model: ServedModel) -> Predict:
        """The model, whose answers are kept in the store up to the entry's share of it."""
        left = self.artifacts.isolation.limits.stored_mb << 20

        def ask(x: Tensor) -> Tensor:
            nonlocal left
            left -= 8 * len(x) * self.population.data.classes
            return model.answers_to(x) if left >= 0 and len(x) >= _WORTH else model.predictor()(x)

        return ask
