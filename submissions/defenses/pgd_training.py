"""PGD adversarial training: the network is trained on the worst images that PGD finds around each training image.

Source: Madry et al. 2018, section 2.1, with the settings of Song et al. 2019, section 4, on 28x28 grey images: radius
0.1 (of pixels in [0, 1]), 8 sign steps of 0.02 from a random start in the ball; the batch is adversarial throughout.
The attack goes through the network as it trains: BatchNorm takes the batch's own statistics, and, as in the released
code, only the training step itself moves the running ones. `share` of the training points, always the same ones, get
the robust loss and the others the natural loss (table 5); `epsilon` is the budget (table 6), for CIFAR-10 8/255 with
10 steps of 2/255. With share=0 this is natural training, measured at the same radius, as in table 5.

Differences: optimiser, epochs and batches are the recipe's (RULES 23).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Claims, Defense, Field, Hyper, Search, Training


class PGDTraining(Defense):
    """Cross-entropy on images that PGD made of the batch."""

    card = Card(
        title="PGD adversarial training",
        authors=("Aleksander Madry", "Aleksandar Makelov", "Ludwig Schmidt", "Dimitris Tsipras", "Adrian Vladu"),
        reference="Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, arXiv:1706.06083",
        year=2018,
    )
    stages = ("training",)

    class Params(Hyper):
        """The largest change of a pixel, PGD's steps and their size, the share of points with the robust loss."""

        epsilon: Annotated[float, Field(gt=0, le=1), Search(0.01, 0.3, log=True)] = 0.1
        steps: Annotated[int, Field(ge=1), Search(1, 20)] = 8
        step_size: Annotated[float, Field(gt=0, le=1), Search(0.005, 0.1, log=True)] = 0.02
        share: Annotated[float, Field(ge=0, le=1), Search(0, 1)] = 1.0

    def train(self, training: Training) -> nn.Module:
        """Train by the recipe on images made anew for every batch."""
        starts = training.generator("start")

        def cost(network: nn.Module, x: Tensor, targets: Tensor, epoch: int) -> Tensor:
            y, robust = targets.unbind(1)
            if self.params.share > 0:
                reach = self.params.epsilon * robust.view(-1, 1, 1, 1).to(x)
                x = self.attack(network, x, y, reach, starts)
            return nn.functional.cross_entropy(network(x), y)

        return training.fit(self.network(training), cost=cost, targets=self.targets(training))

    def targets(self, training: Training) -> Tensor:
        """Labels and 0 or 1 for the robust loss, (n, 2) int64: round(share * n) points, drawn once."""
        n = len(training.train)
        robust = torch.zeros(n, dtype=torch.int64)
        drawn = torch.randperm(n, generator=training.generator("share"))
        robust[drawn[: round(self.params.share * n)]] = 1
        return torch.stack([training.train.y, robust], 1)

    def attack(
        self, network: nn.Module, x: Tensor, y: Tensor, reach: float | Tensor, generator: torch.Generator
    ) -> Tensor:
        """Images in [0, 1], at most `reach` from x (n, c, h, w) in every pixel; reach broadcasts to x.

        Points with reach 0 stay as they are but pass through the network with the others, as in the training step.
        """
        low, high = (x - reach).clamp(0, 1), (x + reach).clamp(0, 1)
        noise = (2 * torch.rand(x.shape, generator=generator) - 1).to(x)
        image = torch.clamp(x + reach * noise, low, high)
        with statistics_kept(network):
            for _ in range(self.params.steps):
                image.requires_grad_()
                loss = nn.functional.cross_entropy(network(image), y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, image)
                image = torch.clamp(image.detach() + self.params.step_size * gradient.sign(), low, high)
        return image

    def claims(self, training: Training) -> Claims:
        """The radius that training aimed at."""
        return Claims(robust=self.params.epsilon)


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """In this context BatchNorm in training mode normalises by the batch but does not update its running statistics."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
