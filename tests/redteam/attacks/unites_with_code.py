"""Write code behind a Literal that makes it look like one more choice."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, Literal, References, Target

STOPPED_BY = "the closed table of types: a text of a file reaches no library that evaluates it"
STATUS = ("refused",)
REASON = "line"


class Hostile(Attack):
    """See above."""

    card = Card(title="Unites with code", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: Literal["a"] | """__import__("pathlib").Path("/host").joinpath("redteam-was-here").touch() or int""" = (
            "a"
        )

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
