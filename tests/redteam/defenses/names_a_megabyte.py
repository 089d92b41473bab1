"""Store an artifact under a name of a megabyte."""

import torch
from torch import nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "the limit on names"
STATUS = ("failed",)
REASON = "at most 200 characters"


class Hostile(Defense):
    """See above."""

    card = Card(title="Names a megabyte", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        training.artifact("x" * 1_000_000, lambda: {"x": torch.ones(3)})
        return training.fit(self.network(training))
