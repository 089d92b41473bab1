"""Announce as much as is allowed and send nothing."""

import struct
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "memory grows with what arrives; the watchdog's clock"
STATUS = ("timeout",)
REASON = "more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Announces and waits", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        stream.sendall(struct.pack(">IQ", 10, 1 << 28))
        time.sleep(60)
