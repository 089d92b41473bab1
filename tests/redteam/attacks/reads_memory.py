"""Search the judge's memory for what it holds, by /proc/PID/mem of the parent and of itself."""

import os
import re

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a process of its own: the parent inside is the zygote, which is not dumpable"
STATUS = ("failed",)
REASON = "Permission"
CONTROL = True


def found(text: bytes) -> list[str]:
    """The host's canaries in what was read."""
    return sorted({m.decode() for m in re.findall(rb"canary-[0-9a-f]{16}", text)})


class Hostile(Attack):
    """See above."""

    card = Card(title="Reads memory", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        seen, refused = [], []
        for pid in {os.getpid(), os.getppid(), 1}:
            try:
                maps = open(f"/proc/{pid}/maps").read().splitlines()  # noqa: SIM115
                memory = open(f"/proc/{pid}/mem", "rb", 0)  # noqa: SIM115
            except OSError as error:
                refused.append(repr(error))
                continue
            for line in maps:
                span, mode, _, _, inode = line.split()[:5]
                begin, end = (int(v, 16) for v in span.split("-"))
                if mode.startswith("rw") and inode == "0" and end - begin < 1 << 28:
                    try:
                        memory.seek(begin)
                        seen += found(memory.read(end - begin))
                    except (OSError, ValueError):
                        continue
        raise RuntimeError(f"{seen} {refused}")
