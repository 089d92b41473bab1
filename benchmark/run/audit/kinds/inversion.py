"""Model inversion: what does a class of the training data look like, by the model's weights?

Judged as the judge does it (`judge.kinds.inversion`): two classifiers that were trained on non-members, with other networks than the
model's and no image in common with each other or with the attacker, say which class an image shows (Ho et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Predict, Samples, certain, train_copy
from benchmark.api.terms import Make
from benchmark.data.population import seed_of
from benchmark.entries.registry import Part
from benchmark.judge import reports
from benchmark.judge.kinds.inversion import checked_images
from benchmark.networks.access import raw
from benchmark.run.audit.attacks import KNOWN_MOST
from benchmark.run.audit.kinds.base import CPU, Kind, Outcome, points
from benchmark.run.audit.predictions import Ints
from benchmark.run.audit.report import OtherAttack
from benchmark.targets.store import Tensors, digest

EVALUATORS = ("simple_cnn", "small_cnn", "mlp")
"""Networks of the classifiers: the first two that are not the model's."""
EPOCHS, RATE = 30, 0.05
"""The training of a classifier: SGD, by a cosine schedule from this rate."""
_GRADIENT, _CRITIC = 3, 8
"""What a step of a gradient on an image, and a step of a generator's training, cost in forward passes, about."""
_FEWEST = 10
"""Images that the attacker, and each classifier, have at least."""


class Inversion(Kind):
    """Images of classes, which two classifiers are asked about, beside images that the model had no part in."""

    name = "inversion"
    title = "model inversion"
    metric = "both_evaluators"

    def unmet(self) -> str:
        if self.model.copy is None:
            return self.model.no_copy
        if any(min(self.model.shape[1:]) < networks.about(name).least for name in self._judges):
            return "the images are too small for the classifiers that judge"
        if min(map(len, self._rows)) < _FEWEST:
            return f"needs {4 * _FEWEST} non-members"
        if not len(self._classes):
            return f"--queries {self.live.queries:,} pays for no class"
        return ""

    @cached_property
    def _rows(self) -> tuple[Ints, Ints, Ints]:
        """The non-members that the attacker has, a half at most, and those of the two classifiers."""
        order = self.others("inversion")
        known, rest = order[: len(order) // 2][:KNOWN_MOST], order[len(order) // 2 :]
        return known, rest[: len(rest) // 2], rest[len(rest) // 2 :]

    @cached_property
    def _classes(self) -> Ints:
        """The classes that are asked for, ascending: all, or as many drawn ones as the budget pays."""
        each = max((_steps(part) for part, _ in self.listed), default=1)
        drawn = np.random.default_rng(seed_of("classes asked", self.seed)).permutation(self.model.classes)
        return np.sort(drawn[: self.live.queries // (_GRADIENT * each)])

    @property
    def _judges(self) -> list[str]:
        return [name for name in EVALUATORS if name != self.model.name][:2]

    def counts(self) -> tuple[int, int]:
        return len(self._rows[0]), len(self._classes)

    def passes(self, part: Part) -> tuple[int, int]:
        null = {p.name: n for p, n in self.listed}[part.name]
        asks = 0 if null else _GRADIENT * _steps(part) * len(self._classes)
        generator = _CRITIC * getattr(part.params, "epochs", 0) * len(self._rows[0])
        judges = _GRADIENT * EPOCHS * sum(map(len, self._rows[1:])) if part.name == self.listed[0][0].name else 0
        return asks, generator + judges

    def made_from(self) -> list[Any]:
        return [self._rows[0].tolist(), self._classes.tolist()]

    def strata(self) -> Ints:
        return np.zeros(len(self._classes), np.int64)

    def work(self, part: Part) -> Tensors:
        attacker, target = self.model.attacker(part), self.target(part)
        known = self.bench.samples(self._rows[0])
        receives = part.entry.receives("auxiliary")
        try:
            attacker.fit(
                self.knowledge(part, target, auxiliary=known if receives else None, artifact=self._artifact(part))
            )
            answer = attacker.answer(target, self._classes.tolist())
        finally:
            attacker.close()
        images = checked_images(answer, len(self._classes), self.model.shape)
        return {"images": images[:, 0].contiguous(), "queries": torch.tensor(target.queries)}

    def _artifact(self, part: Part) -> Callable[[str, Make], Tensors]:
        """`Knowledge.artifact`: what an attack's file makes of its images alone, once for all its rows and for later calls."""

        def artifact(name: str, make: Make) -> Tensors:
            stream = seed_of("artifact", name, self.seed)
            key = digest(
                "audit artifact", part.entry.id, part.entry.source, name, self.live.data, self._rows[0].tolist(), stream,
                f"torch {torch.__version__}",
            )  # fmt: skip
            return self._once(key, lambda: make(torch.Generator().manual_seed(stream)))

        return artifact

    @cached_property
    def _made(self) -> dict[str, Tensors]:
        return {}

    def _once(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        if key not in self._made:
            self._made[key] = self.live.store.get("audit", key, make) if self.live.store else make()
        return self._made[key]

    # --- The classifiers that judge ---

    @cached_property
    def _evaluators(self) -> list[Predict]:
        return [self._evaluator(name, rows) for name, rows in zip(self._judges, self._rows[1:], strict=True)]

    def _evaluator(self, name: str, rows: Ints) -> Predict:
        """A classifier of this network, which has learnt these non-members."""
        network: nn.Module = networks.build(
            name, self.model.classes, self.model.shape, seed_of("evaluator", name, self.seed)
        )

        def make() -> Tensors:
            samples = self.bench.samples(rows)
            trained = train_copy(
                network, samples.x, certain(samples.y, self.model.classes), loss="cross-entropy", epochs=EPOCHS,
                learning_rate=RATE, schedule="cosine",
                generator=torch.Generator().manual_seed(seed_of("evaluator order", name, self.seed)),
            )  # fmt: skip
            return dict(trained.state_dict())

        key = digest(
            "audit evaluator", name, networks.code(name), self.live.data, rows.tolist(), self.seed, EPOCHS, RATE,
            f"torch {torch.__version__}",
        )  # fmt: skip
        network.load_state_dict(self._once(key, make))
        return raw(network, CPU)

    def measure(self, part: Part, made: Tensors) -> Outcome:
        images, y = made["images"], torch.from_numpy(self._classes)
        train = self.bench.samples(np.flatnonzero(self.images.members))
        others = self.bench.samples(np.concatenate(self._rows[1:]))
        answers = [predict(images).numpy() for predict in self._evaluators]
        metrics = self._distances(images, y, train) | reports.recognised(answers[0], answers[1], y.numpy())
        metrics |= {"both_evaluators_members": self._on_members}
        metrics |= reports.nearest_metrics(images, y, train, others)[0]
        hits = np.all([answer.argmax(1) == y.numpy() for answer in answers], axis=0)
        return Outcome(metrics, {}, hits, int(made["queries"]))

    @staticmethod
    def _distances(images: Tensor, y: Tensor, train: Samples) -> dict[str, float]:
        """Distances to the mean image of each class; none where the members have none of these classes."""
        means = torch.stack([train.x[train.y == c].mean(0) for c in y.tolist()])
        known = means.flatten(1).isfinite().all(1)
        return reports.inversion_metrics(images[known], means[known]) if known.any() else {}

    @cached_property
    def _on_members(self) -> float:
        """How often both classifiers give members their class."""
        train = self.bench.samples(np.flatnonzero(self.images.members))
        right = [predict(train.x).argmax(1) == train.y for predict in self._evaluators]
        return float((right[0] & right[1]).double().mean())

    def found(self, best: OtherAttack, null: OtherAttack) -> str:
        assert best.gain is not None
        count = len(self._classes)
        mine, other = (round(a.metrics[self.metric].value * count) for a in (best, null))
        said = (
            f"two classifiers recognise {mine} of {count} classes in what {best.name} makes of the weights, and {other} in what {null.name} "
            f"makes without; of the members themselves they recognise {self._on_members:.1%}"
        )
        if best.gain.low > 0:
            return f"Classes can be reconstructed from the weights: {said}. The attack gains {points(best.gain)}."
        return f"Classes cannot be reconstructed from the weights better than without: {said}, a difference of {points(best.gain)}."


def _steps(part: Part) -> int:
    """Steps of a gradient that an attack takes for each class."""
    return int(getattr(part.params, "steps", 0) * getattr(part.params, "starts", 1))
