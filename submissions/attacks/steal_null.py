"""Null row of stealing (RULES 18): the score of a copy trained on auxiliary labels, without asking the target.

The defaults train as `steal_mse` does. With `schedule=cosine` and `augment=true` it trains as `steal_posteriors` and `steal_labels` do, on
as many images as their `queries`, in their `architecture`.
"""

from collections.abc import Callable

import torch
from torch import nn

from benchmark.api import (
    Annotated,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    Samples,
    Search,
    StealingAttack,
    Target,
    certain,
    train_copy,
)


class StealNull(StealingAttack):
    """Trains a network on the auxiliary data by cross-entropy."""

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
        """The recipe of `steal_mse`: SGD, momentum 0.9, batches of 64. `queries`: images that it trains on, None for all."""

        epochs: Annotated[int, Field(ge=1), Search(10, 100)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1.0, log=True)] = 1e-2
        schedule: Literal["constant", "cosine"] = "constant"
        augment: bool = False
        queries: Annotated[int | None, Field(ge=1)] = None
        architecture: Literal[None, "small_cnn", "simple_cnn", "resnet18", "vgg11"] = None

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device, the generators and the simple augmentation."""
        self.knowledge = knowledge

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        """The trained network, in eval mode on the scenario's device; the target is never asked."""
        p, known = self.params, self.knowledge
        network = build() if p.architecture is None else build(p.architecture)
        count = len(queries) if p.queries is None else min(p.queries, len(queries))
        rows = (
            torch.randperm(len(queries), generator=known.generator("queries"))[:count].sort().values
        )  # those of the attacks
        return train_copy(
            network.to(known.device),
            queries.x[rows],
            certain(queries.y[rows], known.classes),
            loss="cross-entropy",
            epochs=p.epochs,
            learning_rate=p.learning_rate,
            schedule=p.schedule,
            simple=known.simple if p.augment else None,
            generator=known.generator("steal"),
        )
