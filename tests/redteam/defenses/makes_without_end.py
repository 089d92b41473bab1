"""Nest artifacts in artifacts without end."""

from torch import Tensor, nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "the limit on calls within calls"
STATUS = ("failed",)
REASON = "calls within calls"


class Hostile(Defense):
    """See above."""

    card = Card(title="Makes without end", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        def make(depth: int) -> dict[str, Tensor]:
            return training.artifact(f"level {depth}", lambda: make(depth + 1))

        make(0)
        return training.fit(self.network(training))
