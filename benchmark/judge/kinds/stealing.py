"""Model stealing: how well does a copy that was trained on the target's answers agree with the target?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmark.data.population import seed_of
from benchmark.judge import reports
from benchmark.judge.scenario import Measurements, Scenario, expect


class Kind(Scenario):
    """Labels of the copy on target-test, compared with the target's labels and with the true ones."""

    asks = ("shadow-train",)

    def judge(self, attack: Any) -> Measurements:
        knowledge = self._knowledge()
        queries = self.population.part("shadow-train")
        start = time.perf_counter()
        attack.fit(knowledge)
        predict = attack.answer(self.target, queries, self.artifacts.builder(self.seed))
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
