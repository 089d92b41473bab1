"""Store an artifact under names with .. and / that lead out of the store."""

import torch
from torch import nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "names are hashed into keys, never used as paths"
STATUS = ("ok",)

HOST = "/host"


class Hostile(Defense):
    """See above."""

    card = Card(title="Names a path", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        training.artifact("../../../../../.." + HOST + "/redteam-was-here", lambda: {"x": torch.ones(3)})
        return training.fit(self.network(training))
