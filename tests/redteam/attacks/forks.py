"""Fork without end."""

import ctypes
import os
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on processes, and the watchdog that counts them"
STATUS = ("failed", "timeout")
REASON = "processes|more than .* s"


class Hostile(Attack):
    """See above."""

    card = Card(title="Forks", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        while True:
            try:
                if os.fork() == 0:
                    ctypes.CDLL(None).prctl(15, b"redteam")
            except OSError:
                time.sleep(0.01)
