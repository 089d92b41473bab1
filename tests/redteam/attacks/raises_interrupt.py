"""Raise KeyboardInterrupt, as if the user had stopped the run."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the worker is another process"
STATUS = ("failed",)
REASON = "KeyboardInterrupt"


class Hostile(Attack):
    """See above."""

    card = Card(title="Raises interrupt", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        raise KeyboardInterrupt
