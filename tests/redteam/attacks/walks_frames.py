"""Climb the stack to the judge's frame and read the membership labels there."""

import sys

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a process of its own: the stack ends in the sandbox"
STATUS = ("ok",)
CONTROL = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Walks frames", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        frame = sys._getframe()
        while frame is not None:
            for value in list(frame.f_locals.values()):
                if hasattr(value, "population"):
                    return torch.from_numpy(value.population.members).double()
            frame = frame.f_back
        return target.log_posteriors(candidates.x)[:, 0]
