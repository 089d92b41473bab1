"""Answer with numbers that are no posteriors: positive, NaN, not summing to one."""

from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict

STOPPED_BY = "every answer is held to the contract"
STATUS = ("failed",)
REASON = "expected log-posteriors of at most 0"


class Hostile(Defense):
    """See above."""

    card = Card(title="Answers unequal", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        return lambda x: predict(x) * 0 + 5.0
