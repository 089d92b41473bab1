"""What attacks that copy a network share: the losses, the training of the copy, and which images to ask about.

A copy learns the target's answers. These are log-posteriors (n, k); a label counts as certain (`certain`). All losses are
means over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from benchmark.api.augmentation import crop_and_flip

if TYPE_CHECKING:
    from benchmark.api import Knowledge

CopyLoss = Literal["cross-entropy", "kl", "mse", "mse-released", "logits"]
Choice = Literal["random", "uncertain", "diverse"]
FLOOR = -20.0
"""The least log-posterior that `logits` takes: what was rounded to 0 would be infinitely far away."""
_CHUNK = 500


def certain(labels: Tensor, classes: int) -> Tensor:
    """Labels (n,) int64 as log-posteriors (n, k) float64: 0 of the label, minus infinity elsewhere."""
    return nn.functional.one_hot(labels, classes).double().log()


def copy_targets(answers: Tensor, loss: CopyLoss, temperature: float = 1.0) -> Tensor:
    """What the copy is trained on, (n, k) float32, from answers (n, k): log-posteriors.

    "logits": the logits that the posteriors leave, which are the log-posteriors up to a constant a sample: less their mean,
    and all divided by their root mean square, so that a flat answer teaches as much as a sure one. Else the posteriors, of the
    answers at the temperature.
    """
    if loss == "logits":
        centred = answers.clamp_min(FLOOR)
        centred = centred - centred.mean(1, keepdim=True)
        return (centred / centred.square().mean().sqrt().clamp_min(1e-12)).float()
    return (answers / temperature).softmax(1).float()


def copy_loss(logits: Tensor, targets: Tensor, loss: CopyLoss, temperature: float = 1.0) -> Tensor:
    """The loss () of a copy's logits (n, k) on `copy_targets` (n, k).

    "cross-entropy": of posteriors p against the copy's q, - sum p log q (Orekondy et al. 2019); "kl": the sum of p log(p / q), which
    is as much less as p's own entropy and has the same gradient. Both at the temperature, times its square (Hinton et al. 2015).
    "mse": squared distance of the posteriors (Liu et al. 2022), summed over classes, for their mean would shrink the steps by
    the number of classes. "mse-released": the mean square between the copy's logits, not its posteriors, and the posteriors, as
    ML-DOCTOR's code has it. "logits": mean square between centred logits.
    """
    if loss == "mse":
        return (logits.softmax(1) - targets).square().sum(1).mean()
    if loss == "mse-released":
        return (logits - targets).square().mean()
    if loss == "logits":
        return (logits - logits.mean(1, keepdim=True) - targets).square().mean()
    value = -(targets * (logits / temperature).log_softmax(1)).sum(1).mean()
    if loss == "kl":
        value = value + torch.special.xlogy(targets, targets).sum(1).mean()
    return temperature**2 * value


def train_copy(
    network: nn.Module,
    x: Tensor,
    answers: Tensor,
    *,
    loss: CopyLoss,
    epochs: int,
    learning_rate: float,
    generator: torch.Generator,
    temperature: float = 1.0,
    schedule: Literal["constant", "cosine"] = "constant",
    simple: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> nn.Module:
    """Train a fresh network on images x (n, c, h, w) and answers (n, k), on its own device, and return it in eval mode.

    SGD with momentum 0.9. `generator` (CPU) shuffles. `simple` is the data set's simple augmentation: an image keeps its answer in
    all its views, so that they ask nothing more of the target; None trains on the images alone. Without images the network stays
    as it is.
    """
    device = next(network.parameters()).device
    network.train()
    x, targets = x.to(device), copy_targets(answers, loss, temperature).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9)
    for epoch in range(epochs if len(x) else 0):
        if schedule == "cosine":
            optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
        # Batches of nearly equal size: BatchNorm cannot train on a last batch of one image.
        order = torch.randperm(len(x), generator=generator).to(device)
        for rows in order.tensor_split(math.ceil(len(x) / batch_size)):
            batch = x[rows] if simple is None else crop_and_flip(x[rows], simple, generator)
            value = copy_loss(network(batch), targets[rows], loss, temperature)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return network.eval()


def ask_in_rounds(
    ask: Callable[[Tensor], Tensor],
    pool: Tensor,
    budget: int | None,
    train: Callable[[Tensor, Tensor], nn.Module],
    *,
    generator: torch.Generator,
    choice: Choice = "random",
    rounds: int = 4,
) -> tuple[Tensor, Tensor]:
    """Images (m, c, h, w) of a pool (n, c, h, w), and the answers (m, k) to them; each is asked about once, at most `budget` of them.

    None: the whole pool. "random": drawn at once. Else the first of `rounds` equal parts is drawn, and `train` makes a copy of
    all answers so far, which chooses the next part (Pal et al. 2019): "uncertain" takes the images whose posteriors by the copy
    have the largest entropy; "diverse" takes one after another the image whose posteriors are farthest from those of all that are
    chosen (k-centre, greedy).
    """
    n = len(pool)
    budget = n if budget is None else min(budget, n)
    order = torch.randperm(n, generator=generator)
    if choice == "random" or budget == n:
        rows = order[:budget].sort().values
        return pool[rows], ask(pool[rows]) if budget else torch.zeros(0, 0)
    sizes = [len(part) for part in torch.arange(budget).tensor_split(min(rounds, budget))]
    rows, left = order[: sizes[0]], order[sizes[0] :]
    answers = ask(pool[rows])
    for size in sizes[1:]:
        posteriors = predict(train(pool[rows], answers), pool).softmax(1)
        if choice == "uncertain":
            picked = most_uncertain(posteriors[left], size)
        else:
            picked = k_centres(posteriors[left], posteriors[rows], size)
        kept = torch.ones(len(left), dtype=torch.bool)
        kept[picked] = False
        answers = torch.cat([answers, ask(pool[left[picked]])])
        rows, left = torch.cat([rows, left[picked]]), left[kept]
    return pool[rows], answers


def copy_by_asking(
    ask: Callable[[Tensor], Tensor],
    pool: Tensor,
    build: Callable[..., nn.Module],
    known: Knowledge,
    *,
    queries: int | None,
    choose: Choice,
    rounds: int,
    architecture: str | None,
    augment: bool = False,
    **training: Any,
) -> nn.Module:
    """A copy in eval mode, trained on the answers to at most `queries` images of the pool (n, c, h, w), each asked about once.

    `choose` and `rounds` as in `ask_in_rounds`; `augment`: by the data's simple augmentation; `architecture`: None for the target's;
    `training`: of `train_copy`, by a cosine schedule.
    """

    def train(x: Tensor, answers: Tensor) -> nn.Module:
        network = build() if architecture is None else build(architecture)
        return train_copy(
            network.to(known.device),
            x,
            answers,
            schedule="cosine",
            simple=known.simple if augment else None,
            generator=known.generator("steal"),
            **training,
        )

    generator = known.generator("queries")
    return train(*ask_in_rounds(ask, pool, queries, train, generator=generator, choice=choose, rounds=rounds))


@torch.no_grad()
def predict(network: nn.Module, x: Tensor) -> Tensor:
    """Logits (n, k) float64 of images (n, c, h, w), on the CPU; the network is in eval mode."""
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).double().cpu() for part in x.split(_CHUNK)])


def most_uncertain(posteriors: Tensor, count: int) -> Tensor:
    """Positions (count,) of the posteriors (n, k) with the largest entropy, the largest first; of equal ones the earlier."""
    entropy: Tensor = torch.special.entr(posteriors).sum(1)
    order: Tensor = entropy.sort(descending=True, stable=True).indices
    return order[:count]


def k_centres(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """Positions (count,) of points (n, d): each is the farthest from the centres (m, d) and all points before it (Gonzalez 1985)."""
    distance, picked = torch.cdist(points, centres).amin(1), []
    for _ in range(count):
        farthest = distance.argmax()
        picked.append(farthest)
        distance = torch.minimum(distance, (points - points[farthest]).norm(dim=1))
        distance[farthest] = -1.0
    return torch.stack(picked)
