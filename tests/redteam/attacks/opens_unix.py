"""Connect to a Unix socket of the host by its path, and to an abstract one, which has none."""

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

    card = Card(title="Opens unix", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        for address in (f"{HOST}/socket", f"\0redteam-{PORT}", "/var/run/docker.sock", "\0/tmp/.X11-unix/X0"):
            try:
                line = socket.socket(socket.AF_UNIX)
                line.settimeout(2)
                line.connect(address)
                line.send(b"redteam")
                said.append("sent")
            except OSError as error:
                said.append(str(error))
        raise RuntimeError(repr(said))
