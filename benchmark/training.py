"""One training loop for targets, shadows and banks.

The data is one tensor on the device, batches are indexed out of it, augmentation works on whole
batches; bfloat16 autocast and channels-last where the protocol says so. A bank of small networks can
train as one `torch.func` ensemble. Results depend on the number of threads: workers use one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmark import architectures
from benchmark.api import Samples, Task
from benchmark.augmentation import augment
from benchmark.protocol import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


class TrainingTask(Task):
    """The contract's Task on tensors that lie on the device."""

    def __init__(
        self,
        *,
        train: Samples,
        reference: Samples,
        validation: Samples,
        classes: int,
        recipe: Recipe,
        architecture: str,
        simple: Mapping[str, Any],
        seed: int,
        device: torch.device,
        artifact: Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] | None = None,
    ) -> None:
        self.train, self.reference, self.validation = train, reference, validation
        self.classes, self.recipe, self.seed, self.device = classes, recipe, seed, device
        c, h, w = train.x.shape[1:]
        self.shape = (c, h, w)
        self._architecture, self._simple, self._artifact = architecture, simple, artifact

    def build(self) -> nn.Module:
        return architectures.build(self._architecture, self.classes, self.shape, self.seed).to(self.device)

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return augment(x, self._simple, generator) if self.recipe.augmentation == "simple" else x

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        if self.recipe.schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.recipe.epochs)
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.recipe.milestones), 0.1)

    def artifact(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return make() if self._artifact is None else self._artifact(name, make)

    def fit(
        self,
        network: nn.Module,
        *,
        loss: Loss | None = None,
        batch: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> nn.Module:
        recipe = self.recipe
        loss = loss or _cross_entropy
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        network = network.to(self.device, memory_format=layout).train()  # type: ignore[call-overload]
        x = self.train.x.to(self.device, memory_format=layout)
        y = self.train.y.to(self.device)
        parameters = list(network.parameters())
        update = optimizer(parameters) if optimizer else make_optimizer(parameters, recipe)
        schedule = self.schedule(update)
        order, views = self.generator("order"), self.generator("augmentation")
        low = recipe.precision == "bfloat16"
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(y), generator=order).to(self.device).split(recipe.batch_size):
                xb, yb = self.augment(x[rows], views), y[rows]
                if batch is not None:
                    xb, yb = batch(network, xb, yb)
                xb = xb.contiguous(memory_format=layout)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                    logits = network(xb)
                update.zero_grad(set_to_none=True)
                loss(logits.float(), yb).mean().backward()
                update.step()
            schedule.step()
        return network.eval()


def fit_ensemble(tasks: Sequence[TrainingTask], networks: Sequence[nn.Module], loss: Loss) -> list[nn.Module]:
    """Train equal networks, each on its own task's data and seed, as one vectorised network.

    Network i takes the very batches that `tasks[i].fit(networks[i], loss=loss)` would; only the rounding
    of sums differs. All tasks have the same number of samples; networks carry no buffers (no BatchNorm).
    """
    first = tasks[0]
    recipe, device = first.recipe, first.device
    parameters, _ = stack_module_state(list(networks))  # type: ignore[arg-type]
    skeleton = copy.deepcopy(networks[0]).to("meta")
    x = torch.stack([t.train.x for t in tasks]).to(device)
    y = torch.stack([t.train.y for t in tasks]).to(device)
    each = torch.arange(len(tasks), device=device).unsqueeze(1)
    leaves = [p.detach().to(device).requires_grad_() for p in parameters.values()]
    stacked = dict(zip(parameters, leaves, strict=True))
    update = make_optimizer(leaves, recipe)
    schedule = first.schedule(update)
    orders, views = [t.generator("order") for t in tasks], [t.generator("augmentation") for t in tasks]
    low = recipe.precision == "bfloat16"

    def one(weights: dict[str, Tensor], xb: Tensor, yb: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            logits = functional_call(skeleton, weights, (xb,))
        return loss(logits.float(), yb).mean()

    for _ in range(recipe.epochs):
        order = torch.stack([torch.randperm(y.shape[1], generator=g) for g in orders]).to(device)
        for rows in order.split(recipe.batch_size, dim=1):
            xb, yb = x[each, rows], y[each, rows]
            if recipe.augmentation != "none":
                xb = torch.stack([t.augment(b, g) for b, t, g in zip(xb, tasks, views, strict=True)])
            update.zero_grad(set_to_none=True)
            torch.vmap(one)(stacked, xb, yb).sum().backward()
            update.step()
        schedule.step()
    for i, network in enumerate(networks):
        network.load_state_dict({name: value[i].detach() for name, value in stacked.items()})
    return [n.eval() for n in networks]


def make_optimizer(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y, reduction="none")
