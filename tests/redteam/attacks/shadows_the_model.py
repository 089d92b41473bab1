"""Name a hyperparameter like what the judge calls on the model, so that its value is called."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, References, Target

STOPPED_BY = "names of the model are taken"
STATUS = ("refused",)
REASON = "this one is taken"


class Hostile(Attack):
    """See above."""

    card = Card(title="Shadows the model", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        model_dump: int = 1  # type: ignore

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
