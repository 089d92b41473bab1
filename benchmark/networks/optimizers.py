"""What recipes of later protocols ask of training: a step schedule with another factor than 0.1, and AMSGrad.

It lies apart from the training loop, whose code is in the keys of all networks: these recipes alone have it in theirs.
"""

from __future__ import annotations

import torch

from benchmark.digests import code_of
from benchmark.networks.training import TrainingRun
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
    """`TrainingRun` with `gamma` and `amsgrad` of the recipe.

    Every optimizer that trains the network by the recipe, a defense's own too, gets its schedule here, before the first step.
    """

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        if self.recipe.amsgrad and isinstance(optimizer, torch.optim.Adam):
            for group in optimizer.param_groups:
                group["amsgrad"] = True
        if self.recipe.schedule != "step":
            return super().schedule(optimizer)
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.recipe.milestones), self.recipe.gamma)
