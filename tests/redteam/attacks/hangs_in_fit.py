"""Sleep for ever in fit, deaf to every signal that can be ignored."""

import ctypes
import signal
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "the watchdog's clock, and SIGKILL"
STATUS = ("timeout",)
REASON = "more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Hangs in fit", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(15, b"redteam")
        while True:
            time.sleep(1000)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return candidates.x.flatten(1).sum(1).double()
