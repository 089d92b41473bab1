"""Small ReLU perceptrons for neural attacks, trained for several seeds at once.

Neural attacks run with three attack seeds, so that their spread shows (Miae, CCS 2025: attacks of equal AUC flag
different members from seed to seed). All seeds train in one batched computation, at little more than the cost of one.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor


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
        y = y.detach().cpu()
        self.mean, self.scale = x.mean(0), x.std(0).clamp_min(1e-6)
        x = (x - self.mean) / self.scale
        for w in self.weights:
            w.requires_grad_()
        optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        extra = {"momentum": 0.9} if optimizer == "sgd" else {}
        update = optimizers[optimizer](self.weights, lr=learning_rate, weight_decay=weight_decay, fused=True, **extra)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(update, epochs)
        seed_rows = torch.arange(self.seeds).unsqueeze(1)
        for _ in range(epochs):
            order = torch.rand(self.seeds, len(x), generator=self.generator).argsort(1)
            for batch in order.split(batch_size, dim=1):
                logits = self._forward(x[batch])
                loss = logits.logsumexp(2).sub(logits[seed_rows, torch.arange(batch.shape[1]), y[batch]]).mean(1).sum()
                update.zero_grad(set_to_none=True)
                loss.backward()
                update.step()
            schedule.step()
        for w in self.weights:
            w.requires_grad_(False)
        return self

    def log_posteriors(self, x: Tensor) -> Tensor:
        """Log-posteriors (s, n, outputs) float64 of x (n, inputs), on the CPU."""
        x = (x.detach().to("cpu", torch.float32) - self.mean) / self.scale
        return self._forward(x.expand(self.seeds, -1, -1)).double().log_softmax(2)

    def _forward(self, x: Tensor) -> Tensor:
        for i in range(0, len(self.weights), 2):
            x = torch.baddbmm(self.weights[i + 1], x, self.weights[i])
            if i + 2 < len(self.weights):
                x = x.relu()
        return x
