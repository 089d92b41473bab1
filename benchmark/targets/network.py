"""A network and its training: its data, its key, and its weights, which are read from the store or trained now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Claims, Predict
from benchmark.data.population import Population, digest_of, seed_of
from benchmark.digests import code_of
from benchmark.entries.registry import Part, version_of
from benchmark.networks.access import raw
from benchmark.networks.optimizers import as_asked, asked_code
from benchmark.networks.training import TrainingRun
from benchmark.sandbox.local import Defender
from benchmark.sandbox.remote import RemoteDefender, Setup
from benchmark.targets.experiment import EVALUATORS, Experiment, NetworkId, built_by, data_of
from benchmark.targets.store import digest


def training_code() -> str:
    """Digest of the code by which a defense trains or prepares."""
    return code_of("targets.network:training_for")


@dataclass(eq=False)
class Network:
    """A network of a training defense, without guards.

    Role and number (`NetworkId`) say which samples it is trained on.
    """

    experiment: Experiment
    training: Part
    seed: int
    role: str
    number: int

    @property
    def population(self) -> Population:
        return self.experiment.population(self.seed)

    @cached_property
    def setup(self) -> Setup:
        return self.experiment.setup(self.seed, self.role)

    @cached_property
    def group(self) -> list[NetworkId]:
        """The networks that train together with this one, itself among them."""
        own_id, groups = (self.role, self.number), self.experiment.groups(self.training)
        return [own_id] if self.role in EVALUATORS else next(group for group in groups if own_id in group)

    @property
    def place(self) -> int:
        """The index of this network in its group."""
        return self.group.index((self.role, self.number))

    @cached_property
    def key(self) -> str:
        """The store key of the weights of its group."""
        experiment, population, seed, role = self.experiment, self.population, self.seed, self.group[0][0]
        architecture, recipe = self.setup.architecture, experiment.recipe(self.training, role)
        views = [f"torchvision {version_of('torchvision')}"] if recipe.augmentation == "randaug" else []
        views += asked_code(recipe)
        return digest(
            "networks", experiment.key(self.training), training_code(), experiment.data_key(seed, role), architecture, recipe,
            [[role, k, digest_of(population.indices(role, k))] for role, k in self.group],
            [digest_of(i) for w in sorted({data_of(role) for role, _ in self.group}) for i in population.reference(w)],
            seed, experiment.environment,
            built_by(architecture), *views,
            *([population.data.simple] if recipe.augmentation != "none" else []),
            *([experiment.stamp(seed, "target")] if experiment.secret else []),
        )  # fmt: skip

    def states(self) -> dict[str, Tensor]:
        """The weights of the group, from the store or trained now: those of network i under `i.<name>`."""

        def make() -> dict[str, Tensor]:
            trainings = [replace(self, role=role, number=k).training_of(self.training) for role, k in self.group]
            states = self.defender(self.training).train(trainings)
            return {f"{i}.{name}": t for i, state in enumerate(states) for name, t in state.items()}

        return self.experiment.store.get("networks", self.key, make)

    def weights(self) -> dict[str, Tensor]:
        """The state dict of this network."""
        prefix = f"{self.place}."
        return {name.removeprefix(prefix): t for name, t in self.states().items() if name.startswith(prefix)}

    def seconds(self) -> float:
        """Training time in seconds: an equal share of the group's."""
        return float(self.experiment.store.info("networks", self.key)["seconds"]) / len(self.group)

    def training_of(self, part: Part, *, samples: bool = True) -> TrainingRun:
        """What the contract hands to `part`, this network's training defense or a guard.

        Without `samples`, all data is empty.
        """
        return as_asked(training_for(self, part, samples))

    def defender(self, part: Part) -> Defender | RemoteDefender:
        return self.experiment.isolation.defender(part, self.setup)

    def predictor(self) -> Predict:
        """The trained network, served by the defense's own code in float32 and eval mode."""
        weights = self.weights()
        return self.defender(self.training).serve(self.training_of(self.training, samples=False), weights)

    def judge_copy(self) -> nn.Module | None:
        """The same weights in the judge's own architecture, in eval mode; None if they don't fit or answer otherwise."""
        network = networks.build(self.setup.architecture, self.setup.classes, self.setup.shape, 0)
        try:
            network.load_state_dict(self.weights())
        except RuntimeError:
            return None
        # Equal names and shapes of the weights do not mean an equal forward pass.
        part = "shadow-test" if self.experiment.protocol.split.shadow_world else "target-test"
        x = self.population.part(part).x[:8]
        agrees = torch.allclose(raw(network, self.experiment.device)(x), self.predictor()(x), atol=1e-3)
        return network.eval() if agrees else None

    def claims(self) -> Claims:
        """The claims of the training defense: epsilon and radii. Raises ValueError for a radius outside (0, 1]."""
        claims = self.defender(self.training).claims(self.training_of(self.training))
        for name, radius in (("robust", claims.robust), ("certificate", claims.certificate)):
            if radius is not None and not 0 < radius <= 1:
                raise ValueError(f"claims: {name}: expected a radius above 0 and at most 1, given {radius}")
        return claims


def training_for(network: Network, part: Part, samples: bool) -> TrainingRun:
    """`Network.training_of`. A function of its own, for `training_code` starts from it."""
    experiment, population, seed = network.experiment, network.population, network.seed
    role, k, world = network.role, network.number, data_of(network.role)
    reference, validation = population.reference(world)
    members, recipe, uses = population.indices(role, k), experiment.recipe(part, role), part.uses
    validated, none = "validation" in uses or recipe.early_stopping, members[:0]

    def artifact(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        made_from = [role, k, digest_of(members), seed, experiment.data_key(seed, role), recipe]
        extra = {"reference": reference, "validation": validation}
        made_from += [digest_of(rows) for name, rows in extra.items() if name in uses]
        if experiment.secret:
            made_from.append(experiment.stamp(seed, world))
        key = digest("artifact", name, experiment.source(part), made_from, training_code(), experiment.environment)
        return experiment.store.get("artifact", key, make)

    def read_pretrained(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if name not in part.pretrained:
            expected = f"a model that a hyperparameter names ({', '.join(part.pretrained) or 'none'})"
            raise PermissionError(f"training.pretrained: expected {expected}, given {name!r}")
        model = experiment.model(name)
        return model.config, model.weights

    return TrainingRun(
        train=population.samples(members if samples else none),
        reference=population.samples(reference if samples and "reference" in uses else none),
        validation=population.samples(validation if samples and validated else none),
        uses=uses,
        classes=population.data.classes,
        recipe=recipe,
        architecture=network.setup.architecture,
        simple=population.data.simple,
        seed=seed_of(
            "network", experiment.protocol.dataset, seed, *population.stream(role, k), secret=experiment.secret
        ),
        device=experiment.device,
        artifact=artifact,
        pretrained=read_pretrained,
    )
