"""Model stealing: how near comes a copy that is trained on the target's answers?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.data.population import seed_of
from benchmark.judge import reports
from benchmark.judge.scenario import Outcome, Scenario, expect


class Kind(Scenario):
    """A copy's labels against the target's and the true ones."""

    asks = ("shadow-train",)

    def judge(self, attack: Any) -> Outcome:
        knowledge = self._knowledge()
        queries = self.population.part("shadow-train")
        start = time.perf_counter()
        attack.fit(knowledge)
        predict = attack.answer(self.target, queries, self.artifacts.builder(self.seed))
        seconds = time.perf_counter() - start
        if isinstance(predict, Tensor) or not callable(predict):
            raise ValueError(f"expected a network from steal, given {type(predict).__name__}")
        self.target.close()  # the copy answers for itself
        test = self.population.part("target-test")
        copy = predict(test.x)
        expect(copy, (len(test), self.population.data.classes), "the copy's answers")
        truth = self._model().answers("target-test")
        found, intervals = reports.stealing_metrics(
            copy.argmax(1).numpy(),
            truth.argmax(1).numpy(),
            test.y.numpy(),
            np.random.default_rng(seed_of("bootstrap", self.seed)),
        )
        return Outcome(found, intervals, {"seconds": seconds})
