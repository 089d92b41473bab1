"""Differentially private SGD: per-sample gradients clipped and noised, on Poisson batches.

Source: Abadi et al. 2016, algorithm 1, with the clipping, noise and accountant of Opacus. He et al. 2022 use
noise 0.001 and Liu et al. 2022 epsilon below 10; only the latter is a privacy guarantee worth the name.

BatchNorm mixes the samples of a batch, so it becomes GroupNorm: compare with an undefended target in the same
norm (RULES 31). Training runs in float32. Epochs are the recipe's, as for every defense (RULES 23).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Claims, Defense, Field, Hyper, Search, Task

GRADIENT_ELEMENTS = 2**27
"""Per-sample gradients held at a time, in float32 elements (512 MB): larger batches go in parts."""


class DPSGD(Defense):
    """The recipe's optimiser on clipped and noised sums of per-sample gradients."""

    card = Card(
        title="DP-SGD",
        authors=("Abadi", "Chu", "Goodfellow", "McMahan", "Mironov", "Talwar", "Zhang"),
        reference="Deep Learning with Differential Privacy, CCS 2016",
        year=2016,
    )
    stages = ("training",)

    class Params(Hyper):
        """Noise is in units of `max_grad_norm`; None stands for the recipe's value."""

        noise_multiplier: Annotated[float, Field(gt=0), Search(0.1, 4, log=True)] = 1.0
        max_grad_norm: Annotated[float, Field(gt=0), Search(0.1, 10, log=True)] = 1.0
        learning_rate: Annotated[float | None, Field(gt=0), Search(0.01, 4, log=True)] = None
        batch_size: Annotated[int | None, Field(ge=1), Search(32, 512, log=True)] = None

    def network(self, task: Task) -> nn.Module:
        """The protocol's network with GroupNorm in the place of BatchNorm."""
        from opacus.validators import ModuleValidator

        return ModuleValidator.fix(task.build())

    def sampling(self, task: Task) -> tuple[float, int]:
        """The rate at which a sample enters a batch, and the batches an epoch: ceil(1 / rate)."""
        n = len(task.train)
        batch_size = min(self.params.batch_size or task.recipe.batch_size, n)
        return batch_size / n, math.ceil(n / batch_size)

    def train(self, task: Task) -> nn.Module:
        """Train on Poisson batches drawn from `task.train`; an empty batch is a step of pure noise.

        The batches and the noise have generators of their own, so that neither depends on the other.
        """
        from opacus.optimizers import DPOptimizer

        network = self.network(task).to(task.device).train()
        rate, batches = self.sampling(task)
        optimizer = DPOptimizer(
            self._optimizer(network, task.recipe),
            noise_multiplier=self.params.noise_multiplier,
            max_grad_norm=self.params.max_grad_norm,
            expected_batch_size=rate * len(task.train),
            loss_reduction="mean",
            generator=_on_device(task.generator("noise"), task.device),
        )
        schedule = task.schedule(optimizer.original_optimizer)
        poisson, views = task.generator("poisson"), task.generator("augmentation")
        x, y = task.train.x.to(task.device), task.train.y.to(task.device)
        for _ in task.epochs(network):
            for _ in range(batches):
                drawn = torch.rand(len(y), generator=poisson, dtype=torch.float64) < rate
                index = drawn.nonzero().squeeze(1).to(task.device)
                self._step(network, optimizer, task.augment(x[index], views), y[index])
            schedule.step()
        for p in network.parameters():
            p.grad = p.grad_sample = p.summed_grad = None  # type: ignore[attr-defined]
        return network.eval()

    def claims(self, task: Task) -> Claims:
        """Epsilon at delta = 1e-5, or at a tenth of 1 / n where 1e-5 is not below 1 / n (Mironov 2017, RDP)."""
        from opacus.accountants import RDPAccountant

        rate, batches = self.sampling(task)
        delta = 1e-5 if len(task.train) < 1e5 else 0.1 / len(task.train)
        accountant = RDPAccountant()
        accountant.history = [(self.params.noise_multiplier, rate, task.recipe.epochs * batches)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the best order at the edge of the range is a looser bound, still valid
            epsilon = accountant.get_epsilon(delta)
        return Claims(epsilon, delta, accountant="RDP", adjacency="add/remove one", sampling="Poisson")

    def _optimizer(self, network: nn.Module, recipe: Any) -> torch.optim.Optimizer:
        rate = self.params.learning_rate or recipe.learning_rate
        if recipe.optimizer == "adam":
            return torch.optim.Adam(network.parameters(), rate, weight_decay=recipe.weight_decay)
        return torch.optim.SGD(network.parameters(), rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

    def _step(self, network: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> None:
        """One update; a batch whose per-sample gradients do not fit at once is clipped and summed in parts."""
        parameters = dict(network.named_parameters())
        values = {name: p.detach() for name, p in parameters.items()}

        def cost(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = torch.func.functional_call(network, values, (x.unsqueeze(0),))
            return self.loss(logits, y.unsqueeze(0)).squeeze(0)

        gradients = torch.func.vmap(torch.func.grad(cost), (None, 0, 0))
        size = max(1, GRADIENT_ELEMENTS // sum(p.numel() for p in parameters.values()))
        parts = list(zip(x.split(size), y.split(size), strict=True))
        for i, part in enumerate(parts):
            samples = gradients(values, *part) if len(part[0]) else {}
            for name, p in parameters.items():
                p.grad_sample = samples.get(name, p.new_zeros(0, *p.shape))  # type: ignore[attr-defined]
            optimizer.signal_skip_step(i < len(parts) - 1)
            optimizer.step()
            optimizer.zero_grad()


def _on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on the device, seeded from one on the CPU: noise is drawn where the gradients lie."""
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
