"""Entropy with class-wise thresholds (Song & Mittal 2021).

The entropy of a member's posteriors is small. The label serves only to choose the threshold.
"""

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, Knowledge, Literal, References, Target, best_thresholds

FLOOR = -1e3
"""Lower bound of logarithms: posteriors of exactly 0 stay finite. The logarithm of every positive float64 is larger."""


def log_entropy(log_posteriors: Tensor) -> Tensor:
    """Logarithm of the entropy (n,), in nats, of log-posteriors (n, k); accurate however close a posterior is to 1."""
    top = log_posteriors.argmax(1, keepdim=True)
    others = log_posteriors.scatter(1, top, float("-inf")).logsumexp(1, keepdim=True)
    # Only the largest posterior can round to 1: its logarithm is computed from the sum of the others.
    log_p = log_posteriors.scatter(1, top, torch.log1p(-others.exp())).clamp_min(FLOOR)
    return (log_p + (-log_p).log()).logsumexp(1).clamp_min(FLOOR)


class MetricEntropy(Attack):
    """Membership from posteriors, thresholds from the shadow world."""

    card = Card(
        title="Metric-ent",
        authors=("Liwei Song", "Prateek Mittal"),
        reference="Systematic Evaluation of Privacy Risks of ML Models, USENIX Security 2021, arXiv:2003.10595",
        year=2021,
    )
    access = "posterior"
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """One threshold for each class, or one for all."""

        thresholds: Literal["class-wise", "global"] = "class-wise"

    def fit(self, knowledge: Knowledge) -> None:
        """Find the thresholds on the shadow world."""
        world = knowledge.shadow
        assert world is not None
        parts = (world.members, world.nonmembers)
        signal = torch.cat([-log_entropy(world.target.log_posteriors(part.x)) for part in parts])
        y, member = torch.cat([part.y for part in parts]), torch.arange(len(signal)) < len(world.members)
        found = best_thresholds(signal, y, member, knowledge.classes)
        self.thresholds = found[:-1] if self.params.thresholds == "class-wise" else found[-1:].expand(knowledge.classes)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log threshold - log entropy (n,): the sign decides as in the paper.

        A difference of logarithms, not of entropies: a member's entropy of 1e-40 would vanish beside the threshold.
        """
        return -log_entropy(target.log_posteriors(candidates.x)) - self.thresholds[candidates.y]
