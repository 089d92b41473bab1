"""Ask the judge for verbs that it does not have."""

import json
import struct
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "handlers by name, and no others"
STATUS = ("failed",)
REASON = "broke the protocol"


class Hostile(Attack):
    """See above."""

    card = Card(title="Calls the unknown", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        text = json.dumps({"do": "__init__", "with": {}}).encode()
        stream.sendall(struct.pack(">IQ", len(text), 0) + text)
        time.sleep(60)
