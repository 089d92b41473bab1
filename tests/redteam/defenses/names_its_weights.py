"""Return weights under names with paths, escapes and another network's prefix."""

import torch
from torch import nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "names of tensors are checked; weights are loaded by name into the declared network"
STATUS = ("failed",)
REASON = "printable|Unexpected key"


class Hostile(Defense):
    """See above."""

    card = Card(title="Names its weights", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        network = training.fit(self.network(training))
        state = network.state_dict()
        network.state_dict = lambda: state | {"../../x": torch.ones(1), "\x1b[2J": torch.ones(1)}
        return network
