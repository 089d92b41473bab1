"""Attribute inference: which attribute of a member, besides its class, can be read from what the model makes of its image?

The attacks learn on non-members whose attribute is known, and guess that of members. They read the embedding, the answer or the
label, as their access goes, and never the image. As the judge has it (`judge.kinds.attribute`), who learns on shadow data.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Embeddings
from benchmark.data.population import seed_of
from benchmark.entries.registry import Part
from benchmark.judge import reports
from benchmark.judge.scenario import expect
from benchmark.networks.access import CHUNK, GuardedTarget, exact_float32
from benchmark.run.audit.attacks import KNOWN_MOST
from benchmark.run.audit.kinds.base import CPU, Kind, Outcome, percent, points
from benchmark.run.audit.predictions import Ints
from benchmark.run.audit.report import OtherAttack
from benchmark.sandbox.local import Attacker
from benchmark.targets.store import Tensors, tensor_digest

VALUES = 100
"""Values of an attribute at most."""


class Attribute(Kind):
    """Guesses of the attribute of members, held against guesses without the model and by an untrained network."""

    name = "attribute"
    title = "attribute inference"
    metric = "attribute_balanced_accuracy"

    def unmet(self) -> str:
        if self.images.attribute is None:
            return "the images have no attribute"
        known, scored = (np.unique(self._truth(rows)).size for rows in self._rows)
        if min(known, scored) < 2:
            return f"the attribute has one value among {'non-members' if known < 2 else 'members'}"
        if self._values > VALUES:
            return f"the attribute has {self._values:,} values, more than {VALUES}"
        return ""

    @cached_property
    def _rows(self) -> tuple[Ints, Ints]:
        """The non-members whose attribute is known, and the members whose attribute is guessed: so many as the budget pays embeddings of."""
        members = np.random.default_rng(seed_of("attribute", self.seed)).permutation(
            np.flatnonzero(self.images.members)
        )
        known = self.others("attribute")[: min(KNOWN_MOST, self.live.queries // 2)]
        return known, members[: self.live.queries - len(known)]

    @property
    def _values(self) -> int:
        assert self.images.attribute is not None
        return int(self.images.attribute.max()) + 1

    def _truth(self, rows: Ints) -> Ints:
        assert self.images.attribute is not None
        found: Ints = self.images.attribute[rows]
        return found

    def counts(self) -> tuple[int, int]:
        known, scored = self._rows
        return len(known), len(scored)

    def lacking(self, part: Part) -> str:
        if part.entry.access != "white-box":
            return ""
        if self.model.copy is None:
            return self.model.no_copy
        if self.model.isolation is not None:
            return "reads embeddings, and a network that runs in a sandbox hands out none"
        return "" if self.model.embeds else "needs the input of a last linear layer, which this network does not show"

    def passes(self, part: Part) -> tuple[int, int]:
        return (sum(self.counts()) if part.entry.access == "white-box" else 0), 0

    def made_from(self) -> list[Any]:
        assert self.images.attribute is not None
        return [tensor_digest(torch.from_numpy(self.images.attribute)), *(rows.tolist() for rows in self._rows)]

    def strata(self) -> Ints:
        return self._truth(self._rows[1])

    def work(self, part: Part) -> Tensors:
        attacker, target = Attacker(part.create(), CPU), self.target(part)
        reads = attacker.choice("embedding")
        known, test = (self._embedded(reads, target, rows) for rows in self._rows)
        attacker.fit(self.knowledge(part, target, embeddings=known))
        guess = attacker.answer(test.x)
        expect(guess, (len(test.y),), "attribute labels")
        return {"guess": guess.cpu().long(), "queries": torch.tensor(target.queries)}

    def _embedded(self, reads: str, target: GuardedTarget, rows: Ints) -> Embeddings:
        """What an attack reads of records, with their labels and attributes."""
        samples = self.bench.samples(rows)
        x = self._read(reads, target, samples.x, samples.y)
        return Embeddings(x, samples.y, torch.from_numpy(self._truth(rows)), self._values)

    def _read(self, reads: str, target: GuardedTarget, x: Tensor, y: Tensor) -> Tensor:
        """Embeddings (n, d) float32 of images, or what stands for them (`AttributeAttack.embedding`)."""
        if reads == "posteriors":
            return target.log_posteriors(x).float()
        if reads in ("predicted", "label"):
            labels = y if reads == "label" else target.labels(x)
            return nn.functional.one_hot(labels, self.model.classes).float()
        network = target.white_box()
        if reads == "untrained":
            forget(network, seed_of("untrained", self.seed))
        with torch.no_grad(), exact_float32():
            return torch.cat([network.eval().embed(part) for part in x.split(CHUNK)])  # type: ignore[operator]

    def measure(self, part: Part, made: Tensors) -> Outcome:
        guess, truth = made["guess"].numpy(), self._truth(self._rows[1])
        rng = np.random.default_rng(seed_of("bootstrap", self.seed))
        metrics, intervals = reports.attribute_metrics(guess, truth, rng)
        return Outcome(metrics, intervals, guess == truth, int(made["queries"]))

    def found(self, best: OtherAttack, null: OtherAttack) -> str:
        assert best.gain is not None
        value, other = (percent(a.metrics[self.metric].value) for a in (best, null))
        said = f"{best.name} infers it of {value} of the members (mean over its values), {null.name}, which uses nothing that the model has learnt, of {other}"  # fmt: skip
        if best.gain.low > 0:
            return (
                f"What the model makes of a member tells its attribute: {said}. The attack gains {points(best.gain)}."
            )
        return f"What the model makes of a member does not tell its attribute better than a null: {said}, a difference of {points(best.gain)}."


def forget(network: nn.Module, seed: int) -> None:
    """Draw all weights of a network anew, as its layers draw them at first; those of no layer change their places."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in network.modules():
            if callable(draw := getattr(module, "reset_parameters", None)):
                draw()
                continue
            for weights in module.parameters(recurse=False):
                weights.copy_(weights.flatten()[torch.randperm(weights.numel())].view_as(weights))
