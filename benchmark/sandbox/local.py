"""Runs a submission's code in this process: what the judge, or the sandbox for it, asks of an entry.

`Defender` and `Attacker` are the whole of what crosses to a submission; `remote.py` has the same two for
code that runs in a sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Claims, Context, Defense, Knowledge, Predict
from benchmark.entries.registry import ATTACKS
from benchmark.networks.access import raw
from benchmark.networks.training import TrainingRun, fit_ensemble

Tensors = dict[str, Tensor]


class Defender:
    """A defense at work."""

    def __init__(self, defense: Defense, device: torch.device) -> None:
        self.defense, self.device = defense, device

    def train(self, trainings: Sequence[TrainingRun]) -> list[Tensors]:
        """The trained weights of each training; several trainings train as one ensemble."""
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
        """The trained network as it answers. `training` holds no samples: structure needs none."""
        network = self.defense.network(training)
        network.load_state_dict(state)
        return raw(network, self.device)

    def prepare(self, predict: Predict, training: TrainingRun) -> Tensors:
        state = self.defense.prepare(predict, training)
        if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
            raise ValueError(f"expected a dict of tensors from prepare, given {type(state).__name__}")
        return state

    def guard(self, predict: Predict, state: Tensors, context: Context) -> Predict:
        return self.defense.guard(predict, state, context)

    def claims(self, training: TrainingRun) -> Claims:
        claims = self.defense.claims(training)
        if not isinstance(claims, Claims):
            raise ValueError(f"expected Claims from claims, given {type(claims).__name__}")
        return claims


class Attacker:
    """An attack at work: `fit`, and the one method of its kind. A network that this returns comes back as what it answers."""

    def __init__(self, attack: Any, device: torch.device) -> None:
        self.attack, self.device = attack, device

    def fit(self, knowledge: Knowledge) -> None:
        self.attack.fit(knowledge)

    def answer(self, *given: Any) -> Any:
        kind = ATTACKS[self.attack.task]
        found = getattr(self.attack, kind.answer)(*given)
        network = getattr(kind, kind.answer).__annotations__["return"] == "nn.Module"
        if network and isinstance(found, nn.Module):
            return raw(found, self.device)
        if network or not isinstance(found, Tensor):
            wanted = "network" if network else "tensor"
            raise ValueError(f"expected a {wanted} from {kind.answer}, given {type(found).__name__}")
        return found

    def choice(self, name: str) -> str:
        """What a property of the attack says, such as which network is to embed."""
        return str(getattr(self.attack, name))
