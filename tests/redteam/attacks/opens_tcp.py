"""Send the candidates over TCP and UDP to a listener on the loopback."""

import socket

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the system-call filter, and a network namespace without a device"
STATUS = ("failed",)
REASON = "Operation not permitted"
CONTROL = True

HOST = "/host"
PORT = 1


class Hostile(Attack):
    """See above."""

    card = Card(title="Opens tcp", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                line = socket.socket(socket.AF_INET, kind)
                line.settimeout(2)
                line.connect(("127.0.0.1", PORT))
                line.send(b"redteam")
                said.append("sent")
            except OSError as error:
                said.append(str(error))
        raise RuntimeError(repr(said))
