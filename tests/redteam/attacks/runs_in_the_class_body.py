"""Write a file from the class body: a comprehension, a default argument and __set_name__."""

import contextlib
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the file is read, not run; it runs in the sandbox alone"
STATUS = ("ok",)
CONTROL = True

HOST = "/host"


class Named:
    """Acts when a class has it."""

    def __set_name__(self, owner: type, name: str) -> None:
        with contextlib.suppress(OSError), open(f"{HOST}/redteam-was-here", "w") as file:
            file.write(str(os.getpid()))


class Hostile(Attack):
    """See above."""

    card = Card(title="Runs in the class body", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"
    named = Named()

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
