"""Ask the stage before from within the answer to it, without end."""

from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict

STOPPED_BY = "the limit on time and on calls"
STATUS = ("timeout",)
REASON = "more than"


class Hostile(Defense):
    """See above."""

    card = Card(title="Asks itself", authors=(), reference="tests/redteam", year=None)
    stages = ("pre-inference",)

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        def answer(x: Tensor) -> Tensor:
            while True:
                predict(x[:1])

        return answer
