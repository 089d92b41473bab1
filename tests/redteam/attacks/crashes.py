"""Write to address 0."""

import ctypes

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the worker is another process"
STATUS = ("failed",)
REASON = "SIGSEGV"


class Hostile(Attack):
    """See above."""

    card = Card(title="Crashes", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        ctypes.string_at(0)
