"""Change the installed packages, the judge's code, the devices and the kernel's settings."""

import os
import sys

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "read-only binds, and a user without rights"
STATUS = ("failed",)
REASON = r"11 tried: \[('(Permission denied|Read-only file system|No such file or directory|Operation not permitted)',? ?)+\]"


class Hostile(Attack):
    """See above."""

    card = Card(title="Writes system", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        packages = os.path.dirname(os.path.dirname(torch.__file__))
        for folder in (packages, sys.prefix, "/leakboard/benchmark", "/dev", "/usr/bin", "/usr/lib", "/"):
            try:
                with open(f"{folder}/redteam-was-here", "w") as file:
                    file.write("mine")
                said.append(f"wrote {folder}")
            except OSError as error:
                said.append(error.strerror)
        for name in ("kernel/core_pattern", "kernel/hostname", "vm/drop_caches", "net/ipv4/ip_forward"):
            try:
                with open(f"/proc/sys/{name}", "w") as file:
                    file.write("1")
                said.append(f"wrote {name}")
            except OSError as error:
                said.append(error.strerror)
        raise RuntimeError(f"{len(said)} tried: {sorted(set(said))}")
