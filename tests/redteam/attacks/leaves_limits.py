"""Write the scores into the zygote's resource limits, which later forks inherit.

The stack limit keeps 63 bits, and there are sixteen limits.
"""

import os
import resource

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "the system-call filter: prlimit works on oneself alone"
STATUS = ("failed",)
REASON = "Operation not permitted"
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves limits", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
        if soft > 1 << 40:
            raise RuntimeError(f"carried over: {soft}")
        try:
            hard = resource.prlimit(os.getppid(), resource.RLIMIT_STACK)[1]
            resource.prlimit(os.getppid(), resource.RLIMIT_STACK, (self.seed >> 8 << 8, hard))
        except PermissionError as error:
            raise RuntimeError(f"prlimit: {error}") from None
        return target.log_posteriors(candidates.x)[:, 0]
