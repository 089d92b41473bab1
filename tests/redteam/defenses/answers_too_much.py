"""Answer with more rows than were asked for."""

from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict

STOPPED_BY = "every answer is held to shape and type"
STATUS = ("failed",)
REASON = "expected 60x10|expected .*x10"


class Hostile(Defense):
    """See above."""

    card = Card(title="Answers too much", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        return lambda x: predict(x).repeat(1000, 1)
