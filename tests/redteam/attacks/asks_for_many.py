"""Ask for 150,000 images at once, each of which costs the judge more than its pixels."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the limit on the images of a query"
STATUS = ("failed",)
REASON = "images at once"


class Hostile(Attack):
    """See above."""

    card = Card(title="Asks for many", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        many = candidates.x[:1].repeat(150_000, 1, 1, 1)
        return target._work.ask("log_posteriors", {"target": 0}, {"x": many})["value"][: len(candidates), 0]
