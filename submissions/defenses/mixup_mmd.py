"""MixupMMD: mixup, and a penalty that draws members' posteriors towards those of other samples of their classes.

Source: Li et al. 2021 (mixup with Beta(1, 1); squared maximum mean discrepancy with a Gaussian kernel of width 1,
biased estimate), with the weight 3 of He et al. 2022. Each epoch trains on mixed batches. Where the accuracies on
training and reference data then lie `gap` or more apart, a second pass minimises `weight` times the discrepancy between
the posteriors of a training batch and those of reference samples of the same classes; the latter are constants. There
is no second pass in the last epoch.

Differences: the published code calls its held-out data validation; here it is the reference part (RULES 6). Batches
of the second pass are shuffled, as in the paper's own code and not sorted by class as in He et al.'s. It runs in eval
mode, as there, so that reference samples never enter the statistics of BatchNorm. The schedule steps once an epoch,
whether or not the second pass runs. A training sample whose class the reference part lacks takes no part in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Defense, Field, Hyper, Samples, Search, Training, bfloat16

CHUNK = 1000
"""Images in each call when accuracy is measured."""


class MixupMMD(Defense):
    """Mixup, and a second pass that draws training and reference posteriors together."""

    card = Card(
        title="MixupMMD",
        authors=("Li", "Li", "Ribeiro"),
        reference="Membership Inference Attacks and Defenses in Classification Models, CODASPY 2021",
        year=2021,
    )
    stages = ("training",)
    uses = frozenset({"reference"})

    class Params(Hyper):
        """`weight` of the discrepancy (the paper's lambda); `mixup`, both parameters of Beta; `gap` as a share."""

        weight: Annotated[float, Field(ge=0), Search(1, 20, log=True, grid=(1, 2, 5, 10, 20))] = 3.0
        mixup: Annotated[float, Field(gt=0), Search(0.1, 2, log=True)] = 1.0
        gap: Annotated[float, Field(ge=0, le=1), Search(0, 0.1)] = 0.03

    def train(self, training: Training) -> nn.Module:
        """Train on `training.train` with partners from `training.reference`. Raises ValueError where that is empty."""
        if not len(training.reference):
            raise ValueError("mixup_mmd: expected a split with a reference part, given none")
        recipe, device = training.recipe, training.device
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        low = bfloat16(device, recipe.precision == "bfloat16")
        network = self.network(training).to(device, memory_format=layout).train()
        optimizer = _optimizer(network, recipe)
        schedule = training.schedule(optimizer)
        order, views, pairing = (training.generator(name) for name in ("order", "augmentation", "pairing"))
        mixing = np.random.default_rng(int(torch.randint(2**62, (), generator=training.generator("mixup"))))
        train, reference = (
            Samples(part.x.to(device), part.y.to(device)) for part in (training.train, training.reference)
        )
        partners = Partners(reference.y, training.classes)

        def batches() -> tuple[Tensor, ...]:
            rows = torch.randperm(len(train), generator=order).to(device)
            parts: tuple[Tensor, ...] = rows.split(recipe.batch_size)
            return parts

        def answer(x: Tensor) -> Tensor:
            with low:
                logits: Tensor = network(x.contiguous(memory_format=layout))
            return logits.float()

        def descend(value: Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()

        for epoch in training.epochs(network):
            for rows in batches():
                x, y = training.augment(train.x[rows], views), train.y[rows]
                share = float(mixing.beta(self.params.mixup, self.params.mixup))
                other = torch.randperm(len(y), generator=pairing).to(device)
                descend(mixed_loss(answer(mix(x, x[other], share)), y, y[other], share))
            if epoch + 1 < recipe.epochs and self.params.weight > 0:
                network.eval()
                if self.applies(accuracy(network, train), accuracy(network, reference)):
                    for rows in batches():
                        known, chosen = partners.draw(train.y[rows], pairing)
                        if not len(known):
                            continue
                        x = training.augment(torch.cat([train.x[rows][known], reference.x[chosen]]), views)
                        members, others = answer(x).softmax(1).chunk(2)
                        descend(self.params.weight * squared_mmd(members, others.detach()))
                network.train()
            schedule.step()
        return network.eval()

    def applies(self, inside: float, outside: float) -> bool:
        """Whether accuracies on training and reference data lie far enough apart for the second pass."""
        return round(abs(inside - outside), 9) >= self.params.gap  # as floats, 0.93 - 0.9 is a little less than 0.03


class Partners:
    """Finds random samples of given classes among labels (m,)."""

    def __init__(self, y: Tensor, classes: int) -> None:
        self.sorted = y.argsort(stable=True)
        self.count = torch.bincount(y, minlength=classes)
        self.start = self.count.cumsum(0) - self.count

    def draw(self, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions in y (n,) whose class is among the labels, and for each of them a random sample of its class."""
        known = (self.count[y] > 0).nonzero().squeeze(1)
        label = y[known]
        place = torch.rand(len(label), generator=generator, dtype=torch.float64).to(y.device) * self.count[label]
        return known, self.sorted[self.start[label] + place.long()]


def mix(x: Tensor, other: Tensor, share: float) -> Tensor:
    """share * x + (1 - share) * other, images (n, c, h, w)."""
    return share * x + (1 - share) * other


def mixed_loss(logits: Tensor, y: Tensor, other: Tensor, share: float) -> Tensor:
    """Mean cross-entropy of logits (n, k) in nats against both labels (n,), in their shares."""
    first, second = (nn.functional.cross_entropy(logits, label) for label in (y, other))
    return share * first + (1 - share) * second


def squared_mmd(a: Tensor, b: Tensor) -> Tensor:
    """Biased squared maximum mean discrepancy of samples (n, k) and (m, k), Gaussian kernel of width 1."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)
        return (-distance / 2).exp().mean()

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


@torch.no_grad()
def accuracy(network: nn.Module, samples: Samples) -> float:
    """Share of samples that a network in eval mode gets right."""
    right = [
        (network(x).argmax(1) == y).sum() for x, y in zip(samples.x.split(CHUNK), samples.y.split(CHUNK), strict=True)
    ]
    return int(torch.stack(right).sum()) / len(samples)


def _optimizer(network: nn.Module, recipe: Any) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(network.parameters(), rate, momentum=recipe.momentum, weight_decay=decay, fused=True)
