"""Inherit hyperparameters from a class that the judge does not read, so that one name stands for many settings."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, References, Target

STOPPED_BY = "Params have one base"
STATUS = ("refused",)
REASON = "without more"


class Hidden(Hyper):
    """Not read."""

    secret: int = 1


class Hostile(Attack):
    """See above."""

    card = Card(title="Inherits its params", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hidden):
        """One hyperparameter."""

        power: int = 1

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
