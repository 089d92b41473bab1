"""Open netlink, packet, raw and vsock sockets."""

import socket

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the system-call filter, and a network namespace without a device"
STATUS = ("failed",)
REASON = r"5 tried: \['Operation not permitted'\]"

HOST = "/host"
PORT = 1


class Hostile(Attack):
    """See above."""

    card = Card(title="Opens netlink", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        for family, kind in ((16, 3), (17, 3), (socket.AF_INET, 3), (40, 1), (38, 5)):
            try:
                socket.socket(family, kind)
                said.append("opened")
            except OSError as error:
                said.append(error.strerror)
        raise RuntimeError(f"{len(said)} tried: {sorted(set(said))}")
