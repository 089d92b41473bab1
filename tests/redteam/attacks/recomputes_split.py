"""Draw the split again from the public seed and scikit-learn's digits, and look the candidates up."""

import importlib

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the secret in the split: without it the draw is another (on a public split nothing stops this)"
STATUS = ("ok",)
OFFICIAL = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Recomputes split", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        population = importlib.import_module("benchmark.data.population")
        protocol = importlib.import_module("benchmark.protocol").load("smoke")
        drawn = population.populate(protocol, 0)
        members = {x.numpy().tobytes() for x in drawn.samples(drawn.parts["target-train"]).x}
        return torch.tensor([float(x.numpy().tobytes() in members) for x in candidates.x], dtype=torch.float64)
