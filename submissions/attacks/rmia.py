"""RMIA, online: how much likelier the label is under the target than under other models (Zarifzadeh et al. 2024).

r(x) = p(x | target) / p(x). p(x) is the mean of two means: over the reference models that were trained on x, and over
those that were not. So each side has half the weight, however many models it has; where one side has no models, the
other one's mean is taken. The paper's score is the share of population samples z with r(x) / r(z) > gamma. With one
query a sample it grows with r(x) alone: population and gamma add ties and move the threshold, not the ROC. Here r(x)
itself is the score, because reference models answer on the candidates alone; `rmia_offline` computes the share. The
authors' code takes a Taylor softmax with a soft margin, which needs logits, and votes over 18 views; here it is a
softmax and one view.
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
    """Membership from posteriors and reference models on random halves of the candidates' population."""

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
        """log p_y (..., n) of log-posteriors (..., n, k) at the temperature; by the margin, so finite where p_y = 0."""
        return functional.logsigmoid(logit_margin(log_posteriors / self.params.temperature, y))


def _log_mean(logs: Tensor, side: Tensor) -> Tensor:
    """Logarithm (n,) of the mean of exp(logs) (m, n) over the models where side (m, n) holds; -inf without any."""
    return logs.masked_fill(~side, float("-inf")).logsumexp(0) - side.sum(0).clamp_min(1).double().log()
