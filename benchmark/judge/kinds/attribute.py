"""Attribute inference: which attribute of a sample, besides its class, can be read from its embedding?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Embeddings
from benchmark.data.population import seed_of
from benchmark.data.prepared import named_attribute
from benchmark.errors import printable
from benchmark.judge import reports
from benchmark.judge.scenario import Measurements, Scenario, expect
from benchmark.networks.access import exact_float32


class Kind(Scenario):
    """Guesses of the attribute on target-test, from embeddings of the bare network or of an untrained one, or from class labels."""

    behind_guards = False

    def judge(self, attack: Any) -> Measurements:
        if (embedding := attack.choice("embedding")) not in ("target", "untrained", "label"):
            raise ValueError(f"expected an embedding of target, untrained or label, given {printable(embedding, 40)!r}")
        shadow, test = (self._embed(embedding, p) for p in ("shadow-train", "target-test"))
        knowledge = self._knowledge(embeddings=shadow if self.attack.entry.receives("embeddings") else None)
        start = time.perf_counter()
        attack.fit(knowledge)
        guess = attack.answer(test.x)
        seconds = time.perf_counter() - start
        expect(guess, (len(test.y),), "attribute labels")
        if outside := int(((guess < 0) | (guess >= test.values) | (guess != guess.long())).sum()):
            raise ValueError(f"expected attribute labels from 0 to {test.values - 1}, given {outside} others")
        metrics, intervals = reports.attribute_metrics(
            guess.cpu().long().numpy(), test.attribute.numpy(), np.random.default_rng(seed_of("bootstrap", self.seed))
        )
        return Measurements(metrics, intervals, {"seconds": seconds}, null=embedding != "target" or None)

    def _embed(self, embedding: str, part: str) -> Embeddings:
        """Embeddings (n, d) of a part, with labels and attributes."""
        samples, name, data = self.population.part(part), self.artifacts.protocol.attribute, self.population.data
        attribute, values = (data.attribute, 2) if name is None else named_attribute(data, name)
        if embedding == "label":
            x = nn.functional.one_hot(samples.y, data.classes).float()
        else:
            x = self._embeddings(self._network() if embedding == "target" else self._untrained(), samples.x)
        return Embeddings(x, samples.y, attribute[torch.from_numpy(self.population.parts[part])], values)

    def _untrained(self) -> nn.Module:
        """A network of the target's architecture with random weights, always the same of a seed."""
        data, architecture = self.population.data, self.artifacts.protocol.architecture
        return networks.build(architecture, data.classes, data.shape, seed_of("untrained", self.seed)).eval()

    def _embeddings(self, network: nn.Module, images: Tensor) -> Tensor:
        network = network.to(self.artifacts.device)
        with torch.no_grad(), exact_float32():
            return torch.cat([network.embed(x.to(self.artifacts.device)).cpu() for x in images.split(500)])  # type: ignore[operator]
