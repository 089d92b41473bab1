"""Train a network of two gigabytes, to fill the store and the judge's memory."""

import torch
from torch import nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "limits on memory and on messages"
STATUS = ("failed", "out-of-memory")
REASON = "memory|MiB|more than"


class Hostile(Defense):
    """See above."""

    card = Card(title="Trains giants", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        network = self.network(training)
        network.giant = nn.Parameter(torch.zeros(1 << 29))
        return network
