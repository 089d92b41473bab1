"""Model inversion: what does a class of the training set look like?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data.population import seed_of
from benchmark.judge import reports
from benchmark.judge.scenario import Measurements, Scenario, expect
from benchmark.metrics import Floats
from benchmark.networks.access import exact_float32
from benchmark.result import Picture
from benchmark.targets.experiment import EVALUATORS
from benchmark.targets.network import Network

_SHOWN = 10
"""How many classes the record keeps a picture of."""
IMAGES = 20
"""The most images of a class that an attack may return."""
_PUBLIC = ("digits", "fashion_mnist")
"""Data sets whose images a record may show: everybody has them, and nobody is seen in them."""


class Kind(Scenario):
    """Reconstructions of the classes, compared with the target's data and classified by two evaluators.

    An image that fools one classifier into a class often fools the next one, without looking like the class to anybody (Ho et al. 2025).
    So the two share nothing that could be fooled alike: neither has the target's architecture or samples of the target's or the attacker's
    training data, nor the architecture or the samples of the other. The second one stays the target's kind of data where the
    adversary has another data set.
    """

    behind_guards = False
    evaluator = True

    def judge(self, attack: Any) -> Measurements:
        classes, shape = self.population.data.classes, self.population.data.shape
        knowledge = self._knowledge()
        start = time.perf_counter()
        attack.fit(knowledge)
        answer = attack.answer(self.target, list(range(classes)))
        seconds = time.perf_counter() - start + self.spared
        several = checked_images(answer, classes, shape)
        y = torch.arange(classes).repeat_interleave(several.shape[1])
        images = several.flatten(0, 1)
        train, test = (self.population.part(part) for part in ("target-train", "target-test"))
        means = torch.stack([train.x[train.y == c].mean(0) for c in range(classes)])
        known = means[y].flatten(1).isfinite().all(1)  # a small training set may lack a class
        first, second = (self._evaluator(role) for role in EVALUATORS)
        ask = [network.predictor() for network in (first, second)]
        metrics = reports.inversion_metrics(images[known], means[y][known])
        metrics |= reports.recognised(ask[0](images).numpy(), ask[1](images).numpy(), y.numpy())
        real = [(predict(train.x).argmax(1) == train.y) for predict in ask]
        metrics["both_evaluators_members"] = float((real[0] & real[1]).double().mean())
        nearest_metrics, rows = reports.nearest_metrics(images, y, train, test)
        metrics |= nearest_metrics | self._by_features(first, images, y)
        by_name = {"reconstructions": several[:, 0], "class_means": means.nan_to_num()}
        rows = rows.view(classes, -1)[:, 0]
        if self._public and (rows >= 0).all():
            by_name["nearest_members"] = train.x[rows]
        pictures = {name: Picture.of(x[:_SHOWN].numpy()) for name, x in by_name.items()}
        return Measurements(
            metrics, {}, {"seconds": seconds}, pictures=pictures, null=None if self.target.asked else True
        )

    @property
    def _public(self) -> bool:
        """Whether the record may show members: of a public data set, on a split that everybody can draw."""
        return self.artifacts.protocol.dataset in _PUBLIC and self.artifacts.secret is None

    def _evaluator(self, role: str) -> Network:
        return self.artifacts.network(self.artifacts.chain(self.artifacts.protocol.baseline).training, self.seed, role)

    def _by_features(self, evaluator: Network, images: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics of the features that the evaluator's last layer reads; none where only the baseline's own code can build it."""
        network = evaluator.judge_copy()
        if network is None:
            return {}
        train, test = (self.population.part(part) for part in ("target-train", "target-test"))
        order = np.random.default_rng(seed_of("real images", self.seed)).permutation(len(test))
        each, per_class = test.y[order], len(images) // self.population.data.classes
        drawn = torch.cat([torch.from_numpy(order)[each == c][:per_class] for c in y.unique()])
        made, members, real = (self._features(network, x) for x in (images, train.x, test.x[drawn]))
        distance = reports.feature_distance(made, y.numpy(), members, train.y.numpy())
        return {
            "frechet_distance": reports.frechet_distance(made, members),
            "frechet_distance_null": reports.frechet_distance(real, members),
            **({"feature_distance": distance} if np.isfinite(distance) else {}),
        }

    def _features(self, network: Any, images: Tensor) -> Floats:
        device = self.artifacts.device
        network = network.to(device)
        with torch.no_grad(), exact_float32():
            parts = [network.embed(x.to(device)).double().cpu() for x in images.split(500)]
        features: Floats = torch.cat(parts).numpy()
        return features


def checked_images(answer: Any, classes: int, shape: tuple[int, int, int]) -> Tensor:
    """What an attack returned as images (classes, m, c, h, w) float32 on the CPU, m of each class.

    Raises ValueError unless they are finite, in [0, 1], of shape (classes, c, h, w) or (classes, m, c, h, w), and at most IMAGES a class.
    """
    several = isinstance(answer, Tensor) and answer.ndim == 5
    count = answer.shape[1] if several else 1
    if not 1 <= count <= IMAGES:
        raise ValueError(f"expected 1 to {IMAGES} images of each class, given {count}")
    expect(answer, (classes, count, *shape) if several else (classes, *shape), "images")
    images: Tensor = answer.detach().to("cpu", torch.float32).reshape(classes, count, *shape)
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"expected images in [0, 1], given {images.min():.4g} to {images.max():.4g}")
    return images
