"""Fill memory in many small processes, each below every limit."""

import subprocess
import sys
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the watchdog, which sums the memory of the whole tree"
STATUS = ("out-of-memory",)
REASON = "more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Spreads memory", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        code = "b = bytearray(150 << 20); b[::4096] = bytes(len(b[::4096])); import time; time.sleep(60)"
        children = [subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) for _ in range(12)]
        time.sleep(60)
        raise RuntimeError(f"{len(children)} children hold 1,800 MB")
