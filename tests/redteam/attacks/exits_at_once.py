"""End the process without a word."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the worker is another process"
STATUS = ("failed",)
REASON = "exit code 0"


class Hostile(Attack):
    """See above."""

    card = Card(title="Exits at once", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        os._exit(0)
