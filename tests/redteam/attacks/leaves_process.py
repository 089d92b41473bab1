"""Leave a process that writes the scores again and again, for the next scenario to read."""

import ctypes
import os
import time

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "the zygote ends a fork, and all that it started, before the next one begins"
STATUS = ("ok", "failed")
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves process", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        time.sleep(0.2)
        if os.path.exists("/tmp/scores"):
            raise RuntimeError("carried over: " + open("/tmp/scores").read())  # noqa: SIM115
        if os.fork() == 0:
            os.setsid()
            ctypes.CDLL(None).prctl(15, b"redteam")
            while True:
                with open("/tmp/scores", "w") as file:
                    file.write(str(self.seed))
        return target.log_posteriors(candidates.x)[:, 0]
