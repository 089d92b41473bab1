"""Send tensors whose header names other shapes, overlaps and a million empty arrays."""

import json
import struct
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the checks of each frame before it is used"
STATUS = ("failed",)
REASON = "broke the protocol"


class Hostile(Attack):
    """See above."""

    card = Card(title="Lies in the header", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream
        entries = {f"n{i}": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]} for i in range(15_000)}
        header = json.dumps(entries | {"value": {"dtype": "F64", "shape": [1 << 20], "data_offsets": [0, 8]}}).encode()
        payload = struct.pack("<Q", len(header)) + header + bytes(8)
        stream.sendall(struct.pack(">IQ", 12, len(payload)) + b'{"done": {}}' + payload)
        time.sleep(60)
