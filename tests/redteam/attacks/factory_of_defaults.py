"""Give a default that is made by calling something."""

import pathlib

from torch import Tensor

from benchmark.api import Annotated, Attack, Candidates, Card, Field, Hyper, References, Target

STOPPED_BY = "Field says bounds and a description, nothing that is called"
STATUS = ("refused",)
REASON = "given default_factory"


class Hostile(Attack):
    """See above."""

    card = Card(title="Factory of defaults", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: Annotated[
            int, Field(default_factory=lambda: int(pathlib.Path("/host").joinpath("redteam-was-here").touch() or 1))
        ] = 1

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
