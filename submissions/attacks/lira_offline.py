"""LiRA, offline: how unusual the target's confidence is among models that never saw the sample.

Carlini et al. 2022, section V-C: the probability that a model not trained on the sample is less confident than the
target, by a normal distribution for each sample. The released code takes minus the log-density instead (`law=density`),
which also flags samples of unusually low confidence. With `views` every model is also asked about augmented views of
each sample (section VI-C); each view has a distribution of its own.
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

DEVIATION_FLOOR = 1e-3
"""Keeps the score finite for a sample to which all models give the same answer."""


class LiRAOffline(Attack):
    """Membership from posteriors and reference models of shadow data alone."""

    card = Card(
        title="LiRA, offline",
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
    needs = frozenset({"references-offline"})
    calibrate = "none"

    class Params(Hyper):
        """A standard deviation for each sample, or one for all (auto: one with fewer than 32 models); upper tail, or
        density.

        views: queries for each sample: the sample itself and views - 1 augmented views.
        """

        variance: Literal["auto", "per-sample", "fixed"] = "auto"
        law: Literal["tail", "density"] = "tail"
        views: Annotated[int, Field(ge=1, le=64)] = 1

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the knowledge, which makes the views."""
        self.knowledge = knowledge

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """-log(1 - Phi((margin - mean) / deviation)) (n,), or minus the log-density up to a constant; the mean over
        views.

        Phi is the normal distribution function. It ranks samples as the paper's Phi itself does.
        """
        assert references is not None
        score = self._unusual(target.log_posteriors(candidates.x), references.log_posteriors, candidates.y)
        for x in self.knowledge.views(candidates.x, self.params.views - 1):
            score = score + self._unusual(target.log_posteriors(x), references.ask(x), candidates.y)
        return score / self.params.views

    def _unusual(self, answer: Tensor, answers: Tensor, y: Tensor) -> Tensor:
        """Scores (n,) of a target's log-posteriors (n, k), by those of reference models (m, n, k); y (n,): labels."""
        own, margins = logit_margin(answer, y), logit_margin(answers, y)
        excess = own - margins.mean(0)
        few = len(margins) < 32
        # A deviation that all samples share does not change their ranking: with fixed variance it is 1.
        deviation = torch.ones_like(excess)
        if self.params.variance == "per-sample" or (self.params.variance == "auto" and not few):
            deviation = margins.std(0).clamp_min(DEVIATION_FLOOR)
        excess = excess / deviation
        if self.params.law == "density":
            return excess.square() / 2 + deviation.log()
        return -torch.special.log_ndtr(-excess)  # Phi itself would round strong members to 1
