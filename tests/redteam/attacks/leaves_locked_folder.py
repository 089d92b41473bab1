"""Leave scores in a folder that can't be listed, so that wiping it fails."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "what can't be wiped goes with the sandbox"
STATUS = ("ok", "failed")
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves locked folder", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        if os.path.exists("/tmp/locked"):
            os.chmod("/tmp/locked", 0o700)
            raise RuntimeError("carried over: " + open("/tmp/locked/scores").read())  # noqa: SIM115
        os.makedirs("/tmp/locked")
        with open("/tmp/locked/scores", "w") as file:
            file.write(str(self.seed))
        os.chmod("/tmp/locked", 0o000)
        return target.log_posteriors(candidates.x)[:, 0]
