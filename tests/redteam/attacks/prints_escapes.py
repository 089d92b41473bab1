"""Print terminal escapes before failing: the log is shown."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the log is escaped line by line"
STATUS = ("failed",)
REASON = "see the log"


class Hostile(Attack):
    """See above."""

    card = Card(title="Prints escapes", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        print("\x1b]0;owned\x07\x1b[2J\x1b[31m\u202e" * 1000, flush=True)
        raise RuntimeError("see the log")
