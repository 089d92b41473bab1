"""Attach to the zygote, copy its memory and its descriptors."""

import ctypes
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the system-call filter"
STATUS = ("failed",)
REASON = r"6 tried: \['Operation not permitted'\]|6 tried: \['Function not implemented', 'Operation not permitted'\]"


def call(*arguments: int) -> str:
    """A system call by its number on x86_64: what the kernel says."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(*(ctypes.c_long(a) for a in arguments))
    return f"returned {result}" if result >= 0 else os.strerror(ctypes.get_errno())


class Hostile(Attack):
    """See above."""

    card = Card(title="Reads other processes", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = {
            "ptrace": call(101, 16, os.getppid(), 0, 0),
            "read": call(310, os.getppid(), 0, 0, 0, 0, 0),
            "write": call(311, os.getppid(), 0, 0, 0, 0, 0),
            "pidfd": call(434, os.getppid(), 0),
            "getfd": call(438, 3, 0, 0),
            "kcmp": call(312, 1, 2, 0, 0, 0),
        }
        raise RuntimeError(f"{len(said)} tried: {sorted(set(said.values()))}")
