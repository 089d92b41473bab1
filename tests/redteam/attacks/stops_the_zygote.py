"""Stop the zygote, so that nobody can end this fork."""

import ctypes
import os
import signal
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the watchdog's clock: it kills the whole sandbox"
STATUS = ("timeout",)
REASON = "more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Stops the zygote", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        os.kill(os.getppid(), signal.SIGSTOP)
        ctypes.CDLL(None).prctl(15, b"redteam")
        time.sleep(1000)
