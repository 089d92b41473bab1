"""Adversarial regularisation: training also penalises what a membership classifier gains.

Source: Nasr et al. 2018, equations 4 to 6 and algorithm 1, with the weight 1 of He et al. 2022. An attack network h
sees posteriors and labels of training samples (members) and of the reference part (non-members). Before every update
of the model, h takes `attack_steps` steps that raise log h on members plus log(1 - h) on non-members. Then the model
takes a step on its loss plus `weight` times the mean of log h on the batch; h stays as it is.

`as_released` is the published code (METHODS C6): h learns by the squared error from weights of deviation 0.01, the
model's penalty is the mean of h less 1/2, and in the first epoch the model has no penalty while h takes five steps
for each step of the model.

Differences: the branches of h have the widths that SELENA and HAMP give them. Both batches of h are drawn at random, as
in algorithm 1, under the recipe's augmentation, and the model answers them in eval mode, as it answers an attacker.
Adam at 1e-3 trains h (the released versions range from 1e-5 to 1e-3, and from 1 to 26 steps of h for each of the
model).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Defense, Field, Hyper, Samples, Search, Training


class AdvReg(Defense):
    """Training against an attack network that is trained at the same time."""

    card = Card(
        title="AdvReg",
        authors=("Nasr", "Shokri", "Houmansadr"),
        reference="Machine Learning with Membership Privacy using Adversarial Regularization, CCS 2018",
        year=2018,
    )
    stages = ("training",)
    uses = frozenset({"reference"})

    class Params(Hyper):
        """`weight` is the paper's lambda. `attack_steps`: updates of h before each update of the model."""

        weight: Annotated[float, Field(ge=0), Search(1, 20, log=True, grid=(1, 2, 5, 10, 20))] = 1.0
        attack_steps: Annotated[int, Field(ge=1), Search(1, 26, log=True)] = 1
        attack_learning_rate: Annotated[float, Field(gt=0), Search(1e-4, 1e-2, log=True)] = 1e-3
        as_released: bool = False

    def train(self, training: Training) -> nn.Module:
        """Train on `training.train` against `training.reference`. Raises ValueError where that is empty."""
        if not len(training.reference):
            raise ValueError("advreg: expected a split with a reference part, given none")
        network, generator = self.network(training), training.generator("advreg")
        h = InferenceNetwork(training.classes, generator, 0.01 if self.params.as_released else None).to(training.device)
        optimizer = torch.optim.Adam(h.parameters(), lr=self.params.attack_learning_rate, fused=True)

        def cost(answering: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
            waiting = self.params.as_released and epoch == 0
            network.eval()
            for _ in range(5 if waiting else self.params.attack_steps):
                drawn = [_draw(part, len(y), training, generator) for part in (training.train, training.reference)]
                self.improve(h, optimizer, answering, *drawn)
            network.train()
            logits = answering(x)
            plain = nn.functional.cross_entropy(logits, y)
            return plain if waiting else plain + self.params.weight * self.penalty(h, logits, y)

        return training.fit(network, cost=cost)

    def improve(
        self, h: nn.Module, optimizer: torch.optim.Optimizer, answering: nn.Module, members: Samples, others: Samples
    ) -> None:
        """One update of h on the model's posteriors of members and non-members; the model is not changed."""
        x, y = torch.cat([members.x, others.x]), torch.cat([members.y, others.y])
        with torch.no_grad():
            posteriors = answering(x).softmax(1)
        h.requires_grad_(True)
        guess = h(posteriors, y)
        truth = (torch.arange(len(y), device=y.device) < len(members)).float()
        if self.params.as_released:
            value = nn.functional.mse_loss(guess.sigmoid(), truth)
        else:
            value = nn.functional.binary_cross_entropy_with_logits(guess, truth)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        h.requires_grad_(False)

    def penalty(self, h: nn.Module, logits: Tensor, y: Tensor) -> Tensor:
        """The penalty on the model: how sure h is of a batch of members, from their logits (n, k); a scalar."""
        guess: Tensor = h(logits.softmax(1), y)
        return guess.sigmoid().mean() - 0.5 if self.params.as_released else nn.functional.logsigmoid(guess).mean()


class InferenceNetwork(nn.Module):
    """Posteriors (n, k) and labels (n,) -> logits (n,) of membership, by two branches (METHODS A5).

    `deviation`: standard deviation of normal initial weights, with zero biases; None: PyTorch's default initialisation.
    """

    def __init__(self, classes: int, generator: torch.Generator, deviation: float | None = None) -> None:
        super().__init__()
        self.classes = classes
        self.posteriors = _relu_layers(classes, 1024, 512, 64)
        self.labels = _relu_layers(classes, 128, 64)
        self.both = nn.Sequential(*_relu_layers(128, 256, 128, 64), _linear(64, 1))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                for p in layer.parameters():
                    if deviation is None:
                        nn.init.uniform_(p, -bound, bound, generator=generator)
                    elif p.ndim == 2:
                        nn.init.normal_(p, 0.0, deviation, generator=generator)
                    else:
                        nn.init.zeros_(p)

    def forward(self, posteriors: Tensor, y: Tensor) -> Tensor:
        label = self.labels(nn.functional.one_hot(y, self.classes).to(posteriors))
        logits: Tensor = self.both(torch.cat([self.posteriors(posteriors), label], 1))
        return logits.squeeze(1)


def _relu_layers(*widths: int) -> nn.Sequential:
    layers = [(_linear(before, after), nn.ReLU()) for before, after in pairwise(widths)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


def _linear(before: int, after: int) -> nn.Linear:
    """A layer without initial values: PyTorch's initialisation would draw from its global generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, before, after)
    return layer


def _draw(part: Samples, n: int, training: Training, generator: torch.Generator) -> Samples:
    """n samples of a part, drawn with replacement and augmented."""
    rows = torch.randint(len(part), (n,), generator=generator)
    return Samples(training.augment(part.x[rows].to(training.device), generator), part.y[rows].to(training.device))
