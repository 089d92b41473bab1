"""Print without end."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the watchdog, which keeps the last lines and counts the rest"
STATUS = ("failed",)
REASON = "printed more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Floods output", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        while True:
            print("flood " * 10_000, flush=True)
