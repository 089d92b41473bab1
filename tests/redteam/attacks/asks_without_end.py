"""Query the target without end, so that all the time is the judge's."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on the time of a job"
STATUS = ("timeout",)
REASON = "more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Asks without end", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        while True:
            target.log_posteriors(candidates.x[:1])
