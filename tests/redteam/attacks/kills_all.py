"""Kill the zygote, its group, process 1 and all that can be reached."""

import contextlib
import os
import signal

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a process namespace of its own"
STATUS = ("failed",)
REASON = "killed by|the sandbox ended|ended"


class Hostile(Attack):
    """See above."""

    card = Card(title="Kills all", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in (1, 0, -1, os.getppid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        raise RuntimeError("none died")
