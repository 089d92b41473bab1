"""LiRA, online: a likelihood ratio against models trained with and without each sample.

Carlini et al. 2022, section V, algorithm 1, on the logit margin: a normal law for each sample and
side, centred on the mean. Where they are few, the paper's fixed variance (section VI-C) takes over.
With `views` every model is also asked about simply augmented views of each sample (section VI-C), each view
having laws of its own.
"""

import torch
from torch import Tensor

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    References,
    Target,
    logit_margin,
)

VARIANCE_FLOOR = 1e-6
"""Keeps the law of a sample finite to which all models give the same answer."""


class LiRA(Attack):
    """Membership from posteriors and reference models on halves of the candidates' population.

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
    needs = frozenset({"references-online"})
    calibrate = "own"

    class Params(Hyper):
        """Variances from each sample and side, or one fixed variance; auto: fixed where there are under 32 a side.

        views: how often each sample is asked about, once as it is.
        """

        variance: Literal["auto", "per-sample", "fixed"] = "auto"
        views: Annotated[int, Field(ge=1, le=64)] = 1

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the way to make views."""
        self.knowledge = knowledge

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log of the likelihood ratio of IN to OUT (n,), its mean over views; with fixed variance times the variance."""
        assert references is not None
        # Decided by how many there are in all: a model that plays the target, and its pair, are left out of their own references,
        # and every target of a row must meet the same attack. References that do not say are taken to lack a pair.
        few = (references.whole or len(references.members) + 2) // 2 < 32
        self.fixed = self.params.variance == "fixed" or (self.params.variance == "auto" and few)
        score = self._ratio(
            target.log_posteriors(candidates.x), references.log_posteriors, candidates.y, references.members
        )
        for x in self.knowledge.views(candidates.x, self.params.views - 1):
            score = score + self._ratio(target.log_posteriors(x), references.ask(x), candidates.y, references.members)
        return score / self.params.views

    def _ratio(self, answer: Tensor, answers: Tensor, y: Tensor, members: Tensor) -> Tensor:
        """The ratio (n,) of a target's answer (n, k) to the answers of reference models (m, n, k)."""
        own, margins = logit_margin(answer, y), logit_margin(answers, y)
        inside, outside = self._log_density(own, margins, members), self._log_density(own, margins, ~members)
        return torch.where(members.any(0) & ~members.all(0), inside - outside, 0.0)

    def _log_density(self, own: Tensor, margins: Tensor, side: Tensor) -> Tensor:
        """Log-density (n,), up to a constant, of own (n,) under the margins (m, n) of the models in side (m, n)."""
        count = side.sum(0)
        mean = torch.where(side, margins, 0.0).sum(0) / count.clamp_min(1)
        squares = (own - mean).square() / 2
        if self.fixed:
            # One variance for both sides, as in the released code, scales all scores alike: it is left out, and with
            # it the only statistic that would tie a sample's score to the other candidates.
            return -squares
        residuals = torch.where(side, margins - mean, 0.0)
        variance = (residuals.square().sum(0) / (count - 1).clamp_min(1)).clamp_min(VARIANCE_FLOOR)
        return -squares / variance - variance.log() / 2
