"""Search a range without an end, so that a tuner draws what no float holds."""

from torch import Tensor

from benchmark.api import Annotated, Attack, Candidates, Card, Hyper, References, Search, Target

STOPPED_BY = "ends of a range are finite numbers"
STATUS = ("refused",)
REASON = "finite"


class Hostile(Attack):
    """See above."""

    card = Card(title="Searches without end", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: Annotated[float, Search(-1e999, 1e999)] = 1.0

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
