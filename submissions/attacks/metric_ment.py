"""Modified entropy with class-wise thresholds (Song & Mittal 2021, section 3.2.2, equations 7 and 8).

ment = -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i) is small for members; the threshold of
each class is the one with the best balanced accuracy on the shadow world.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.api import Attack, Candidates, Card, Hyper, Knowledge, Literal, References, Target, best_thresholds

FLOOR = -1e3
"""Lower bound of logarithms: posteriors of exactly 0 stay finite. The logarithm of every positive float64 is larger."""


def log_modified_entropy(log_posteriors: Tensor, y: Tensor) -> Tensor:
    """log ment (n,) of log-posteriors (n, k) and labels (n,); accurate however close the posteriors are to 0 or 1."""
    top = log_posteriors.argmax(1, keepdim=True)
    others = log_posteriors.scatter(1, top, float("-inf")).logsumexp(1, keepdim=True)
    # Only the largest posterior can round to 1: log p and log(1 - p) are computed from the sum of the others.
    log_p = log_posteriors.scatter(1, top, torch.log1p(-others.exp())).clamp_min(FLOOR)
    log_rest = torch.log1p(-log_posteriors.exp().clamp_max(0.75)).scatter(1, top, others).clamp_min(FLOOR)
    true = functional.one_hot(y, log_p.shape[1]).bool()
    weight, surprise = torch.where(true, log_rest, log_p), torch.where(true, log_p, log_rest)
    return (weight + (-surprise).log()).logsumexp(1).clamp_min(FLOOR)


class MetricModifiedEntropy(Attack):
    """Membership from posteriors and the true label, thresholds from the shadow world."""

    card = Card(
        title="Metric-ment",
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
        signal = torch.cat([-log_modified_entropy(world.target.log_posteriors(p.x), p.y) for p in parts])
        y, member = torch.cat([p.y for p in parts]), torch.arange(len(signal)) < len(world.members)
        found = best_thresholds(signal, y, member, knowledge.classes)
        self.thresholds = found[:-1] if self.params.thresholds == "class-wise" else found[-1:].expand(knowledge.classes)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log threshold - log ment (n,): the sign decides as in the paper.

        A difference of logarithms, not of entropies: a member's entropy of 1e-40 would vanish beside the threshold.
        """
        log_ment = log_modified_entropy(target.log_posteriors(candidates.x), candidates.y)
        return -log_ment - self.thresholds[candidates.y]
