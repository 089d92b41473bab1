"""Leave by SystemExit, which ends a worker that only catches exceptions."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the worker is another process"
STATUS = ("failed",)
REASON = "SystemExit"


class Hostile(Attack):
    """See above."""

    card = Card(title="Raises system exit", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        raise SystemExit(0)
