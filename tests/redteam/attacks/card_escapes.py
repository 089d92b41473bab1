"""Put terminal escapes into the card."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the card's check: texts are printable lines"
STATUS = ("refused",)
REASON = "printable"


class Hostile(Attack):
    """See above."""

    card = Card(title="\x1b]0;owned\x07\x1b[2J\x1b[31m\u202eBest", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
