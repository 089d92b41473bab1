"""RelaxLoss: the training loss is held at a level above zero, so that members' losses resemble non-members'.

Source: Chen et al. 2022, algorithm 1. While the mean cross-entropy of a batch lies above `alpha`, the network minimises
it. Below, even epochs (counted from 0) raise it again: the loss is |mean - alpha|. Odd epochs raise it on samples that
are classified correctly and flatten the posteriors of the others: (1 - correct) * soft cross-entropy - cross-entropy,
where the soft label keeps the confidence in the true class, up to `upper`, and spreads the rest evenly.

`alpha` is 1.0, their value for ResNet-20 on ten classes (0.4 for VGG-11; Peng et al. 2025 use 0.05 to 0.3). A network
that guesses has the loss ln k, so that alpha lies below it. `as_released` lets the gradient through the soft label, as
the published code does by not detaching it; in the paper the soft label is a constant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Defense, Field, Hyper, Search, Training


class RelaxLoss(Defense):
    """Gradient ascent and flattened posteriors wherever the loss falls below its level."""

    card = Card(
        title="RelaxLoss",
        authors=("Chen", "Yu", "Fritz"),
        reference="RelaxLoss: Defending Membership Inference Attacks without Losing Utility, ICLR 2022",
        year=2022,
    )
    stages = ("training",)
    adaptive_attack = "random-image poisons (Aerni et al. 2024)"

    class Params(Hyper):
        """`alpha` is the level of the loss in nats, `upper` the largest confidence of a soft label."""

        alpha: Annotated[float, Field(ge=0), Search(0.05, 2)] = 1.0
        upper: Annotated[float, Field(gt=0, le=1), Search(0.5, 1)] = 1.0
        as_released: bool = False

    def train(self, training: Training) -> nn.Module:
        """Train by the recipe. Raises ValueError where alpha is not below ln k."""
        alpha, most = self.params.alpha, math.log(training.classes)
        if alpha >= most:
            raise ValueError(f"alpha: expected below ln k = {most:.4g} for {training.classes} classes, given {alpha}")

        def cost(network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
            return self.relaxed(network(x), y, epoch)

        return training.fit(self.network(training), cost=cost)

    def relaxed(self, logits: Tensor, y: Tensor, epoch: int) -> Tensor:
        """The scalar to descend for a batch of logits (n, k) and labels y (n,); it may be negative."""
        log_posteriors = logits.log_softmax(1)
        own = -log_posteriors.gather(1, y.unsqueeze(1)).squeeze(1)
        if epoch % 2 == 0:
            return (own.mean() - self.params.alpha).abs()
        flat = ((logits.argmax(1) != y) * -(self.soft_label(own, y, logits.shape[1]) * log_posteriors).sum(1)) - own
        # Both are cheap beside the network. A Python branch would have to wait for the GPU.
        return torch.where(own.mean() > self.params.alpha, own.mean(), flat.mean())

    def soft_label(self, own: Tensor, y: Tensor, classes: int) -> Tensor:
        """Labels (n, k): the confidence exp(-own), at most `upper`, in the true class; the rest is spread evenly."""
        confidence = (own if self.params.as_released else own.detach()).neg().exp().clamp_max(self.params.upper)
        rest = ((1 - confidence) / (classes - 1)).unsqueeze(1).repeat(1, classes)
        return rest.scatter(1, y.unsqueeze(1), confidence.unsqueeze(1))
