"""Certified training by interval bounds: the loss at the worst logits that the bounds allow.

Source: Gowal et al. 2018, section 3: kappa * CE(z, y) + (1 - kappa) * CE(worst z, y) (equation 12), where the worst
logits are y's lower bound and the others' upper bounds (equation 10) over the ball within [0, 1]. Settings of Song et
al. 2019 (METHODS C4): radius 0.1 on 28x28 grey images, weights 0.5 and 0.5 at the end. The first `warm_up` of the
training is natural (8,000 of 80,001 steps); then, over `ramp` of it (30,000 steps), the radius rises from 0 and kappa
falls from 1, both linearly; the rest is trained at their last values.

The certificate is the radius at which the judge measures certified accuracy by interval bounds. The attack I_V
(`song_verified`) reads the same bounds. It does not mean that a given sample is certified.

Differences: optimiser, epochs and batches are the recipe's (RULES 23), where the released code takes Adam at 1e-4, and
warm-up and ramp are shares of it. The worst logits are bounded one by one, as equation 10 has it and I_V reads them;
the released code merges the last layer with their differences. Bounds take BatchNorm's running statistics, and are in
float32.
"""

from __future__ import annotations

import math
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark.api import Annotated, Card, Claims, Defense, Field, Hyper, Search, Training, interval_bounds


class IBP(Defense):
    """Cross-entropy on the logits and on their worst bounds."""

    card = Card(
        title="Certified training by interval bounds",
        authors=("Gowal", "Dvijotham", "Stanforth", "Bunel", "Qin", "Uesato", "Arandjelovic", "Mann", "Kohli"),
        reference="On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models, arXiv:1810.12715",
        year=2018,
    )
    stages = ("training",)

    class Params(Hyper):
        """The radius, the last weight of the worst logits, and the shares of training before and during their rise."""

        epsilon: Annotated[float, Field(gt=0, le=1), Search(0.01, 0.3, log=True)] = 0.1
        verified: Annotated[float, Field(gt=0, le=1), Search(0.1, 1)] = 0.5
        warm_up: Annotated[float, Field(ge=0, le=0.5), Search(0, 0.3)] = 0.1
        ramp: Annotated[float, Field(ge=0, le=0.5), Search(0.1, 0.5)] = 0.375

    def train(self, training: Training) -> nn.Module:
        """Train by the recipe. Raises ValueError, before it starts, where bounds do not know a layer of the network."""
        network, some = self.network(training).to(training.device), training.train.x[:1].to(training.device)
        with torch.no_grad():
            interval_bounds(network, some, some)
        steps = training.recipe.epochs * math.ceil(len(training.train) / training.recipe.batch_size)
        passed = count()

        def cost(answering: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
            rise = self.rise(next(passed) / steps)
            natural = cross_entropy(answering(x), y)
            # `network`, not `answering`: bounds are computed in float32 whatever the protocol's precision is.
            return self.mixed(natural, network, x, y, rise) if rise > 0 else natural

        return training.fit(network, cost=cost)

    def rise(self, done: float) -> float:
        """How far radius and weight have risen, in [0, 1], when this share of the training is done."""
        if done < self.params.warm_up:
            return 0.0
        return min(1.0, (done - self.params.warm_up) / self.params.ramp) if self.params.ramp else 1.0

    def mixed(self, natural: Tensor, network: nn.Module, x: Tensor, y: Tensor, rise: float) -> Tensor:
        """The scalar to descend: the natural loss and that of the worst logits of x (n, c, h, w), by their weights."""
        radius, weight = rise * self.params.epsilon, rise * self.params.verified
        low, high = interval_bounds(network, (x - radius).clamp(0, 1), (x + radius).clamp(0, 1))
        worst = high.scatter(1, y.unsqueeze(1), low.gather(1, y.unsqueeze(1)))
        return (1 - weight) * natural + weight * cross_entropy(worst, y)

    def claims(self, training: Training) -> Claims:
        """The radius that training aimed at, and at which bounds prove something."""
        return Claims(robust=self.params.epsilon, certificate=self.params.epsilon)
