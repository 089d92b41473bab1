"""Define score with a Cyrillic letter, so that a reader sees a method that is not there."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "methods are known by their exact names"
STATUS = ("refused",)
REASON = "expected a method 'score', given none"


class Hostile(Attack):
    """See above."""

    card = Card(title="Method of other letters", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def sсore(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
