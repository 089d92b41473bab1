"""Fill memory in a process that is not dumpable, under a name that is no text, so that whoever reads its status stumbles."""

import contextlib
import ctypes

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limits count it all the same: names are read as bytes"
STATUS = ("out-of-memory",)
REASON = "memory|more than"


class Hostile(Attack):
    """See above."""

    card = Card(title="Hides memory by its name", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
            ctypes.CDLL(None).prctl(15, b"\xff\xc2\x85RssAnon: x", 0, 0, 0)
        held = []
        while True:
            held.append(torch.ones(1 << 22))
