"""Leave symbolic links in scratch that lead to the store, for the judge to follow."""

import os

from torch import nn

from benchmark.api import Card, Defense, Training

STOPPED_BY = "the judge reads nothing of the sandbox's files"
STATUS = ("ok",)

HOST = "/host"


class Hostile(Defense):
    """See above."""

    card = Card(title="Links out", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def train(self, training: Training) -> nn.Module:
        for folder in ("/tmp", "/dev/shm"):
            os.symlink(f"{HOST}/store", f"{folder}/store")
            os.symlink("/leakboard", f"{folder}/code")
        return training.fit(self.network(training))
