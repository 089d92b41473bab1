"""RMIA, offline: the share of the population whose likelihood ratio is smaller by a factor (Zarifzadeh et al. 2024).

r(x) = p(x | target) / p(x), where p(x) is estimated from models that never saw x. The population z is the shadow
world's non-members. Only the shadow model can be asked about them, so p(z) comes from it alone. The share of z with
r(x) / r(z) > gamma is the distribution function of r(z) at r(x) / gamma: sorting makes it n log |Z|, not n |Z|. It
ranks as r(x) does, but for ties. The authors' code takes a Taylor softmax with a soft margin, which needs logits, and
votes over 18 views; here it is a softmax and one view.
"""

import math

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
    Knowledge,
    References,
    Search,
    Target,
    logit_margin,
)


class RMIAOffline(Attack):
    """Membership from posteriors, reference models of shadow data alone, and the shadow world."""

    card = Card(
        title="RMIA, offline",
        authors=("Sajjad Zarifzadeh", "Philippe Liu", "Reza Shokri"),
        reference="Low-Cost High-Power Membership Inference Attacks, ICML 2024, arXiv:2312.03262",
        year=2024,
    )
    access = "posterior"
    needs = frozenset({"references-offline", "shadow"})
    calibrate = "none"

    class Params(Hyper):
        """`gamma`, the factor by which r(x) must exceed r(z); the softmax temperature; `a` of p_IN = a p_OUT + 1 - a.

        The authors' values for CIFAR-10; for CIFAR-100 they give temperature 1 and a = 0.6.
        """

        gamma: Annotated[float, Field(gt=0), Search(1.0, 4.0)] = 2.0
        temperature: Annotated[float, Field(gt=0), Search(0.5, 4.0, log=True)] = 2.0
        a: Annotated[float, Field(ge=0, le=1), Search(0.0, 1.0)] = 0.3

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the population, and log p(z) of each of its samples."""
        world = knowledge.shadow
        assert world is not None
        self.population = world.nonmembers
        reference = self._log_confidence(world.target.log_posteriors(self.population.x), self.population.y)
        self.log_evidence = self._log_evidence(reference.unsqueeze(0))

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """The share (n,) of the population with r(x) / r(z) > gamma."""
        assert references is not None
        evidence = self._log_evidence(self._log_confidence(references.log_posteriors, candidates.y))
        ratio = self._log_confidence(target.log_posteriors(candidates.x), candidates.y) - evidence
        population = self._log_confidence(target.log_posteriors(self.population.x), self.population.y)
        population = (population - self.log_evidence).sort().values
        return torch.searchsorted(population, ratio - math.log(self.params.gamma)).double() / len(population)

    def _log_confidence(self, log_posteriors: Tensor, y: Tensor) -> Tensor:
        """log p_y (..., n) of log-posteriors (..., n, k) at the temperature; by the margin, so finite where p_y = 0."""
        return functional.logsigmoid(logit_margin(log_posteriors / self.params.temperature, y))

    def _log_evidence(self, outside: Tensor) -> Tensor:
        """log p(x) (n,) from the log-confidences (m, n) of models that never saw the samples.

        p(x) = (p_OUT + p_IN) / 2 with p_OUT their mean and p_IN = a p_OUT + 1 - a.
        """
        mean = outside.logsumexp(0) - math.log(len(outside))
        slope, offset = torch.tensor([1 + self.params.a, 1 - self.params.a], dtype=torch.float64).div(2).log()
        return torch.logaddexp(mean + slope, offset)
