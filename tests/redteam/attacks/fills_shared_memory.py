"""Fill shared anonymous memory, which the limit on the data segment does not count."""

import mmap

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the watchdog, which sums the memory of the whole tree"
STATUS = ("out-of-memory",)
REASON = "more than|memory"


class Hostile(Attack):
    """See above."""

    card = Card(title="Fills shared memory", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        held = []
        while True:
            held.append(mmap.mmap(-1, 1 << 26))
            held[-1].write(bytes(1 << 26))
