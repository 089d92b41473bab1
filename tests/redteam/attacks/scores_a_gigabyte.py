"""Return a gigabyte of scores."""

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

    card = Card(title="Scores a gigabyte", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        n, rows = len(candidates), 1 << 21
        header = json.dumps({"value": {"dtype": "F64", "shape": [rows, n], "data_offsets": [0, rows * n * 8]}}).encode()
        text = json.dumps({"done": {}}).encode()
        stream.sendall(
            struct.pack(">IQ", len(text), 8 + len(header) + rows * n * 8)
            + text
            + struct.pack("<Q", len(header))
            + header
        )
        for _ in range(rows >> 10):
            stream.sendall(bytes(n << 13))
        time.sleep(60)
