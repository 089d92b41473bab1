"""Put terminal escapes and a page's script into the description of a hyperparameter."""

from torch import Tensor

from benchmark.api import Annotated, Attack, Candidates, Card, Field, Hyper, References, Target

STOPPED_BY = "descriptions are printable lines"
STATUS = ("refused",)
REASON = "printable"


class Hostile(Attack):
    """See above."""

    card = Card(title="Describes with escapes", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: Annotated[int, Field(description="\x1b]0;owned\x07<script>alert(1)</script>")] = 1

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
