"""Look for secrets in the environment and among the inherited file descriptors."""

import contextlib
import os
import re

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a fixed environment, and no descriptors but the wire and the log"
STATUS = ("failed",)
REASON = r"\[\] \['/dev/null', 'pipe:.*'socket"
CONTROL = True


def found(text: bytes) -> list[str]:
    """The host's canaries in what was read."""
    return sorted({m.decode() for m in re.findall(rb"canary-[0-9a-f]{16}", text)})


class Hostile(Attack):
    """See above."""

    card = Card(title="Reads environment", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        text = repr(dict(os.environb)).encode()
        names = [name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]
        files = {name: os.readlink(f"/proc/self/fd/{name}") for name in names}
        for name, link in files.items():
            if link.startswith("/") and os.path.isfile(link):
                with contextlib.suppress(OSError):
                    text += os.pread(int(name), 1 << 20, 0)
        raise RuntimeError(f"{found(text)} {sorted(files.values())}")
