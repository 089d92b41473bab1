"""Send a pickle that runs a command where it is loaded."""

import os
import pickle
import struct
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "nothing is unpickled"
STATUS = ("failed",)
REASON = "broke the protocol"

HOST = "/host"


class Hostile(Attack):
    """See above."""

    card = Card(title="Sends a pickle", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream

        class Command:
            """Run where it is loaded."""

            def __reduce__(self) -> tuple[object, ...]:
                return os.system, (f"touch {HOST}/redteam-was-here",)

        bomb = pickle.dumps(Command())
        stream.sendall(struct.pack(">IQ", 12, len(bomb)) + b'{"done": {}}' + bomb)
        time.sleep(60)
