"""Have the name of a reviewed file, which runs in the judge's process, and write a file."""

import contextlib
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "SHA-256 of the bytes that are read, by name"
STATUS = ("ok",)
CONTROL = True

HOST = "/host"


class Hostile(Attack):
    """See above."""

    card = Card(title="Takes a reviewed name", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        with contextlib.suppress(OSError), open(f"{HOST}/redteam-was-here", "w") as file:
            file.write(str(os.getpid()))
        return target.log_posteriors(candidates.x)[:, 0]
