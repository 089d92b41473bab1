"""TRADES: cross-entropy on the images, and a penalty on how much the answer changes in the ball around them.

Source: Zhang et al. 2019, equation 5 and algorithm 1: CE(f(x), y) + beta * KL(f(x) || f(x')), averaged over the batch,
x' by 10 sign steps up that divergence from x + 0.001 * N(0, 1), in eval mode, within the ball and [0, 1]. Settings of
Song et al. 2019: beta 1 (6 in the authors' code), radius 0.1 of pixels in [0, 1] on 28x28 grey images; steps of 0.02,
the share of the radius that CIFAR-10's 0.007 is of its 0.031. `as_released=true` is Song et al.'s code: the clean
answer is a constant in the penalty, so that only the answer at x' is pulled. The authors' code, and this default, pull
both. (In the attack the clean answer is constant either way.)

Differences: optimiser, epochs and batches are the recipe's (RULES 23). Where a protocol trains in bfloat16, the attack
does not move about one image in a hundred: at its start both answers are equal in bfloat16, and the gradient is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from benchmark.api import Annotated, Card, Claims, Defense, Field, Hyper, Search, Training

START = 1e-3
"""Standard deviation of the noise that the attack starts with: at x itself the divergence has no gradient."""


class TRADES(Defense):
    """The natural loss and beta times the divergence that an attack finds."""

    card = Card(
        title="TRADES",
        authors=("Zhang", "Yu", "Jiao", "Xing", "El Ghaoui", "Jordan"),
        reference="Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019, arXiv:1901.08573",
        year=2019,
    )
    stages = ("training",)

    class Params(Hyper):
        """The penalty's weight, the largest change of a pixel, the steps and their size, whose answer is constant."""

        beta: Annotated[float, Field(gt=0), Search(0.3, 10, log=True)] = 1.0
        epsilon: Annotated[float, Field(gt=0, le=1), Search(0.01, 0.3, log=True)] = 0.1
        steps: Annotated[int, Field(ge=1), Search(1, 20)] = 10
        step_size: Annotated[float, Field(gt=0, le=1), Search(0.005, 0.1, log=True)] = 0.02
        as_released: bool = False

    def train(self, training: Training) -> nn.Module:
        """Train by the recipe on images made anew for every batch."""
        starts = training.generator("start")

        def cost(network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
            network.eval()
            attacked = self.attack(network, x, starts)
            network.train()
            return self.penalised(network(x), network(attacked), y)

        return training.fit(self.network(training), cost=cost)

    def penalised(self, logits: Tensor, attacked: Tensor, y: Tensor) -> Tensor:
        """The scalar to descend, from logits (n, k) at the images and at the attacked ones."""
        clean = logits.log_softmax(1)
        if self.params.as_released:
            clean = clean.detach()
        divergence = kl_div(attacked.log_softmax(1), clean, reduction="batchmean", log_target=True)
        return cross_entropy(logits, y) + self.params.beta * divergence

    def attack(self, network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images in [0, 1], at most epsilon from x (n, c, h, w) in every pixel, where the answer diverges more."""
        epsilon, step = self.params.epsilon, self.params.step_size
        low, high = (x - epsilon).clamp(0, 1), (x + epsilon).clamp(0, 1)
        with torch.no_grad():
            clean = network(x).log_softmax(1)
        image = x + START * torch.randn(x.shape, generator=generator).to(x)
        for _ in range(self.params.steps):
            image.requires_grad_()
            divergence = kl_div(network(image).log_softmax(1), clean, reduction="sum", log_target=True)
            (gradient,) = torch.autograd.grad(divergence, image)
            image = torch.clamp(image.detach() + step * gradient.sign(), low, high)
        return image

    def claims(self, training: Training) -> Claims:
        """The radius that training aimed at."""
        return Claims(robust=self.params.epsilon)
