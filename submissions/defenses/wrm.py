"""WRM: distributionally robust training, on images that are moved to raise the loss, at a cost of transport.

Source: Sinha, Namkoong and Duchi 2018, equation 2 and algorithm 1: maximise loss(x') - gamma * c(x, x') in x'.
`transport` names the cost c and with it the inner problem; g is a times the gradient of the loss at x':
- linf, the default: Song et al. 2019 (released code). From x itself, `steps` times: d = x' + g - x, and x' becomes
  x + d - mean|g| * sign(d), clipped to [0, 1]. 8 steps with a = 1 on 28x28 grey images; on CIFAR-10 10 steps with
  a = 12 / 255 in pixels of [0, 1].
- l2: Sinha et al. (released code). From x + g, steps number t = 0, 1, ... of size 1 / sqrt(t + 2) along g - (x' - x);
  a = 1 / (2 gamma). 15 steps with a = 1.3 on MNIST. Images may leave [0, 1].

Mind with linf: the mean of |g| is over the whole batch, so what becomes of a sample depends on the batch and on its
size; and nothing limits x', for the released code does not use the epsilon that it is given. Nor is `epsilon` used
here: it is the radius at which robust accuracy is measured. The gradient is that of each sample's own loss, on the
assumption that WRM sums the loss over the batch as the released code's other attacks do.

Differences: optimiser, epochs and batches are the recipe's (RULES 23). The inner problem goes through the network as it
trains; BatchNorm's running statistics are moved by the training step alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Claims, Defense, Field, Hyper, Literal, Search, Training


class WRM(Defense):
    """Cross-entropy on images that solve the inner problem for the batch."""

    card = Card(
        title="WRM (distributionally robust training)",
        authors=("Aman Sinha", "Hongseok Namkoong", "John Duchi"),
        reference="Certifying Some Distributional Robustness with Principled Adversarial Training, ICLR 2018; Song et al. 2019",
        year=2018,
    )
    stages = ("training",)

    class Params(Hyper):
        """The cost of transport, the inner steps, the factor of the gradient, the radius that is measured at."""

        transport: Literal["linf", "l2"] = "linf"
        steps: Annotated[int, Field(ge=1), Search(1, 20)] = 8
        a: Annotated[float, Field(gt=0), Search(0.01, 10, log=True)] = 1.0
        epsilon: Annotated[float, Field(gt=0, le=1)] = 0.1

    def train(self, training: Training) -> nn.Module:
        """Train by the recipe on images made anew for every batch."""

        def cost(network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
            return nn.functional.cross_entropy(network(self.moved(network, x, y)), y)

        return training.fit(self.network(training), cost=cost)

    def moved(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Images (n, c, h, w) after the inner problem; those of transport=l2 may leave [0, 1]."""
        a = self.params.a

        def pull(image: Tensor) -> Tensor:
            image = image.detach().requires_grad_()
            loss = nn.functional.cross_entropy(network(image), y, reduction="sum")
            return a * torch.autograd.grad(loss, image)[0]

        with statistics_kept(network):
            if self.params.transport == "l2":
                image = x + pull(x)
                for t in range(self.params.steps):
                    image = image + (pull(image) - (image - x)) / math.sqrt(t + 2)
                return image
            image = x
            for _ in range(self.params.steps):
                g = pull(image)
                change = image + g - x
                image = (x + change - g.abs().mean() * change.sign()).clamp(0, 1)
        return image

    def claims(self, training: Training) -> Claims:
        """The radius of the papers' comparison; training itself has none."""
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
