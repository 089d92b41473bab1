"""Find the judge's population among all objects and read the membership labels from it."""

import gc

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a process of its own, which never holds the labels"
STATUS = ("ok",)
CONTROL = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Walks objects", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        for item in gc.get_objects():
            if type(item).__name__ == "Population":
                return torch.from_numpy(item.members).double()
        return target.log_posteriors(candidates.x)[:, 0]
