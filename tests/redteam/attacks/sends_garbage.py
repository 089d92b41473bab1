"""Send bytes that are no frame."""

import os
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the checks of each frame before it is used"
STATUS = ("failed",)
REASON = "broke the protocol"


class Hostile(Attack):
    """See above."""

    card = Card(title="Sends garbage", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        stream.sendall(os.urandom(1 << 16))
        time.sleep(60)
