"""SELENA: the deployed network learns, for each sample, the answer of sub-models that were not trained on it.

Source: Tang et al. 2022, Split-AI (algorithm 1) and self-distillation (section 4.3), with their K = 25 and L = 10.
Each training sample is left out of L of K sub-models. Its soft label is the mean of the posteriors that those L give to
it. The deployed network is trained from fresh weights on the soft labels of all training samples.

Differences: which L sub-models leave a sample out is drawn at random, then evened out, so that the sub-models' training
sets differ in size by at most one. Soft labels are those of the images without augmentation. The last epoch is kept
(the released code chooses an epoch on the data that it then attacks). The ports in HAMP and DIFFENCE average logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Defense, Field, Hyper, Search, Training

CHUNK = 1000
"""Images in each call to a sub-model."""


class Selena(Defense):
    """Self-distillation from answers of sub-models that did not train on the sample."""

    card = Card(
        title="SELENA",
        authors=("Tang", "Mahloujifar", "Song", "Shejwalkar", "Nasr", "Houmansadr", "Mittal"),
        reference="Mitigating Membership Inference Attacks by Self-Distillation Through a Novel Ensemble Architecture, "
        "USENIX Security 2022",
        year=2022,
    )
    stages = ("training",)
    adaptive_attack = "duplicated canaries (Aerni et al. 2024)"

    class Params(Hyper):
        """`models` (K) sub-models, of which `left_out` (L), fewer, leave out a sample."""

        models: Annotated[int, Field(ge=2), Search(5, 50)] = 25
        left_out: Annotated[int, Field(ge=1), Search(2, 20)] = 10

    def train(self, training: Training) -> nn.Module:
        """Train the sub-models, then the student. Raises ValueError where L is not below K."""
        out = assign(len(training.train), self.params.models, self.params.left_out, training.generator("selena"))
        networks = training.fit_each([(~column).nonzero().squeeze(1) for column in out.unbind(1)], "selena")
        return training.fit(
            self.network(training), loss=soft_cross_entropy, targets=soft_labels(networks, out, training).float()
        )


def assign(n: int, models: int, left_out: int, generator: torch.Generator) -> Tensor:
    """Which sub-models leave out which samples: (n, models) bool, `left_out` True in each row, columns equal to within
    one.

    Rows are drawn uniformly. Then sub-models that leave out too many samples hand some to those that leave out too few.
    Raises ValueError where left_out is not below models.
    """
    if left_out >= models:
        raise ValueError(f"left_out: expected below models = {models}, given {left_out}")
    out = torch.rand(n, models, generator=generator).argsort(1) < left_out
    count = out.sum(0)
    ranked = count.argsort(descending=True, stable=True)
    surplus = count - n * left_out // models
    surplus[ranked[: n * left_out % models]] -= 1  # the largest may keep one more
    while (surplus != 0).any():
        over, under = int(surplus.argmax()), int(surplus.argmin())
        moved = int(torch.minimum(surplus[over], -surplus[under]))
        free = (out[:, over] & ~out[:, under]).nonzero().squeeze(1)
        rows = free[torch.randperm(len(free), generator=generator)[:moved]]
        out[rows, over], out[rows, under] = False, True
        surplus[over] -= moved
        surplus[under] += moved
    return out


@torch.no_grad()
def soft_labels(networks: list[nn.Module], out: Tensor, training: Training) -> Tensor:
    """Split-AI's answers on its own training samples: (n, k) float64, each from the networks that left it out."""
    total = torch.zeros(len(out), training.classes, dtype=torch.float64)
    for network, column in zip(networks, out.unbind(1), strict=True):
        rows = column.nonzero().squeeze(1)
        parts = [
            network(training.train.x[part].to(training.device)).double().softmax(1).cpu() for part in rows.split(CHUNK)
        ]
        total[rows] += torch.cat(parts) if parts else 0.0
    return total / out.sum(1, keepdim=True)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses (n,) in nats of logits (n, k) against soft labels (n, k)."""
    return -(targets * logits.log_softmax(1)).sum(1)
