"""Runs a submission's code in this process, which is the judge's or that of a sandbox.

`Defender` and `Attacker` hold every call that is made to a submission. `remote.py` has the same two classes for code
that runs in a sandbox.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Claims, Context, Defense, Knowledge, Predict
from benchmark.entries.registry import ATTACKS
from benchmark.networks.access import raw
from benchmark.networks.training import TrainingRun, fit_ensemble

Tensors = dict[str, Tensor]


class Defender:
    """The calls to one instance of a defense.

    What it raises passes through; a value of the wrong type raises ValueError.
    """

    def __init__(self, defense: Defense, device: torch.device) -> None:
        self.defense, self.device = defense, device

    def train(self, trainings: Sequence[TrainingRun]) -> list[Tensors]:
        """The state dict of the trained network of each training; several trainings are trained as one ensemble."""
        defense = self.defense
        if len(trainings) > 1:
            cls = type(defense)
            if cls.train is not Defense.train or cls.network is not Defense.network:
                raise ValueError("expected train and network as plain methods of the class, given hidden ones")
            networks = fit_ensemble(trainings, [defense.network(t) for t in trainings], defense.loss)
        else:
            networks = [defense.train(trainings[0])]
        for network in networks:
            if not isinstance(network, nn.Module):
                raise ValueError(f"expected a network from train, given {type(network).__name__}")
        return [dict(n.state_dict()) for n in networks]

    def serve(self, training: TrainingRun, state: Tensors) -> Predict:
        """The predictor of the network with these weights. `training` holds no samples: the architecture needs none."""
        network = self.defense.network(training)
        network.load_state_dict(state)
        return raw(network, self.device)

    def prepare(self, predict: Predict, training: TrainingRun) -> Tensors:
        """The state of a guard, prepared on `predict`, the stage before it."""
        state = self.defense.prepare(predict, training)
        if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
            raise ValueError(f"expected a dict of tensors from prepare, given {type(state).__name__}")
        return state

    def guard(self, predict: Predict, state: Tensors, context: Context) -> Predict:
        """The predictor of the guard, with its state, around `predict`."""
        return self.defense.guard(predict, state, context)

    def claims(self, training: TrainingRun) -> Claims:
        claims = self.defense.claims(training)
        if not isinstance(claims, Claims):
            raise ValueError(f"expected Claims from claims, given {type(claims).__name__}")
        return claims


class Attacker:
    """The calls to one instance of an attack: `fit`, and the one method of its kind."""

    def __init__(self, attack: Any, device: torch.device) -> None:
        self.attack, self.device = attack, device

    def fit(self, knowledge: Knowledge) -> None:
        self.attack.fit(knowledge)

    def answer(self, *arguments: Any) -> Any:
        """The result of the kind's method: a tensor, or the predictor of a network.

        Raises ValueError for other types.
        """
        kind = ATTACKS[self.attack.task]
        result = getattr(self.attack, kind.answer)(*arguments)
        if not isinstance(result, nn.Module if kind.returns == "network" else Tensor):
            raise ValueError(f"expected a {kind.returns} from {kind.answer}, given {type(result).__name__}")
        return raw(result, self.device) if isinstance(result, nn.Module) else result

    def choice(self, name: str) -> str:
        """The value of a property by which the attack chooses, such as `embedding`."""
        return str(getattr(self.attack, name))

    def freeze(self) -> Callable[[], Attacker] | None:
        """What makes attackers that have fitted as this one, and met nothing since; None where its state can't be copied.

        This one is closed.
        """
        try:
            frozen = copy.deepcopy(self.attack)
        except Exception:  # whatever an attack keeps, such as a generator or an open file
            return None
        return lambda: Attacker(copy.deepcopy(frozen), self.device)

    def close(self) -> None:
        """End it."""
