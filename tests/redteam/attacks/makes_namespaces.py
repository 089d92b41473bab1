"""Become root in a user namespace of its own, and mount from there."""

import ctypes
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the system-call filter"
STATUS = ("failed",)
REASON = r"9 tried: \['Operation not permitted'\]|9 tried: \['Function not implemented', 'Operation not permitted'\]"


def call(*arguments: int) -> str:
    """A system call by its number on x86_64: what the kernel says."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(*(ctypes.c_long(a) for a in arguments))
    return f"returned {result}" if result >= 0 else os.strerror(ctypes.get_errno())


class Hostile(Attack):
    """See above."""

    card = Card(title="Makes namespaces", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = {
            "unshare": call(272, 0x10000000),
            "clone": call(56, 0x10000011, 0, 0, 0, 0),
            "clone3": call(435, 0, 0),
            "mount": call(165, 0, 0, 0, 0, 0),
            "setns": call(308, 3, 0),
            "chroot": call(161, 0),
            "pivot": call(155, 0, 0),
            "fsopen": call(430, 0, 0),
            "tree": call(428, -100, 0, 1),
        }
        raise RuntimeError(f"{len(said)} tried: {sorted(set(said.values()))}")
