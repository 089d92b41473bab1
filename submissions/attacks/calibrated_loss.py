"""Calibrated loss: how much smaller the target's loss is than that of models that never saw the sample.

An easy sample has a small loss under every model, member or not. The difference takes this difficulty out (Watson et
al. 2022).
"""

from torch import Tensor
from torch.nn import functional

from benchmark.api import Attack, Candidates, Card, References, Target, logit_margin


class CalibratedLoss(Attack):
    """Membership from posteriors and reference models of shadow data alone."""

    card = Card(
        title="Calibrated loss",
        authors=("Lauren Watson", "Chuan Guo", "Graham Cormode", "Alexandre Sablayrolles"),
        reference="On the Importance of Difficulty Calibration in Membership Inference, ICLR 2022, arXiv:2111.08440",
        year=2022,
    )
    access = "posterior"
    needs = frozenset({"references-offline"})
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log p_y minus its mean over the references (n,)."""
        assert references is not None
        # log p_y = logsigmoid(margin), which is finite even where p_y = 0.
        own = functional.logsigmoid(logit_margin(target.log_posteriors(candidates.x), candidates.y))
        return own - functional.logsigmoid(logit_margin(references.log_posteriors, candidates.y)).mean(0)
