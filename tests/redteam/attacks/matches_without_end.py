"""Give a hyperparameter a pattern that takes an age to match."""

from torch import Tensor

from benchmark.api import Annotated, Attack, Candidates, Card, Field, Hyper, References, Target

STOPPED_BY = "Field says bounds and a description, no pattern"
STATUS = ("refused",)
REASON = "given pattern"


class Hostile(Attack):
    """See above."""

    card = Card(title="Matches without end", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: Annotated[str, Field(pattern="^(a+)+$")] = (
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"
        )

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
