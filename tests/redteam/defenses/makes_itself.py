"""Make an artifact from itself, so that the judge waits for its own lock."""

from torch import Tensor, nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "the judge refuses a name that is being made: the lock knows its holder"
STATUS = ("failed",)
REASON = "made from itself"


class Hostile(Defense):
    """See above."""

    card = Card(title="Makes itself", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        def make() -> dict[str, Tensor]:
            return training.artifact("same", make)

        make()
        return training.fit(self.network(training))
