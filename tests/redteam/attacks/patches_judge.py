"""Replace the function that computes the metrics, so that every score is perfect."""

import importlib

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "a process of its own: the judge computes the metrics in another"
STATUS = ("ok",)
CONTROL = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Patches judge", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        judge = importlib.import_module("benchmark.judge.kinds.membership")
        report = judge.membership_report
        judge.membership_report = lambda scores, members, *a, **k: report(members[None].astype(float), members, *a, **k)
        return target.log_posteriors(candidates.x)[:, 0]
