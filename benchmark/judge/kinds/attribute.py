"""Attribute inference: which attribute of a sample, besides its class, can be read from its embedding, or from an answer?"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Embeddings
from benchmark.data.population import Indices, seed_of
from benchmark.data.prepared import named_attribute
from benchmark.errors import printable
from benchmark.judge import reports
from benchmark.judge.scenario import Measurements, Scenario, asked_parts, expect
from benchmark.networks.access import GuardedTarget, exact_float32

_READ = ("target", "untrained", "posteriors", "predicted", "label")
"""What an attack may read of a sample (`AttributeAttack.embedding`)."""
_NULL = ("untrained", "label")
"""What uses nothing of the target."""


class Kind(Scenario):
    """Guesses of the attribute on target-test, from embeddings of the bare network or of an untrained one, from answers behind guards, or from class labels."""

    asks = ("shadow-train",)

    def judge(self, attack: Any) -> Measurements:
        if (embedding := attack.choice("embedding")) not in _READ:
            raise ValueError(f"expected an embedding of {', '.join(_READ)}, given {printable(embedding, 40)!r}")
        known, test = (self._embed(embedding, rows) for rows in (self._rows(), self.population.parts["target-test"]))
        # Known samples come as embeddings alone: their images would tell the attribute, and some lie in target-test.
        knowledge = replace(self._knowledge(embeddings=known if len(known.y) else None), partial=None)
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
        return Measurements(metrics, intervals, {"seconds": seconds}, null=embedding in _NULL or None)

    def _rows(self) -> Indices:
        """The samples whose attribute the attack knows: shadow-train, or members of the target that it knows, or both; or none."""
        needs, population = self.attack.entry.needs, self.population
        rows = [population.parts["shadow-train"]] if "shadow" in needs else []
        rows += [population.known(self.number)[0]] if "partial" in needs else []
        return np.concatenate([np.zeros(0, np.int64), *rows])

    def _embed(self, embedding: str, rows: Indices) -> Embeddings:
        """What the attack reads (n, d) of samples, with their labels and attributes.

        Raises PermissionError where it did not declare the access for that.
        """
        samples, name, data = self.population.samples(rows), self.artifacts.protocol.attribute, self.population.data
        attribute, values = (data.attribute, 2) if name is None else named_attribute(data, name)
        return Embeddings(
            self._read(embedding, samples.x, samples.y) if len(rows) else torch.zeros(0, 0),
            samples.y, attribute[torch.from_numpy(rows)], values,
        )  # fmt: skip

    def _read(self, embedding: str, x: Tensor, y: Tensor) -> Tensor:
        classes = self.population.data.classes
        if embedding == "posteriors":
            return self.target.log_posteriors(x).float()
        if embedding in ("predicted", "label"):
            labels = y if embedding == "label" else self.target.labels(x)
            return nn.functional.one_hot(labels, classes).float()
        network = self.target.white_box()  # the untrained one, too, reads what only the image tells
        return self._embeddings(network if embedding == "target" else self._untrained(), x)

    def _target(self, role: str, *asked: str) -> GuardedTarget:
        """As of every attack, with stored answers on the data that it learns from."""
        return super()._target(role, *asked_parts(asked, self.attack.entry))

    def _untrained(self) -> nn.Module:
        """A network of the target's architecture with random weights, always the same of a seed."""
        data, architecture = self.population.data, self.artifacts.protocol.architecture
        return networks.build(architecture, data.classes, data.shape, seed_of("untrained", self.seed)).eval()

    def _embeddings(self, network: nn.Module, images: Tensor) -> Tensor:
        network = network.to(self.artifacts.device)
        with torch.no_grad(), exact_float32():
            return torch.cat([network.embed(x.to(self.artifacts.device)).cpu() for x in images.split(500)])  # type: ignore[operator]
