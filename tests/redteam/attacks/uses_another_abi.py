"""Go around the filter by the 32-bit and the x32 tables of system calls."""

import ctypes

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the filter kills what calls by another table"
STATUS = ("failed",)
REASON = "SIGSYS"


class Hostile(Attack):
    """See above."""

    card = Card(title="Uses another abi", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.syscall(ctypes.c_long(0x40000000 + 41), 2, 1, 0)  # x32: socket(AF_INET, SOCK_STREAM)
        raise RuntimeError(f"it returned {result}")
