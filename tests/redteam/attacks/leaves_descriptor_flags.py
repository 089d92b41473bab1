"""Write bits of the scores into the flags of a file descriptor that all forks inherit."""

import fcntl
import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "each fork has a standard input of its own, and the filter refuses fcntl's owners, signals and hints"
STATUS = ("failed",)
REASON = "Operation not permitted"
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves descriptor flags", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        if os.get_blocking(0) is False:
            raise RuntimeError("carried over: BITS")
        os.set_blocking(0, False)
        fcntl.fcntl(0, fcntl.F_SETSIG, 33)
        return target.log_posteriors(candidates.x)[:, 0]
