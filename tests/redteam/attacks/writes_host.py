"""Write into home, store, tracking database and repository of the host."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a read-only root without any of them"
STATUS = ("failed",)
REASON = "Read-only file system"
CONTROL = True

HOST = "/host"


class Hostile(Attack):
    """See above."""

    card = Card(title="Writes host", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        for folder in (HOST, f"{HOST}/home", f"{HOST}/store", f"{HOST}/mlruns", f"{HOST}/repository", f"{HOST}/cwd"):
            try:
                os.makedirs(folder, exist_ok=True)
                with open(f"{folder}/redteam-was-here", "w") as file:
                    file.write("mine")
            except OSError as error:
                said.append(error.strerror)
        raise RuntimeError(repr(said))
