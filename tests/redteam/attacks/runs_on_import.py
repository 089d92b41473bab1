"""Run code in the class body and at import, before any check could see an object."""

import contextlib
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the card is read from the syntax tree; the file runs in the sandbox alone"
STATUS = ("ok",)
CONTROL = True

HOST = "/host"
with contextlib.suppress(OSError), open(f"{HOST}/redteam-was-here", "w") as file:
    file.write(str(os.getpid()))


class Hostile(Attack):
    """See above."""

    card = Card(title="Runs on import", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
