"""Write code as the type of a tuple's items, which Python's own generics keep as text until someone evaluates it."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, References, Target

STOPPED_BY = "the closed table of types: a text of a file reaches no library that evaluates it"
STATUS = ("refused",)
REASON = "line"


class Hostile(Attack):
    """See above."""

    card = Card(title="Tuples of code", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: tuple["""__import__("pathlib").Path("/host").joinpath("redteam-was-here").touch() or int""", ...] = (1,)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
