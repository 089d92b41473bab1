"""Small ReLU perceptrons for neural attacks, trained for several seeds at once.

Neural attacks run with three attack seeds, so that their spread shows (Miae, CCS 2025: attacks of equal AUC flag
different members from seed to seed). All seeds train in one batched computation, at little more than the cost of one.
Such a step is a microsecond of arithmetic; autograd and torch.optim would be most of its time. So gradients and updates
are written out here, on weights that lie in one tensor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn


class Perceptron:
    """s independent perceptrons, inputs -> hidden... -> outputs, on the same data, each with its own shuffle.

    `seeds` is s; `generator` (CPU) draws weights and shuffles. The defaults are how He et al. 2022 train attack networks: SGD,
    momentum 0.9, weight decay 5e-4, a cosine schedule, 100 epochs, batches of 128 (MEMBERSHIP-DOCTOR, section 4.1).
    """

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], outputs: int, *, generator: torch.Generator, seeds: int = 3
    ):
        self.generator = generator
        self.seeds = seeds
        widths = (inputs, *hidden, outputs)
        self.mean = torch.zeros(inputs)
        self.scale = torch.ones(inputs)
        self.weights: list[Tensor] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            bound = 1 / math.sqrt(fan_in)  # PyTorch's own initialisation of a linear layer
            for shape in ((seeds, fan_in, fan_out), (seeds, 1, fan_out)):
                self.weights.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        y: Tensor,
        *,
        epochs: int = 100,
        batch_size: int = 128,
        learning_rate: float = 0.01,
        optimizer: Literal["sgd", "adam"] = "sgd",
        weight_decay: float = 5e-4,
    ) -> Perceptron:
        """Train on x (n, inputs) and labels y (n,) int64, with cross-entropy; returns itself.

        Inputs are standardised by the mean and standard deviation of this data, later ones too.
        """
        x = x.detach().to("cpu", torch.float32)
        self.mean, self.scale = x.mean(0), x.std(0).clamp_min(1e-6)
        x = (x - self.mean) / self.scale
        one_hot = nn.functional.one_hot(y.detach().cpu(), self.weights[-1].shape[2]).to(x)
        self.weights, flat = _side_by_side(self.weights)
        gradients, flat_gradient = _side_by_side(self.weights)
        update = {"sgd": _sgd, "adam": _adam}[optimizer](flat, flat_gradient, weight_decay)
        for epoch in range(epochs):
            rate = learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
            order = torch.rand(self.seeds, len(x), generator=self.generator).argsort(1)
            for inputs, wanted in zip(x[order].split(batch_size, 1), one_hot[order].split(batch_size, 1), strict=True):
                self._backward(inputs, wanted, gradients)
                update(rate)
        return self

    def _backward(self, x: Tensor, wanted: Tensor, gradients: list[Tensor]) -> None:
        """Write the gradients of the mean cross-entropy of x (s, b, inputs) with one-hot labels `wanted` (s, b, outputs)."""
        values = [x]
        for i in range(0, len(self.weights), 2):
            values.append(torch.baddbmm(self.weights[i + 1], values[-1], self.weights[i]))
            if i + 2 < len(self.weights):
                values[-1].relu_()
        # Over two classes softmax itself takes twice as long.
        error = values[-1].sub_(values[-1].amax(2, keepdim=True)).exp_()
        error = error.div_(error.sum(2, keepdim=True)).sub_(wanted).div_(x.shape[1])
        for i in range(len(self.weights) - 2, -2, -2):
            value = values[i // 2]
            torch.bmm(value.mT, error, out=gradients[i])
            torch.sum(error, 1, keepdim=True, out=gradients[i + 1])
            if i:
                error = torch.bmm(error, self.weights[i].mT)
                error = torch.ops.aten.threshold_backward(error, value, 0)

    @torch.no_grad()
    def log_posteriors(self, x: Tensor) -> Tensor:
        """Log-posteriors (s, n, outputs) float64 of x (n, inputs), on the CPU."""
        x = (x.detach().to("cpu", torch.float32) - self.mean) / self.scale
        x = x.expand(self.seeds, -1, -1)
        for i in range(0, len(self.weights), 2):
            x = torch.baddbmm(self.weights[i + 1], x, self.weights[i])
            if i + 2 < len(self.weights):
                x = x.relu_()
        return x.double().log_softmax(2)


def _side_by_side(tensors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Copies of the tensors as views of one flat tensor, and that."""
    flat = torch.cat([t.flatten() for t in tensors])
    parts = flat.split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)], flat


def _sgd(weights: Tensor, gradient: Tensor, weight_decay: float) -> Callable[[float], None]:
    """A step of SGD with momentum 0.9, as torch.optim.SGD takes it; its argument is the learning rate."""
    velocity = torch.zeros_like(weights)

    def step(rate: float) -> None:
        velocity.mul_(0.9).add_(gradient).add_(weights, alpha=weight_decay)
        weights.add_(velocity, alpha=-rate)

    return step


def _adam(weights: Tensor, gradient: Tensor, weight_decay: float) -> Callable[[float], None]:
    """A step of Adam with betas 0.9 and 0.999, as torch.optim.Adam takes it; its argument is the learning rate."""
    mean, square, steps = torch.zeros_like(weights), torch.zeros_like(weights), itertools.count(1)

    def step(rate: float) -> None:
        t = next(steps)
        gradient.add_(weights, alpha=weight_decay)
        mean.lerp_(gradient, 0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        deviation = square.sqrt().div_(math.sqrt(1 - 0.999**t)).add_(1e-8)
        weights.addcdiv_(mean, deviation, value=-rate / (1 - 0.9**t))

    return step
