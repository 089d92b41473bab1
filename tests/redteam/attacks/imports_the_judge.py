"""Import the judge's own modules."""

from torch import Tensor

import benchmark.judge.scenario  # noqa: F401
from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the registry: imports come from benchmark.api alone"
STATUS = ("refused",)
REASON = "imports from benchmark.api alone"


class Hostile(Attack):
    """See above."""

    card = Card(title="Imports the judge", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
