"""Signal to sandboxes that run at the same time by locks and watches on files that all of them see."""

import ctypes
import fcntl
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the system-call filter: no locks, hints or watches"
STATUS = ("failed",)
REASON = r"4 tried: \['Operation not permitted'\]"


class Hostile(Attack):
    """See above."""

    card = Card(title="Locks shared files", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        shared = os.open(os.__file__, os.O_RDONLY)
        for act in (
            lambda: fcntl.flock(shared, fcntl.LOCK_SH),
            lambda: fcntl.lockf(shared, fcntl.LOCK_SH),
            lambda: fcntl.fcntl(shared, 1036, (3).to_bytes(8, "little")),  # F_SET_RW_HINT stays with the inode
        ):
            try:
                act()
                said.append("locked")
            except OSError as error:
                said.append(error.strerror)
        libc = ctypes.CDLL(None, use_errno=True)
        said.append("watched" if libc.inotify_init1(0) >= 0 else os.strerror(ctypes.get_errno()))
        raise RuntimeError(f"{len(said)} tried: {sorted(set(said))}")
