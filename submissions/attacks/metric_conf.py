"""Confidence with class-wise thresholds (Song & Mittal 2021).

A member's confidence in its label is large. It is compared on the logit scale, log(p / (1 - p)), which ranks as p does
and keeps its digits where p rounds to 1. With `of=prediction` it is the largest posterior, without the label, as in
DIFFENCE's table of attacks.
"""

import torch
from torch import Tensor

from benchmark.api import (
    Attack,
    Candidates,
    Card,
    Hyper,
    Knowledge,
    Literal,
    References,
    Target,
    best_thresholds,
    logit_margin,
)


class MetricConfidence(Attack):
    """Membership from posteriors and the true label, thresholds from the shadow world."""

    card = Card(
        title="Metric-conf",
        authors=("Liwei Song", "Prateek Mittal"),
        reference="Systematic Evaluation of Privacy Risks of ML Models, USENIX Security 2021, arXiv:2003.10595",
        year=2021,
    )
    access = "posterior"
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """One threshold for each class, or one for all; the posterior of the label, or the largest one."""

        thresholds: Literal["class-wise", "global"] = "class-wise"
        of: Literal["label", "prediction"] = "label"

    def fit(self, knowledge: Knowledge) -> None:
        """Find the thresholds on the shadow world."""
        world = knowledge.shadow
        assert world is not None
        parts = (world.members, world.nonmembers)
        signal = torch.cat([self._signal(world.target, part.x, part.y) for part in parts])
        y, member = torch.cat([part.y for part in parts]), torch.arange(len(signal)) < len(world.members)
        found = best_thresholds(signal, y, member, knowledge.classes)
        self.thresholds = found[:-1] if self.params.thresholds == "class-wise" else found[-1:].expand(knowledge.classes)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Logit of the confidence minus logit of the threshold (n,): the sign decides as in the paper."""
        return self._signal(target, candidates.x, candidates.y) - self.thresholds[candidates.y]

    def _signal(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        answer = target.log_posteriors(x)
        return logit_margin(answer, y if self.params.of == "label" else answer.argmax(1))
