"""Read the environment and the command line of every process on the machine."""

import glob
import os
import re

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a process namespace of its own, whose environment is a fixed few variables"
STATUS = ("failed",)
REASON = "PermissionError"
CONTROL = True


def found(text: bytes) -> list[str]:
    """The host's canaries in what was read."""
    return sorted({m.decode() for m in re.findall(rb"canary-[0-9a-f]{16}", text)})


class Hostile(Attack):
    """See above."""

    card = Card(title="Reads proc", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        seen = []
        for name in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
            try:
                seen += found(open(name, "rb").read())  # noqa: SIM115
            except OSError as error:
                seen.append(type(error).__name__)
        raise RuntimeError(f"{sorted(set(seen))} in {sorted(os.listdir('/proc'))[:6]} {sorted(os.environ)}")
