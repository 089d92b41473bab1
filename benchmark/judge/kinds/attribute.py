"""Attribute inference: which attribute of a sample, besides its class, can be read from its embedding?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark import networks
from benchmark.api import Embeddings
from benchmark.data.population import seed_of
from benchmark.errors import printable
from benchmark.judge import reports
from benchmark.judge.scenario import Measurements, Scenario, expect
from benchmark.networks.access import exact_float32


class Kind(Scenario):
    """Guesses of the attribute on target-test, from embeddings of the bare network or of an untrained one."""

    behind_guards = False

    def judge(self, attack: Any) -> Measurements:
        network = self._network()
        if (embedding := attack.choice("embedding")) not in ("target", "untrained"):
            raise ValueError(f"expected an embedding of target or untrained, given {printable(embedding, 40)!r}")
        if embedding == "untrained":
            data, architecture = self.population.data, self.artifacts.protocol.architecture
            network = networks.build(architecture, data.classes, data.shape, seed_of("untrained", self.seed)).eval()
        shadow, test = (self._embed(network, p) for p in ("shadow-train", "target-test"))
        knowledge = self._knowledge(embeddings=shadow if self.attack.entry.receives("embeddings") else None)
        start = time.perf_counter()
        attack.fit(knowledge)
        guess = attack.answer(test.x)
        seconds = time.perf_counter() - start
        expect(guess, (len(test.y),), "attribute labels")
        metrics, intervals = reports.attribute_metrics(
            guess.cpu().numpy(), test.attribute.numpy(), np.random.default_rng(seed_of("bootstrap", self.seed))
        )
        return Measurements(metrics, intervals, {"seconds": seconds}, null=embedding == "untrained" or None)

    def _embed(self, network: nn.Module, part: str) -> Embeddings:
        """Embeddings (n, d) of a part, with labels and attributes."""
        samples = self.population.part(part)
        network = network.to(self.artifacts.device)
        with torch.no_grad(), exact_float32():
            embeddings = [network.embed(x.to(self.artifacts.device)).cpu() for x in samples.x.split(500)]  # type: ignore[operator]
        rows = torch.from_numpy(self.population.parts[part])
        return Embeddings(torch.cat(embeddings), samples.y, self.population.data.attribute[rows])
