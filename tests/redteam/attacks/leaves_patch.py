"""Change the modules that all forks of an entry share, so that the next one finds the scores there."""

import sys

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "forks share libraries by copy on write"
STATUS = ("ok",)
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves patch", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        if hasattr(torch, "left_by_redteam"):
            raise RuntimeError(f"carried over: {torch.left_by_redteam}")
        torch.left_by_redteam = self.seed
        sys.modules["benchmark.api"].left_by_redteam = self.seed
        return target.log_posteriors(candidates.x)[:, 0]
