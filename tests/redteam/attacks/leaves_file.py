"""Leave the scores of one scenario in /tmp and /dev/shm for the next scenario of the same entry."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "scratch is wiped when a piece of work ends"
STATUS = ("ok", "failed")
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves file", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        left = [
            open(f"{folder}/.deep/er/scores").read()  # noqa: SIM115
            for folder in ("/tmp", "/dev/shm")
            if os.path.exists(f"{folder}/.deep")
        ]
        if left:
            raise RuntimeError(f"carried over: {left}")
        for folder in ("/tmp", "/dev/shm"):
            os.makedirs(f"{folder}/.deep/er", exist_ok=True)
            with open(f"{folder}/.deep/er/scores", "w") as file:
                file.write(str(self.seed))
        return target.log_posteriors(candidates.x)[:, 0]
