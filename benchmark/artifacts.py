"""What scenarios are made from: networks, guard states, answers, banks; from the store, or made now.

Every key covers all that made the content: data, indices, architecture, recipe, seed, the digest of the
submission's source and of the code it runs through, torch's version and the kind of device.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import architectures
from benchmark.access import Answers, check_log_posteriors, raw
from benchmark.api import Bank, Context, Defense, Predict, Samples
from benchmark.population import Population, digest_of, populate, seed_of
from benchmark.protocol import BankSizes, Protocol
from benchmark.registry import Chain, Part, Registry, code_digest
from benchmark.store import Store, digest, tensor_digest
from benchmark.training import TrainingTask, fit_ensemble

World = Literal["target", "shadow"]
Model = tuple[str, int]
"""Role (target, shadow, online, offline, evaluator) and number."""

_HERE = Path(__file__).parent
_TRAINING_CODE = (
    _HERE / "api.py", _HERE / "training.py", *sorted((_HERE / "architectures").glob("*.py")),
)  # fmt: skip


@lru_cache(maxsize=1)
def serving_code() -> str:
    return code_digest(_HERE / "access.py")


@lru_cache(maxsize=1)
def training_code() -> str:
    return code_digest(*_TRAINING_CODE)


def world_of(role: str) -> World:
    """Banks belong to the adversary: they live behind the shadow world's secrets (RULES 3)."""
    return "target" if role == "target" else "shadow"


@dataclass
class Artifacts:
    """Everything of one protocol on one device, through one store."""

    protocol: Protocol
    registry: Registry
    store: Store
    device: torch.device
    _populations: dict[int, Population] = field(default_factory=dict)

    @cached_property
    def environment(self) -> str:
        return f"torch {torch.__version__.split('+')[0]} {self.device.type}"

    def population(self, seed: int) -> Population:
        if seed not in self._populations:
            self._populations[seed] = populate(self.protocol, seed)
        return self._populations[seed]

    def chain(self, spec: str) -> Chain:
        return self.registry.chain(spec, self.protocol.baseline)

    def bank_sizes(self, training: Part) -> BankSizes:
        costly = self.protocol.costly
        if costly and training.entry.id in costly.defenses:
            return costly.bank
        return self.protocol.bank

    # --- Networks ---

    def groups(self, training: Part) -> list[list[Model]]:
        """Which networks of one training defense and seed train together, in a fixed order."""
        sizes = self.bank_sizes(training)
        online = [("online", k) for k in range(sizes.online)]
        offline = [("offline", k) for k in range(sizes.offline)]
        models: list[Model] = [("target", 0), ("shadow", 0), *online, *offline]
        size = self.protocol.recipe.ensemble if training.entry.plain_training else 1
        return [models[i : i + size] for i in range(0, len(models), size)]

    def group_of(self, training: Part, model: Model) -> list[Model]:
        if model[0] == "evaluator":
            return [model]
        return next(g for g in self.groups(training) if model in g)

    def networks_key(self, training: Part, seed: int, group: list[Model]) -> str:
        population = self.population(seed)
        architecture = self.protocol.evaluator if group[0][0] == "evaluator" else self.protocol.architecture
        return digest(
            "networks", training.key, training_code(), self.protocol.data_digest, architecture, self.protocol.recipe,
            [[role, k, digest_of(population.indices(role, k))] for role, k in group],
            [digest_of(i) for w in ("target", "shadow") for i in population.reference(w)], seed, self.environment,
            *([population.data.simple] if self.protocol.recipe.augmentation != "none" else []),
        )  # fmt: skip

    def make_networks(self, training: Part, seed: int, group: list[Model]) -> dict[str, Tensor]:
        """Train a group (or find it): the state of model i under `i.<name>`."""

        def make() -> dict[str, Tensor]:
            defense: Defense = training.create()
            tasks = [self.task(training, seed, model) for model in group]
            if len(group) > 1:
                networks = fit_ensemble(tasks, [defense.network(t) for t in tasks], defense.loss)
            else:
                networks = [defense.train(tasks[0])]
            return {f"{i}.{name}": t for i, n in enumerate(networks) for name, t in n.state_dict().items()}

        return self.store.get("networks", self.networks_key(training, seed, group), make)

    def task(self, part: Part, seed: int, model: Model) -> TrainingTask:
        """What `part` works with in the world of this model."""
        population = self.population(seed)
        role, k = model
        world = world_of(role)
        reference, validation = population.reference(world)
        members = population.indices(role, k)

        def artifact(name: str, make: object) -> dict[str, Tensor]:
            made_from = [role, k, digest_of(members), seed, self.protocol.data_digest, self.protocol.recipe]
            key = digest("artifact", name, part.entry.source, made_from, training_code(), self.environment)
            return self.store.get("artifact", key, make)  # type: ignore[arg-type]

        return TrainingTask(
            train=population.samples(members),
            reference=population.samples(reference),
            validation=population.samples(validation),
            classes=population.data.classes,
            recipe=self.protocol.recipe,
            architecture=self.protocol.evaluator if role == "evaluator" else self.protocol.architecture,
            simple=population.data.simple,
            seed=seed_of("network", self.protocol.dataset, seed, role, k),
            device=self.device,
            artifact=artifact,
        )

    def network(self, training: Part, seed: int, model: Model) -> nn.Module:
        """The trained network, built by the defense's own code."""
        group = self.group_of(training, model)
        states = self.make_networks(training, seed, group)
        i = group.index(model)
        defense: Defense = training.create()
        network = defense.network(self.task(training, seed, model))
        network.load_state_dict(_of(states, f"{i}."))
        return network.eval()

    def judges_network(self, training: Part, seed: int, model: Model) -> nn.Module | None:
        """The same weights in the judge's own architecture; None where they don't fit it."""
        group = self.group_of(training, model)
        states = self.make_networks(training, seed, group)
        network = architectures.build(self.protocol.architecture, *self.shape(seed), 0)
        try:
            network.load_state_dict(_of(states, f"{group.index(model)}."))
        except RuntimeError:
            return None
        # The same names and shapes may hide another forward pass.
        x = self.part(seed, "shadow-test").x[:8]
        same = torch.allclose(
            raw(network, self.device)(x), raw(self.network(training, seed, model), self.device)(x), atol=1e-3
        )
        return network.eval() if same else None

    def shape(self, seed: int) -> tuple[int, tuple[int, int, int]]:
        data = self.population(seed).data
        return data.classes, data.shape

    # --- Guards ---

    def guard_key(self, chain: Chain, i: int, seed: int, world: World) -> str:
        group = self.group_of(chain.training, (world, 0))
        before = [[g.key, self.stamp(seed, world)] for g in chain.guards[:i]]  # it is prepared behind their noise
        return digest(
            "guard", chain.guards[i].key, before, self.networks_key(chain.training, seed, group), world, training_code()
        )

    def guard_state(self, chain: Chain, i: int, seed: int, world: World) -> dict[str, Tensor]:
        """What guard i needs in this world, prepared on the world's main model."""

        def make() -> dict[str, Tensor]:
            guard: Defense = chain.guards[i].create()
            before = self.predictor(chain, seed, (world, 0), guards=i)
            return guard.prepare(before, self.task(chain.guards[i], seed, (world, 0)))

        return self.store.get("guard", self.guard_key(chain, i, seed, world), make)

    def predictor(
        self, chain: Chain, seed: int, model: Model, *, guards: int | None = None, stored: bool = True
    ) -> Predict:
        """The model behind the first `guards` guards (default all); with `stored` false, none remembers anything."""
        predict = raw(self.network(chain.training, seed, model), self.device)
        world = world_of(model[0])
        classes = self.population(seed).data.classes
        for i, part in enumerate(chain.guards[:guards]):
            state = self.guard_state(chain, i, seed, world)
            context = self._context(part, state, seed, world)
            if not stored:
                context = replace(context, remember=lambda name, x, make: make())
            predict = _checked(part.create().guard(predict, state, context), classes, part.name)
        return predict

    def _context(self, part: Part, state: dict[str, Tensor], seed: int, world: World) -> Context:
        key, stamp = self._noise_key(seed, world), self.stamp(seed, world)
        made_from = digest(part.entry.source, [[n, tensor_digest(t)] for n, t in sorted(state.items())])

        def remember(name: str, x: Tensor, make: object) -> Tensor:
            address = digest("derived", made_from, name, stamp, tensor_digest(x), self.environment)
            return self.store.get("derived", address, lambda: {"value": make()})["value"]  # type: ignore[operator]

        return Context(key=key, device=self.device, remember=remember)

    def _noise_key(self, seed: int, world: World) -> bytes:
        """The secret of a world, from which its guards draw their noise: one for all chains (RULES 3, 8)."""
        secret = os.environ.get("LEAKBOARD_SPLIT_SECRET", "development").encode()
        return hmac.digest(secret, f"noise/{self.protocol.dataset}/{seed}/{world}".encode(), "sha256")

    def stamp(self, seed: int, world: World) -> str:
        """Names the noise key in the store without giving it away."""
        return hmac.digest(self._noise_key(seed, world), b"stamp", "sha256").hex()

    # --- Answers ---

    def part(self, seed: int, name: str) -> Samples:
        """A part of the split, or the candidates, in the fixed order in which answers are stored."""
        population = self.population(seed)
        return population.samples(population.candidates if name == "candidates" else population.parts[name])

    def answers(self, chain: Chain, seed: int, model: Model, part: str) -> Tensor:
        """Log-posteriors (n, k) of a model behind its guards on a part, computed once for all attacks."""
        group = self.group_of(chain.training, model)
        networks = self.networks_key(chain.training, seed, group)
        guards = [self.guard_key(chain, i, seed, world_of(model[0])) for i in range(len(chain.guards))]
        noise = self.stamp(seed, world_of(model[0])) if guards else ""
        where = [part, digest_of(self._indices(seed, part))]
        key = digest("answers", networks, group.index(model), guards, noise, where, serving_code())

        def make() -> dict[str, Tensor]:
            return {"log_posteriors": self.predictor(chain, seed, model)(self.part(seed, part).x)}

        return self.store.get("answers", key, make)["log_posteriors"]

    def known_answers(self, chain: Chain, seed: int, model: Model, parts: list[str]) -> Answers:
        known = Answers()
        for part in parts:
            known.add(self.part(seed, part).x, self.answers(chain, seed, model, part))
        return known

    def bank(self, chain: Chain, seed: int, role: str) -> Bank:
        """The bank of this chain: `online` or `offline`, queried on the candidates."""
        population = self.population(seed)
        sizes = self.bank_sizes(chain.training)
        m = sizes.online if role == "online" else sizes.offline
        rows = [self.answers(chain, seed, (role, k), "candidates") for k in range(m)]
        return Bank(torch.from_numpy(population.bank_members(role, m)), torch.stack(rows))

    def _indices(self, seed: int, part: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        population = self.population(seed)
        return population.candidates if part == "candidates" else population.parts[part]


def _of(states: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in states.items() if name.startswith(prefix)}


def _checked(predict: Predict, classes: int, who: str) -> Predict:
    return lambda x: check_log_posteriors(predict(x), len(x), classes, who)
