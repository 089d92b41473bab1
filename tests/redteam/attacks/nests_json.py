"""Send JSON so deep that reading it overflows the stack."""

import struct
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the checks of each frame before it is used"
STATUS = ("failed",)
REASON = "broke the protocol"


class Hostile(Attack):
    """See above."""

    card = Card(title="Nests json", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        text = b"[" * 60_000
        stream.sendall(struct.pack(">IQ", len(text), 0) + text)
        time.sleep(60)
