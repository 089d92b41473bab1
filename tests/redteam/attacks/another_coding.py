# coding: utf-7
"""Be one program as UTF-8, which the judge reads, and another one to whoever obeys the coding."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a coding other than UTF-8 is refused"
STATUS = ("refused",)
REASON = "given coding 'utf-7'"


class Hostile(Attack):
    """See above."""

    card = Card(title="Another coding", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
