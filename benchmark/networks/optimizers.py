"""What recipes of later protocols ask of training: a step schedule with another factor than 0.1, and AMSGrad.

It lies apart from the training loop, whose code is in the keys of all networks: these recipes alone have it in theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from benchmark.digests import code_of
from benchmark.networks.training import Cost, Loss, TrainingRun
from benchmark.protocol import Recipe


def as_asked(run: TrainingRun) -> TrainingRun:
    """The same training, as its recipe asks for it."""
    if not _asks_more(run.recipe):
        return run
    made = _Asked.__new__(_Asked)
    vars(made).update(vars(run))
    return made


def asked_code(recipe: Recipe) -> list[str]:
    """What a network's key holds of this module: its digest where the recipe needs it, and nothing else."""
    return [code_of("networks.optimizers:as_asked")] if _asks_more(recipe) else []


def _asks_more(recipe: Recipe) -> bool:
    return recipe.amsgrad or recipe.gamma != 0.1


class _Asked(TrainingRun):
    """`TrainingRun` with `gamma` and `amsgrad` of the recipe."""

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        if self.recipe.schedule != "step":
            return super().schedule(optimizer)
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.recipe.milestones), self.recipe.gamma)

    def fit(
        self,
        network: nn.Module,
        *,
        loss: Loss | None = None,
        cost: Cost | None = None,
        targets: torch.Tensor | None = None,
        optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> nn.Module:
        if optimizer is None and self.recipe.amsgrad:
            optimizer = self._amsgrad
        return super().fit(network, loss=loss, cost=cost, targets=targets, optimizer=optimizer)

    def _amsgrad(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        recipe = self.recipe
        return torch.optim.Adam(
            parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, amsgrad=True, fused=True
        )
