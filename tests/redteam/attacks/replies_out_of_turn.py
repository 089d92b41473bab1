"""Send the reply to the next call before it is made, and a second reply after it."""

import struct
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "calls nest strictly: a reply is taken for the call in hand, and held to its contract"
STATUS = ("failed",)
REASON = "expected a tensor from score, given nothing"


class Hostile(Attack):
    """See above."""

    card = Card(title="Replies out of turn", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        text = b'{"done": {}}'
        stream.sendall((struct.pack(">IQ", len(text), 0) + text) * 3)
        time.sleep(1)
