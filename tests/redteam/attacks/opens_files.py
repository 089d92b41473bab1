"""Open files and pipes without end."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on open files"
STATUS = ("failed",)
REASON = "Too many open files"


class Hostile(Attack):
    """See above."""

    card = Card(title="Opens files", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        held = []
        while True:
            held.append(os.pipe())
