"""Write code as the type of the card itself."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "no annotation of a class attribute is looked at"
STATUS = ("ok",)


class Hostile(Attack):
    """See above."""

    card: """__import__("pathlib").Path("/host").joinpath("redteam-was-here").touch() or int""" = Card(
        title="Annotates the card", authors=(), reference="tests/redteam", year=None
    )
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
