"""Store artifacts without end."""

import torch
from torch import nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "each piece of work has its share of the store"
STATUS = ("failed",)
REASON = "wanted to store more than"


class Hostile(Defense):
    """See above."""

    card = Card(title="Fills the store", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        i = 0
        while True:
            training.artifact(f"number {i}", lambda: {"x": torch.rand(1 << 20)})
            i += 1
