"""Model stealing: how well does a copy that was trained on the model's answers agree with it, on images that it was not asked about?

The attacker has a part of the non-members, drawn by the seed. The null is trained on the same images and their true labels, asks
nothing, and is else trained alike. Agreement is measured on the other non-members, as the judge measures it (`judge.kinds.stealing`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Knowledge, Samples
from benchmark.data.population import seed_of
from benchmark.entries.registry import Part
from benchmark.judge import reports
from benchmark.judge.scenario import expect
from benchmark.networks.access import GuardedTarget
from benchmark.run.audit.kinds.base import CPU, Kind, Outcome, percent, points
from benchmark.run.audit.predictions import Ints
from benchmark.run.audit.report import OtherAttack
from benchmark.sandbox.local import Attacker
from benchmark.sandbox.remote import AnyBuilder, Setup
from benchmark.targets.store import Tensors

COPY = "small_cnn"
"""The network of a copy: attackers don't know the model's, and this one trains in seconds."""
_STEP = 3
"""A step of training on an image, in forward passes."""
_STEPS, _BATCH = 300, 64
"""Steps of training that an attacker takes at least, where the budget pays them: of few images more epochs. A step takes a batch."""
_FEWEST = 10
"""Images that the attacker has at least."""


class Stealing(Kind):
    """Labels of the copy on images that nobody asked about, compared with the model's and with the true ones."""

    name = "stealing"
    title = "model stealing"
    metric = "agreement"

    def unmet(self) -> str:
        if self.released == "weights":
            return "the weights are released, and with them the model itself"
        least = networks.about(COPY).least
        if min(self.model.shape[1:]) < least:
            return f"a copy ({COPY}) needs images of at least {least}x{least} pixels"
        if len(self._rows[0]) < _FEWEST:
            return f"--queries {self.live.queries:,} leaves the attacker {len(self._rows[0])} images"
        return ""

    @cached_property
    def listed(self) -> list[tuple[Part, bool]]:
        """Those of the pool, each of which trains for as many epochs as `_STEPS` ask for and the budget pays."""
        count = max(1, len(self._rows[0]))
        wanted, paid = math.ceil(_STEPS / math.ceil(count / _BATCH)), (self.live.queries // count - 1) // _STEP

        def longer(part: Part) -> Part:
            epochs = max(_epochs(part), min(wanted, paid))
            return replace(part, params=part.params.model_copy(update={"epochs": epochs}))

        return [(longer(part), null) for part, null in self.pool()]

    @cached_property
    def _rows(self) -> tuple[Ints, Ints]:
        """The non-members that the attacker has, at most a half of them and so many as its budget pays, and the others."""
        each = 1 + _STEP * max((_epochs(part) for part, _ in self.pool()), default=0)
        order = self.others("stealing")
        count = min(len(order) // 2, self.live.queries // each)
        return order[:count], order[count:]

    def counts(self) -> tuple[int, int]:
        known, test = self._rows
        return len(known), len(test)

    def passes(self, part: Part) -> tuple[int, int]:
        known = len(self._rows[0])
        asks = 0 if part.entry.card and part.entry.card.null else known
        return asks, _STEP * _epochs(part) * known

    def made_from(self) -> list[Any]:
        return [*(rows.tolist() for rows in self._rows), COPY, networks.code(COPY)]

    def strata(self) -> Ints:
        return np.zeros(len(self._rows[1]), np.int64)

    def work(self, part: Part) -> Tensors:
        known, test = (self.bench.samples(rows) for rows in self._rows)
        target = self.target(part)
        knowledge = self.knowledge(part, target, auxiliary=known)
        setup = Setup(COPY, self.model.classes, self.model.shape, dict(knowledge.simple), CPU)
        build = AnyBuilder(setup, seed_of("copy", self.seed))
        labels = labels_of_copy(part, target, knowledge, known, build, test.x)
        return {"labels": labels, "queries": torch.tensor(target.queries)}

    def measure(self, part: Part, made: Tensors) -> Outcome:
        test, copied = self._rows[1], made["labels"].numpy()
        answered = self.bench.given.log_posteriors[test].argmax(1)
        rng = np.random.default_rng(seed_of("bootstrap", self.seed))
        metrics, intervals = reports.stealing_metrics(copied, answered, self.images.y[test], rng)
        return Outcome(metrics, intervals, copied == answered, int(made["queries"]))

    def found(self, best: OtherAttack, null: OtherAttack) -> str:
        assert best.gain is not None
        known, other = (a.metrics[self.metric].value for a in (best, null))
        count = self.counts()[0]
        said = (
            f"a copy that was trained on the model's answers to {count:,} images agrees with it on {percent(known)} of others, one of "
            f"the same images that asked nothing on {percent(other)}"
        )
        if best.gain.low > 0:
            return f"Asking helps to copy the model: {said}. Asking gains {points(best.gain)}."
        return (
            f"Asking does not help to copy the model by more than chance: {said}, a difference of {points(best.gain)}."
        )


def _epochs(part: Part) -> int:
    return int(part.params.epochs)  # type: ignore[attr-defined]


def labels_of_copy(
    part: Part,
    target: GuardedTarget,
    knowledge: Knowledge,
    queries: Samples,
    build: Callable[..., nn.Module],
    x: Tensor,
) -> Tensor:
    """Labels (n,) int64 of the copy on images x (n, c, h, w). It must do without the target, which is closed."""
    attacker = Attacker(part.create(), CPU)
    attacker.fit(knowledge)
    predict = attacker.answer(target, queries, build)
    target.close()
    answers = predict(x)
    expect(answers, (len(x), knowledge.classes), "answers of the copy")
    labels: Tensor = answers.argmax(1)
    return labels
