"""Be harmless when read, and another file when run."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "what runs is the text that was checked"
STATUS = ("ok",)
SWAPPED = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Changes after reading", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
