"""Write code where a type stands: who resolves annotations runs it, and listing the folder is enough."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, References, Target

STOPPED_BY = "the closed table of types: a text of a file reaches no library that evaluates it"
STATUS = ("refused",)
REASON = "line"


class Hostile(Attack):
    """See above."""

    card = Card(title="Annotates with code", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: """__import__("pathlib").Path("/host").joinpath("redteam-was-here").touch() or int""" = 1

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
