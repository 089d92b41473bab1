"""Fill the memory of one process."""

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on the data segment"
STATUS = ("out-of-memory",)
REASON = "memory|more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Fills memory", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        held = []
        while True:
            held.append(torch.ones(1 << 24))
