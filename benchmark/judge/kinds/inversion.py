"""Model inversion: what does a class of the training set look like?"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmark.judge import reports
from benchmark.judge.scenario import Measurements, Scenario, expect
from benchmark.result import Picture

_SHOWN = 10
"""How many classes the record keeps a picture of."""


class Kind(Scenario):
    """Reconstructions of the classes, compared with the classes' mean images and classified by the evaluator."""

    behind_guards = False
    evaluator = True

    def judge(self, attack: Any) -> Measurements:
        classes, shape = self.population.data.classes, self.population.data.shape
        knowledge = self._knowledge()
        start = time.perf_counter()
        attack.fit(knowledge)
        images = attack.answer(self.target, list(range(classes)))
        seconds = time.perf_counter() - start
        expect(images, (classes, *shape), "images")
        images = images.detach().to("cpu", torch.float32)
        if images.min() < 0 or images.max() > 1:
            raise ValueError(f"expected images in [0, 1], given {images.min():.4g} to {images.max():.4g}")
        train = self.population.part("target-train")
        means = torch.stack([train.x[train.y == c].mean(0) for c in range(classes)])
        baseline = self.artifacts.chain(self.artifacts.protocol.baseline).training
        evaluator = self.artifacts.network(baseline, self.seed, "evaluator").predictor()
        metrics = reports.inversion_metrics(images, means)
        metrics["evaluator_accuracy"] = float((evaluator(images).argmax(1) == torch.arange(classes)).double().mean())
        images_by_name = {"reconstructions": images, "class_means": means}
        pictures = {name: Picture.of(x[:_SHOWN].numpy()) for name, x in images_by_name.items()}
        return Measurements(metrics, {}, {"seconds": seconds}, pictures=pictures)
