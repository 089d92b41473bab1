"""LiRA, online: a likelihood ratio against models trained with and without each sample.

Carlini et al. 2022, section V, algorithm 1, on the logit margin: one normal distribution for each sample and each side
(models trained on it, models not trained on it). With few models the paper's fixed variance (section VI-C) replaces the
variance of each sample. With `views` every model is also asked about augmented views of each sample (section VI-C);
each view has distributions of its own.
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
"""Keeps the density finite for a sample to which all models give the same answer."""


class LiRA(Attack):
    """Membership from posteriors and reference models that were trained on random halves of the candidates' population.

    A score above 0 is a likelihood ratio above 1. A sample that all models, or none, were trained on gets 0.
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
        """A variance for each sample and side, or one fixed variance; auto: fixed with under 32 models a side.

        views: queries for each sample: the sample itself and views - 1 augmented views.
        """

        variance: Literal["auto", "per-sample", "fixed"] = "auto"
        views: Annotated[int, Field(ge=1, le=64)] = 1

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the knowledge, which makes the views."""
        self.knowledge = knowledge

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Log-likelihood ratios of IN to OUT (n,), the mean over views; with fixed variance, times that variance."""
        assert references is not None
        few = len(references.members) // 2 < 32
        self.fixed = self.params.variance == "fixed" or (self.params.variance == "auto" and few)
        score = self._ratio(
            target.log_posteriors(candidates.x), references.log_posteriors, candidates.y, references.members
        )
        for x in self.knowledge.views(candidates.x, self.params.views - 1):
            score = score + self._ratio(target.log_posteriors(x), references.ask(x), candidates.y, references.members)
        return score / self.params.views

    def _ratio(self, answer: Tensor, answers: Tensor, y: Tensor, members: Tensor) -> Tensor:
        """Log-likelihood ratios (n,) of a target's log-posteriors (n, k), by those of reference models (m, n, k).

        y (n,): labels; members (m, n): which model was trained on which sample.
        """
        own, margins = logit_margin(answer, y), logit_margin(answers, y)
        inside, outside = self._log_density(own, margins, members), self._log_density(own, margins, ~members)
        return torch.where(members.any(0) & ~members.all(0), inside - outside, 0.0)

    def _log_density(self, own: Tensor, margins: Tensor, side: Tensor) -> Tensor:
        """Log-density (n,), up to a constant, of own (n,) by a normal law of the margins (m, n) in side (m, n)."""
        count = side.sum(0)
        mean = torch.where(side, margins, 0.0).sum(0) / count.clamp_min(1)
        squares = (own - mean).square() / 2
        if self.fixed:
            # One variance for both sides, as in the released code, scales all scores alike. It is left out: it is the
            # only statistic by which a sample's score would depend on the other candidates (RULES 14).
            return -squares
        residuals = torch.where(side, margins - mean, 0.0)
        variance = (residuals.square().sum(0) / (count - 1).clamp_min(1)).clamp_min(VARIANCE_FLOOR)
        return -squares / variance - variance.log() / 2
