"""Write bits of the scores into the zygote's priority, scheduler and processor mask."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "the system-call filter"
STATUS = ("failed",)
REASON = "Operation not permitted"
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves priority", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        if os.getpriority(os.PRIO_PROCESS, 0) == 7 or os.sched_getscheduler(0) == os.SCHED_BATCH:
            raise RuntimeError("carried over: BITS")
        said = []
        for act in (
            lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 7),
            lambda: os.sched_setaffinity(os.getppid(), {0}),
            lambda: os.sched_setscheduler(os.getppid(), os.SCHED_BATCH, os.sched_param(0)),
        ):
            try:
                act()
                said.append("changed")
            except PermissionError as error:
                said.append(str(error))
        if "changed" not in said:
            raise RuntimeError(repr(said))
        return target.log_posteriors(candidates.x)[:, 0]
