"""Return a hundred thousand rows of scores, each of which the judge would resample."""

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on attack seeds"
STATUS = ("failed",)
REASON = "at most 100 attack seeds"


class Hostile(Attack):
    """See above."""

    card = Card(title="Scores many times", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "shadow"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return torch.rand(100_000, len(candidates), dtype=torch.float64)
