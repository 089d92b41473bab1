"""Leave processes that fork faster than they can be killed."""

import ctypes
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "the zygote kills until none is left, before the next fork"
STATUS = ("ok", "failed")
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves many processes", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        if os.path.exists("/tmp/scores"):
            raise RuntimeError("carried over: " + open("/tmp/scores").read())  # noqa: SIM115
        for _ in range(8):
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(15, b"redteam")
                while True:
                    with open("/tmp/scores", "w") as file:
                        file.write(str(self.seed))
                    if os.fork():
                        os._exit(0)
                    os.setsid()
        return target.log_posteriors(candidates.x)[:, 0]
