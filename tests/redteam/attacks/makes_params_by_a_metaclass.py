"""Let a metaclass of the hyperparameters add what the file does not say."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, References, Target

STOPPED_BY = "Params have one base and no keywords"
STATUS = ("refused",)
REASON = "without more"


class More(type(Hyper)):
    """Adds a field."""


class Hostile(Attack):
    """See above."""

    card = Card(title="Makes params by a metaclass", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper, metaclass=More):
        """One hyperparameter."""

        power: int = 1

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
