"""Differentially private SGD: per-sample gradients clipped and noised, on Poisson batches.

Source: Abadi et al. 2016, algorithm 1, with the clipping, noise and accountant of Opacus. He et al. 2022 use
noise 0.001 and Liu et al. 2022 epsilon below 10; only the latter is a privacy guarantee worth the name.

The strong recipe of Aerni et al. 2024 (after De et al. 2022) averages a sample's gradient over `augmult` augmented
views before it is clipped, at a high learning rate: for instance
`dp_sgd[augmentation=simple,augmult=8,learning_rate=4,batch_size=2048,noise_multiplier=0.2]`. It gets its utility
from noise so small that epsilon guarantees nothing; the row prints epsilon all the same.

BatchNorm mixes the samples of a batch, so it becomes GroupNorm: compare with an undefended target in the same
norm (RULES 31). Training runs in float32. Epochs are the recipe's, as for every defense (RULES 23).
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Claims, Defense, Field, Hyper, Search, Training

GRADIENT_ELEMENTS = 2**27
"""Per-sample gradients held at a time, in float32 elements (512 MB): larger batches go in parts."""
LARGE_ORDERS = (*(round(64 * 1.1**i) for i in range(29)), 1000)
"""Renyi orders beyond the accountant's own, which end at 63: with those alone epsilon never falls below a tenth. The
accountant's binomials overflow a little above the last order."""
PRECISION = 1e-4
"""Relative error of a solved noise multiplier; it never errs towards less noise."""


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
        """Noise is in units of `max_grad_norm`: as given, or solved for `target_epsilon`, or 1.0 with neither.

        `augmult` above 1 needs a recipe with augmentation. learning_rate and batch_size: None is the recipe's value.
        """

        noise_multiplier: Annotated[
            float | None, Field(gt=0), Search(0.001, 4, log=True, grid=(0.0001, 0.001, 0.01, 0.1, 1))
        ] = None
        target_epsilon: Annotated[float | None, Field(gt=0)] = None
        max_grad_norm: Annotated[float, Field(gt=0), Search(0.1, 10, log=True)] = 1.0
        learning_rate: Annotated[float | None, Field(gt=0), Search(0.01, 4, log=True)] = None
        batch_size: Annotated[int | None, Field(ge=1), Search(32, 512, log=True)] = None
        augmult: Annotated[int, Field(ge=1)] = 1

    def network(self, training: Training) -> nn.Module:
        """The protocol's network with GroupNorm in the place of BatchNorm.

        Raises ValueError where Opacus finds no way to keep the samples of a batch apart.
        """
        from opacus.grad_sample import GradSampleModule
        from opacus.validators import ModuleValidator

        problems: list[Exception] = []
        try:
            network: nn.Module = ModuleValidator.fix(training.build())
            problems += ModuleValidator.validate(network, strict=False)
            problems += GradSampleModule.validate(network, strict=False)
        except Exception as problem:  # Opacus has no replacement for some layer
            problems.append(problem)
        if problems:
            given = " ".join(str(problems[0]).split())[:200]
            raise ValueError(f"dp_sgd: expected a network that Opacus can handle, given: {given}")
        return network

    def sampling(self, training: Training) -> tuple[float, int]:
        """The probability that a sample is in a batch, and the batches an epoch: ceil(1 / rate)."""
        n = len(training.train)
        batch_size = min(self.params.batch_size or training.recipe.batch_size, n)
        return batch_size / n, math.ceil(n / batch_size)

    def run(self, training: Training) -> tuple[float, float, int, float]:
        """What the accountant needs: noise multiplier, sampling rate, steps, delta.

        Delta is 1e-5, or a tenth of 1 / n where 1e-5 is not below 1 / n. Raises ValueError where noise and epsilon are
        both given, and where no noise reaches the epsilon.
        """
        noise, target = self.params.noise_multiplier, self.params.target_epsilon
        if noise is not None and target is not None:
            raise ValueError("noise_multiplier, target_epsilon: expected one of them, given both")
        rate, batches = self.sampling(training)
        steps, delta = (
            training.recipe.epochs * batches,
            1e-5 if len(training.train) < 1e5 else 0.1 / len(training.train),
        )
        if target is not None:
            noise = noise_for(target, rate, steps, delta)
        return 1.0 if noise is None else noise, rate, steps, delta

    def train(self, training: Training) -> nn.Module:
        """Train on Poisson batches drawn from `training.train`; an empty batch is a step of pure noise.

        The batches and the noise have generators of their own, so that neither depends on the other.
        """
        from opacus.optimizers import DPOptimizer

        if self.params.augmult > 1 and training.recipe.augmentation == "none":
            raise ValueError(f"augmult: expected 1 where the recipe has no augmentation, given {self.params.augmult}")
        noise, *_ = self.run(training)
        network = self.network(training).to(training.device).train()
        rate, batches = self.sampling(training)
        optimizer = DPOptimizer(
            self._optimizer(network, training.recipe),
            noise_multiplier=noise,
            max_grad_norm=self.params.max_grad_norm,
            expected_batch_size=rate * len(training.train),
            loss_reduction="mean",
            generator=_on_device(training.generator("noise"), training.device),
        )
        schedule = training.schedule(optimizer.original_optimizer)
        poisson, views = training.generator("poisson"), training.generator("augmentation")
        x, y = training.train.x.to(training.device), training.train.y.to(training.device)
        for _ in training.epochs(network):
            for _ in range(batches):
                drawn = torch.rand(len(y), generator=poisson, dtype=torch.float64) < rate
                index = drawn.nonzero().squeeze(1).to(training.device)
                seen = training.augment(x[index].repeat_interleave(self.params.augmult, 0), views)
                self._step(network, optimizer, seen.unflatten(0, (len(index), self.params.augmult)), y[index])
            schedule.step()
        for p in network.parameters():
            p.grad = p.grad_sample = p.summed_grad = None  # type: ignore[attr-defined]
        return network.eval()

    def claims(self, training: Training) -> Claims:
        """Epsilon by Renyi differential privacy (Mironov 2017)."""
        run = self.run(training)
        return Claims(epsilon_of(*run), run[-1], accountant="RDP", adjacency="add/remove one", sampling="Poisson")

    def _optimizer(self, network: nn.Module, recipe: Any) -> torch.optim.Optimizer:
        rate = self.params.learning_rate or recipe.learning_rate
        if recipe.optimizer == "adam":
            return torch.optim.Adam(network.parameters(), rate, weight_decay=recipe.weight_decay)
        return torch.optim.SGD(network.parameters(), rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

    def _step(self, network: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> None:
        """One update from views x (n, augmult, c, h, w) of n samples.

        A batch whose per-sample gradients do not fit at once is clipped and summed in parts.
        """
        parameters = dict(network.named_parameters())
        values = {name: p.detach() for name, p in parameters.items()}

        def cost(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = torch.func.functional_call(network, values, (x,))
            return self.loss(logits, y.expand(len(x))).mean()

        gradients = torch.func.vmap(torch.func.grad(cost), (None, 0, 0))
        size = max(1, GRADIENT_ELEMENTS // sum(p.numel() for p in parameters.values()) // x.shape[1])
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


@cache  # reference models share it
def epsilon_of(noise: float, rate: float, steps: int, delta: float) -> float:
    """An upper bound on epsilon after `steps` Poisson batches at this rate and noise: the best over all orders."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.DEFAULT_ALPHAS = [*accountant.DEFAULT_ALPHAS, *LARGE_ORDERS]
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where the best order is the last: a looser bound, still valid
        return float(accountant.get_epsilon(delta))


@cache
def noise_for(target: float, rate: float, steps: int, delta: float) -> float:
    """The least noise multiplier with an epsilon of at most `target`, to PRECISION. Raises ValueError where there is none."""
    from scipy.optimize import brentq

    low = high = 1.0
    while (reached := epsilon_of(high, rate, steps, delta)) > target:
        if high > 1e6:
            raise ValueError(
                f"target_epsilon: expected more than {reached:.3g}, for no noise lowers the accountant's bound below "
                f"it (its Renyi orders end at {LARGE_ORDERS[-1]}), given {target}"
            )
        low, high = high, 2 * high
    while low > 1e-6 and epsilon_of(low, rate, steps, delta) <= target:
        low, high = low / 2, low
    if low <= 1e-6:
        return high

    def over(log_noise: float) -> float:
        return math.log(epsilon_of(math.exp(log_noise), rate, steps, delta) / target)

    return math.exp(brentq(over, math.log(low), math.log(high), xtol=PRECISION / 2) + PRECISION / 2)
