"""Return two gigabytes of pictures."""

import json
import struct
import time
from collections.abc import Sequence

from torch import Tensor

from benchmark.api import Card, InversionAttack, Target

STOPPED_BY = "the limit on a message, held before it is received"
STATUS = ("failed",)
DEFENSE = "undefended"
REASON = "at most 256 MiB"


class Hostile(InversionAttack):
    """See above."""

    card = Card(title="Paints two gigabytes", authors=(), reference="tests/redteam", year=None)
    access = "label"
    needs = frozenset()

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        stream = target._work.channel.stream
        count = (1 << 31) // (4 * 64 * len(classes))
        shape = [len(classes), count, 1, 8, 8]
        size = len(classes) * count * 64 * 4
        header = json.dumps({"value": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
        text = json.dumps({"done": {}}).encode()
        stream.sendall(struct.pack(">IQ", len(text), 8 + len(header) + size) + text + struct.pack("<Q", len(header)))
        stream.sendall(header)
        for _ in range(size >> 20):
            stream.sendall(bytes(1 << 20))
        time.sleep(60)
