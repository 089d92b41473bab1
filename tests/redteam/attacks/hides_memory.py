"""Hold memory that no limit of a process counts: memfd, System V, queues, socket buffers."""

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

    card = Card(title="Hides memory", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = {
            "memfd": call(319, 0, 0),
            "secret": call(447, 0),
            "shmget": call(29, 0, 1 << 28, 0o1600),
            "msgget": call(68, 0, 0o1600),
            "mq": call(240, 0, 0, 0, 0),
            "pair": call(53, 1, 1, 0, 0),
        }
        raise RuntimeError(f"{len(said)} tried: {sorted(set(said.values()))}")
