"""Ask for a gigabyte of images at once, so that the judge's memory runs out."""

import json
import struct
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on a message, held before it is received"
STATUS = ("failed",)
REASON = "at most 256 MiB"


class Hostile(Attack):
    """See above."""

    card = Card(title="Asks for a gigabyte", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        n = (1 << 22) - (1 << 12)
        header = json.dumps({"x": {"dtype": "F32", "shape": [n, 1, 8, 8], "data_offsets": [0, n * 256]}}).encode()
        text = json.dumps({"do": "log_posteriors", "with": {"target": 0}}).encode()
        stream.sendall(
            struct.pack(">IQ", len(text), 8 + len(header) + n * 256) + text + struct.pack("<Q", len(header)) + header
        )
        for _ in range(n >> 12):
            stream.sendall(bytes(1 << 20))
        time.sleep(60)
