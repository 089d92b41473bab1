"""Hand in a stolen copy that sends every image that it is asked about to a listener on the loopback."""

import socket
from collections.abc import Callable

from torch import Tensor, nn

from benchmark.api import Card, Samples, StealingAttack, Target

STOPPED_BY = "the system-call filter, and a network namespace without a device, which hold for the copy as well"
STATUS = ("failed",)
REASON = "Operation not permitted"
CONTROL = True

HOST = "/host"
PORT = 1


class Hostile(StealingAttack):
    """See above."""

    card = Card(title="Steals and calls home", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset({"shadow"})

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        class Copy(nn.Module):
            """Calls."""

            def forward(self, x: Tensor) -> Tensor:
                line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                line.settimeout(2)
                line.connect(("127.0.0.1", PORT))
                line.send(b"redteam")
                return x.flatten(1)[:, :10]

        return Copy()
