"""Null row of stealing (RULES 18): the score of a copy trained on auxiliary labels, without asking the target."""

import math
from collections.abc import Callable

import torch
from torch import nn

from benchmark.api import Annotated, Card, Field, Hyper, Knowledge, Samples, Search, StealingAttack, Target


class StealNull(StealingAttack):
    """Trains the target's architecture on the auxiliary data by cross-entropy, as `steal_mse` trains its copy."""

    card = Card(
        title="Auxiliary labels, no stealing",
        authors=("Leakboard",),
        reference="Null row of model stealing",
        year=None,
        null=True,
    )
    access = "label"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        """The recipe of `steal_mse`: SGD, momentum 0.9, batches of 64."""

        epochs: Annotated[int, Field(ge=1), Search(10, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1.0, log=True)] = 1e-2

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device and the generator that shuffles."""
        self.device, self.generator = knowledge.device, knowledge.generator("steal")

    def steal(self, target: Target, queries: Samples, build: Callable[[], nn.Module]) -> nn.Module:
        """The trained network, in eval mode on the scenario's device; the target is never asked."""
        network = build().to(self.device).train()
        x, y = queries.x.to(self.device), queries.y.to(self.device)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.params.learning_rate, momentum=0.9)
        for _ in range(self.params.epochs):
            # Batches of nearly equal size: BatchNorm cannot train on a last batch of one image.
            order = torch.randperm(len(x), generator=self.generator).to(self.device)
            for part in order.tensor_split(math.ceil(len(x) / 64)):
                loss = nn.functional.cross_entropy(network(x[part]), y[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return network.eval()
