"""Write a file when the class is made, by its metaclass."""

import contextlib
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the file is read, not run; it runs in the sandbox alone"
STATUS = ("ok",)
CONTROL = True

HOST = "/host"


class Making(type):
    """Acts when a class is made."""

    def __init__(cls, *arguments: object) -> None:
        with contextlib.suppress(OSError), open(f"{HOST}/redteam-was-here", "w") as file:
            file.write(str(os.getpid()))


class Hostile(Attack, metaclass=Making):
    """See above."""

    card = Card(title="Runs in a metaclass", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
