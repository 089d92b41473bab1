"""Query with NaN, infinities and images of another shape, to break the judge's handlers."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "checks on every query; an error ends this scenario alone"
STATUS = ("failed",)
REASON = "'refused', 'refused'"


class Hostile(Attack):
    """See above."""

    card = Card(title="Asks weird images", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        shapes = (
            candidates.x * float("nan"),
            candidates.x * float("inf"),
            candidates.x[:0],
            candidates.x[:, :, :1],
            candidates.x.double(),
        )
        for x in shapes:
            try:
                target.log_posteriors(x)
                said.append("answered")
            except ValueError:
                said.append("refused")
        raise RuntimeError(repr(said))
