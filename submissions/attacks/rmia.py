"""RMIA, online: how much likelier the label is under the target than under other models (Zarifzadeh et al. 2024).

r(x) = p(x | target) / p(x), where p(x) is the mean of two means: over the reference models that were trained on x, and
over those that were not. Each side has half the weight however many models it has; one without models leaves its own to
the other. The paper's score is the share of population samples z with r(x) / r(z) > gamma. With one query a sample that is
the law of r(z) at r(x) / gamma, so that it ranks as r(x) does, but for ties: the population and gamma don't
move the ROC. Here r(x) itself is the score, for reference models answer on the candidates alone; `rmia_offline`
computes the share. The authors' code scores by a Taylor softmax with a soft margin, which needs logits, and
votes over 18 views; here it is a softmax and one view.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    References,
    Search,
    Target,
    logit_margin,
)


class RMIA(Attack):
    """Membership from posteriors and reference models on halves of the candidates' population."""

    card = Card(
        title="RMIA, online",
        authors=("Sajjad Zarifzadeh", "Philippe Liu", "Reza Shokri"),
        reference="Low-Cost High-Power Membership Inference Attacks, ICML 2024, arXiv:2312.03262",
        year=2024,
    )
    access = "posterior"
    needs = frozenset({"references-online"})
    calibrate = "none"

    class Params(Hyper):
        """The softmax temperature: the authors' value for CIFAR-10; for CIFAR-100 they give 1."""

        temperature: Annotated[float, Field(gt=0), Search(0.5, 4.0, log=True)] = 2.0

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log r(x) (n,)."""
        assert references is not None
        theirs = self._log_confidence(references.log_posteriors, candidates.y)
        own = self._log_confidence(target.log_posteriors(candidates.x), candidates.y)
        sides = torch.stack([_log_mean(theirs, side) for side in (references.members, ~references.members)])
        return own - _log_mean(sides, sides.isfinite())

    def _log_confidence(self, log_posteriors: Tensor, y: Tensor) -> Tensor:
        """log p_y (..., n) at the temperature; the margin needs no normalisation, and it is finite where p_y = 0."""
        return functional.logsigmoid(logit_margin(log_posteriors / self.params.temperature, y))


def _log_mean(logs: Tensor, side: Tensor) -> Tensor:
    """log of the mean of exp(logs) (m, n) over a side (m, n) bool: (n,), -inf where the side is empty."""
    return logs.masked_fill(~side, float("-inf")).logsumexp(0) - side.sum(0).clamp_min(1).double().log()
