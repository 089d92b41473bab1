"""Compute for ever, in many threads."""

import threading

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limits on time"
STATUS = ("timeout",)
REASON = "more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Burns time", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        def burn() -> None:
            while True:
                hash("burn" * 100)

        for _ in range(4):
            threading.Thread(target=burn).start()
        burn()
