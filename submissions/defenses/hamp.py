"""HAMP: training towards high entropy, and answers of which only the ranking of the classes is kept.

Source: Chen and Pattabiraman 2024. Training: soft labels have an entropy of `gamma` times the largest possible one, ln
k; the other classes share evenly what the true class leaves. The loss is the divergence from soft label to answer minus
`alpha` times the entropy of the answer. Test: the values of an answer are those of the answer to an image of uniform
noise, put into the order of the query's own answer, so that label and ranking stay.

gamma 0.95 and alpha 0.001 are theirs for CIFAR-10 (0.5 and 0.005 for CIFAR-100). Their code averages the
divergence over samples and classes and the entropy over samples alone; with a mean over samples, alpha is multiplied
by k, and their learning rate of 0.5 is 0.5 / k here.

Differences: the share of the true class is solved for, not approached in steps of 0.01. The noise image follows from
the 8-bit query and a secret key, so that a query always gets the same answer (they draw anew). Training follows the
recipe, with one optimiser (theirs starts anew each epoch). `test_step` false leaves the test out, as DIFFENCE's rows of
HAMP do.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search


class HAMP(Defense):
    """Only the loss differs in training, so reference models can train as one ensemble; the guard keeps every label."""

    card = Card(
        title="HAMP",
        authors=("Chen", "Pattabiraman"),
        reference="Overconfidence is a Dangerous Thing: Mitigating Membership Inference Attacks by Enforcing Less "
        "Confident Prediction, NDSS 2024",
        year=2024,
    )
    stages = ("training", "post-inference")
    adaptive_attack = "label-only features (Aerni et al. 2024)"
    data_independent = True

    class Params(Hyper):
        """`gamma` is the soft label's share of ln k, `alpha` the weight of the answer's entropy."""

        gamma: Annotated[float, Field(gt=0, lt=1), Search(0.3, 0.99)] = 0.95
        alpha: Annotated[float, Field(ge=0), Search(1e-4, 0.1, log=True)] = 0.001
        test_step: bool = True

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Losses (n,) in nats of logits (n, k) and labels y (n,)."""
        k, answer = logits.shape[1], logits.log_softmax(1)
        top = true_share(self.params.gamma, k)
        rest = (1 - top) / (k - 1)
        own = answer.gather(1, y.unsqueeze(1)).squeeze(1)
        divergence = top * (math.log(top) - own) + rest * ((k - 1) * math.log(rest) - (answer.sum(1) - own))
        entropy = -(answer.exp() * answer).sum(1)
        return divergence - self.params.alpha * k * entropy

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> log-posteriors (n, k) float64 of noise images, in the order of the images' own."""
        if not self.params.test_step:
            return predict

        def guarded(x: Tensor) -> Tensor:
            noise = (context.uniform("hamp", x, x[0].numel()) * 256).floor().view(x.shape) / 255 if len(x) else x
            return reordered(predict(noise.to(x)), predict(x))

        return guarded


@cache
def true_share(gamma: float, classes: int) -> float:
    """The largest share p of the true class whose label has the entropy gamma * ln k, the others being equal.

    Entropy falls as p rises from 1 / k to 1, so that bisection finds the one root.
    """
    low, high = 1 / classes, 1.0
    for _ in range(100):
        p = (low + high) / 2
        if p in (low, high):
            break
        entropy = -p * math.log(p) - (1 - p) * math.log((1 - p) / (classes - 1))
        low, high = (p, high) if entropy > gamma * math.log(classes) else (low, p)
    return low


def reordered(values: Tensor, ranking: Tensor) -> Tensor:
    """The values (n, k) of each row, sorted as its `ranking` (n, k) is; of equals the first class ranks higher."""
    values = values.sort(1, descending=True).values
    # If the two largest were equal, the first class of them would be the label: the top one is raised by one last
    # digit.
    tied = values[:, 0] == values[:, 1]
    values[:, 0] = torch.where(tied, torch.nextafter(values[:, 0], torch.zeros_like(values[:, 0])), values[:, 0])
    order = ranking.sort(dim=1, descending=True, stable=True).indices
    return torch.empty_like(values).scatter_(1, order, values)
