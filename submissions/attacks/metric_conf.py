"""Confidence with class-wise thresholds (Song & Mittal 2021).

A member's confidence in its label is large. It is compared as log p / (1 - p), which ranks as p does and
keeps its digits where p rounds to 1. DIFFENCE's table of attacks leaves the label out: `of = "prediction"`.
"""

import torch
from torch import Tensor

from benchmark.api import Attack, Bank, Candidates, Card, Hyper, Knowledge, Literal, Target, logit_margin


def best_threshold(signal: Tensor, member: Tensor) -> Tensor:
    """The () at which "signal > threshold means member" has the best balanced accuracy on signal (n,), member (n,)."""
    signal, order = signal.sort(descending=True)
    found = member[order].double()
    gain = found.cumsum(0) / found.sum() - (1 - found).cumsum(0) / (1 - found).sum()
    below = torch.cat([signal[1:], signal[-1:]])
    gain[signal == below] = -1  # equal signals cannot be parted; the last row, which parts nothing, is one of them
    return ((signal + below) / 2)[gain.argmax()]


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
        """Find the thresholds on the shadow world; a class of members or non-members alone gets the global one."""
        world = knowledge.shadow
        assert world is not None
        parts = (world.members, world.nonmembers)
        signal = torch.cat([self._signal(world.target, part.x, part.y) for part in parts])
        y, member = torch.cat([part.y for part in parts]), torch.arange(len(signal)) < len(world.members)
        self.thresholds = best_threshold(signal, member).repeat(knowledge.classes)
        if self.params.thresholds == "class-wise":
            for c in range(knowledge.classes):
                rows = y == c
                if member[rows].any() and not member[rows].all():
                    self.thresholds[c] = best_threshold(signal[rows], member[rows])

    def score(self, target: Target, candidates: Candidates, bank: Bank | None) -> Tensor:
        """Logit of the confidence minus logit of the threshold (n,): the sign decides as in the paper."""
        return self._signal(target, candidates.x, candidates.y) - self.thresholds[candidates.y]

    def _signal(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        answer = target.log_posteriors(x)
        return logit_margin(answer, y if self.params.of == "label" else answer.argmax(1))
