"""Store an artifact under a name with zeros, line ends and escapes."""

import torch
from torch import nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "names are hashed into keys"
STATUS = ("ok",)


class Hostile(Defense):
    """See above."""

    card = Card(title="Names a control", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        training.artifact("\0\n\x1b[2J\u202e/..", lambda: {"x": torch.ones(3)})
        return training.fit(self.network(training))
