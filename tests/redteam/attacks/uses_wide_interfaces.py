"""Reach the kernel by io_uring, bpf, perf, userfaultfd and keyrings, which go around filters."""

import ctypes
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the system-call filter"
STATUS = ("failed",)
REASON = r"8 tried: \['Operation not permitted'\]|8 tried: \['Function not implemented', 'Operation not permitted'\]"


def call(*arguments: int) -> str:
    """A system call by its number on x86_64: what the kernel says."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(*(ctypes.c_long(a) for a in arguments))
    return f"returned {result}" if result >= 0 else os.strerror(ctypes.get_errno())


class Hostile(Attack):
    """See above."""

    card = Card(title="Uses wide interfaces", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = {
            "uring": call(425, 8, 0),
            "bpf": call(321, 0, 0, 0),
            "perf": call(298, 0, 0, -1, -1, 0),
            "uffd": call(323, 0),
            "keyctl": call(250, 0, -3, 1),
            "add_key": call(248, 0, 0, 0, 0, -3),
            "handle": call(304, 0, 0, 0),
            "module": call(313, 0, 0, 0),
        }
        raise RuntimeError(f"{len(said)} tried: {sorted(set(said.values()))}")
