"""Import a hundred thousand names, so that the sandbox's command line overflows."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a bound on what is imported beforehand"
STATUS = ("ok", "failed")
LONG = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Imports much", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
