"""Start threads without end."""

import threading
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on processes, which counts threads"
STATUS = ("failed", "out-of-memory")
REASON = "can't start new thread|processes|killed by"


class Hostile(Attack):
    """See above."""

    card = Card(title="Starts threads", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        threads = []
        while True:
            threads.append(threading.Thread(target=time.sleep, args=(60,), daemon=True))
            threads[-1].start()
