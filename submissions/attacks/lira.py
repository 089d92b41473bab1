"""LiRA, online: a likelihood ratio against models trained with and without each sample.

Carlini et al. 2022, section V, algorithm 1, on the logit margin: a normal law for each sample and
side, centred on the mean. Where the bank is small the paper's fixed variance (section VI-C) takes over.
"""

import torch
from torch import Tensor

from benchmark.api import Attack, Bank, Candidates, Card, Hyper, Literal, Target, logit_margin

VARIANCE_FLOOR = 1e-6
"""Keeps the law of a sample finite to which all models give the same answer."""


class LiRA(Attack):
    """Membership from posteriors and a bank of models on halves of the candidates' population.

    Score > 0 is the paper's ratio above 1. A sample that all models, or none, were trained on gets 0.
    """

    card = Card(
        title="LiRA, online",
        authors=(
            "Nicholas Carlini",
            "Steve Chien",
            "Milad Nasr",
            "Shuang Song",
            "Andreas Terzis",
            "Florian Tramer",
        ),
        reference="Membership Inference Attacks From First Principles, IEEE S&P 2022, arXiv:2112.03570",
        year=2022,
    )
    access = "posterior"
    needs = frozenset({"bank-online"})
    calibrate = "own"

    class Params(Hyper):
        """Variances from each sample and side, or one fixed variance; auto: fixed under 32 models a side."""

        variance: Literal["auto", "per-sample", "fixed"] = "auto"

    def score(self, target: Target, candidates: Candidates, bank: Bank | None) -> Tensor:
        """log of the likelihood ratio of IN to OUT (n,); with fixed variance in units of 1 / variance."""
        assert bank is not None
        own = logit_margin(target.log_posteriors(candidates.x), candidates.y)
        margins = logit_margin(bank.log_posteriors, candidates.y)
        inside, outside = self._log_density(own, margins, bank.members), self._log_density(own, margins, ~bank.members)
        known = bank.members.any(0) & ~bank.members.all(0)
        return torch.where(known, inside - outside, 0.0)

    def _log_density(self, own: Tensor, margins: Tensor, side: Tensor) -> Tensor:
        """Log-density (n,), up to a constant, of own (n,) under the margins (m, n) of the models in side (m, n)."""
        count = side.sum(0)
        mean = torch.where(side, margins, 0.0).sum(0) / count.clamp_min(1)
        squares = (own - mean).square() / 2
        # A bank of 64 has 32 a side, or 31 and 32 when one of its models plays the target.
        few = (len(margins) + 1) // 2 < 32
        if self.params.variance == "fixed" or (self.params.variance == "auto" and few):
            # One variance for both sides, as in the released code, scales all scores alike: it is left out, and with
            # it the only statistic that would tie a sample's score to the other candidates.
            return -squares
        residuals = torch.where(side, margins - mean, 0.0)
        variance = (residuals.square().sum(0) / (count - 1).clamp_min(1)).clamp_min(VARIANCE_FLOOR)
        return -squares / variance - variance.log() / 2
