"""What scenarios are made from: networks, guard states, answers, banks; from the store, or made now.

Every key covers all that made the content: data, indices, architecture, recipe, seed, the digest of the
submission's source and of the code it runs through, torch's version and the kind of device.
"""

from __future__ import annotations

import contextlib
import hmac
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Bank, Claims, Context, Predict, Samples
from benchmark.data.population import Population, digest_of, populate, seed_of
from benchmark.digests import code_of
from benchmark.entries.registry import Chain, Part, Registry, version_of
from benchmark.networks import pretrained
from benchmark.networks.access import Answers, GuardedTarget, ask, check_log_posteriors, raw
from benchmark.networks.training import TrainingTask
from benchmark.protocol import BankSizes, Protocol, Recipe, World
from benchmark.sandbox.local import Attacker
from benchmark.sandbox.remote import Builder, Isolation, RemoteAttacker, Setup
from benchmark.targets.store import Store, digest, tensor_digest

_TOGETHER = (("target-train", "target-test"), ("shadow-train", "shadow-test"))
"""Parts that a target is asked in one shuffle: a guard that counts its calls must not learn who was trained on."""

_THROWAWAY, _STALE_SECONDS = ".throwaway-", 86400

Model = tuple[str, int]
"""Role (target, shadow, online, offline, evaluator) and number."""


def serving_code() -> str:
    return code_of("networks.access:ask", "networks.access:raw", "networks.access:GuardedTarget")


def training_code() -> str:
    return code_of("networks.training:TrainingTask")


def reading_code() -> str:
    return code_of("networks.pretrained:read")


def _libraries(architecture: str, recipe: Recipe) -> set[str]:
    """What makes a network or its views, beside PyTorch; entries' own imports are in their keys."""
    made_by = {"timm": architecture == "resnet18", "torchvision": recipe.augmentation == "randaug"}
    return {name for name, used in made_by.items() if used}


def world_of(role: str) -> World:
    """Banks belong to the adversary: they live behind the shadow world's secrets (RULES 3)."""
    return "target" if role == "target" else "shadow"


def prepared_in(chain: Chain, role: str) -> World:
    """The world whose guard states a network of this role is served behind; its noise is that of `world_of`."""
    return "target" if role == "target" else chain.prepared


def data_of(role: str) -> World:
    """The world whose data a network is trained on: the online bank's is the target's own population."""
    return "target" if role in ("target", "online") else "shadow"


def official_measures(protocol: Protocol, secret: bytes | None) -> str:
    """Digest of all that moves a number: those on a secret split are of another kind than public ones (RULES 26)."""
    if secret is None:
        return protocol.measures
    return digest("official", protocol.measures, hmac.digest(secret, b"board", "sha256").hex())


@dataclass
class Artifacts:
    """Everything of one protocol on one device, through one store."""

    protocol: Protocol
    registry: Registry
    store: Store
    device: torch.device
    isolation: Isolation = field(default_factory=Isolation)
    secret: bytes | None = field(default=None, repr=False)
    _populations: dict[int, Population] = field(default_factory=dict)
    _predictors: dict[tuple[object, ...], Predict] = field(default_factory=dict)
    _models: dict[str, pretrained.Model] = field(default_factory=dict)

    @property
    def measures(self) -> str:
        return official_measures(self.protocol, self.secret)

    def end_job(self) -> None:
        """Let go of what one job had at hand; nothing of a submission runs on."""
        self._predictors.clear()
        self.isolation.end_sessions()
        if "_throwaway" in vars(self):
            shutil.rmtree(self._throwaway.root, ignore_errors=True)
            del self._throwaway

    @cached_property
    def _throwaway(self) -> Store:
        """A store beside the store, on the same disk, that goes with the job. A killed job's goes with the next one's."""
        for left in self.store.root.glob(f"{_THROWAWAY}*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(left)
        self.store.root.mkdir(parents=True, exist_ok=True)
        return Store(Path(tempfile.mkdtemp(prefix=_THROWAWAY, dir=self.store.root)))

    def key(self, part: Part) -> dict[str, object]:
        """What identifies a part in the store; what unreviewed code made unwatched serves no other run.

        Raises UserError where a pretrained model can't be used: whatever plans with the part does so before it works.
        """
        trusted = {"trusted": True} if self.isolation.where(part.entry) == "trusted" else {}
        models = {"pretrained": [reading_code(), version_of("diffusers"), self.models(part)]} if part.pretrained else {}
        return part.key | trusted | models

    def models(self, *parts: Part) -> dict[str, str]:
        """Digests of the pretrained models that the parts are given: the files under a name may change."""
        return {name: self._model(name).digest for part in parts for name in sorted(part.pretrained)}

    def _model(self, name: str) -> pretrained.Model:
        """Read once: what is handed over is what the keys name."""
        if name not in self._models:
            self._models[name] = pretrained.read(name, self.shape(self.protocol.seeds[0])[1])
        return self._models[name]

    @cached_property
    def environment(self) -> str:
        """What the last digits of a number depend on, besides code: the same on every machine without an accelerator."""
        software = f"torch {torch.__version__.split('+')[0]} {self.device.type}"
        if self.device.type != "cuda":
            return software
        gpu = torch.cuda.get_device_name(self.device)
        return f"{software} {torch.version.cuda} cudnn {torch.backends.cudnn.version()} {gpu}"

    @cached_property
    def networks_code(self) -> dict[str, str]:
        """Of the networks that the protocol trains, by name; attacks that steal build the target's."""
        adversary = self.protocol.adversary
        names = {self.protocol.architecture, self.protocol.evaluator, adversary.architecture if adversary else None}
        return {name: networks.code(name) for name in sorted(n for n in names if n)}

    def population(self, seed: int) -> Population:
        if seed not in self._populations:
            self._populations[seed] = populate(self.protocol, seed, self.secret)
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
        online: list[Model] = [("online", k) for k in range(sizes.online)]
        offline: list[Model] = [("offline", k) for k in range(sizes.offline)]
        alike: list[list[Model]] = [[("target", 0), ("shadow", 0), *online, *offline]]
        if self.protocol.adversary:  # an ensemble has one network and one recipe
            alike = [[("target", 0), *online], [("shadow", 0), *offline]]
        size = self.protocol.recipe.ensemble if training.entry.plain_training else 1
        return [models[i : i + size] for models in alike for i in range(0, len(models), size)]

    def group_of(self, training: Part, model: Model) -> list[Model]:
        if model[0] == "evaluator":
            return [model]
        return next(g for g in self.groups(training) if model in g)

    def networks_key(self, training: Part, seed: int, group: list[Model]) -> str:
        population = self.population(seed)
        architecture, recipe = self._architecture(group[0]), self._recipe(training, group[0])
        return digest(
            "networks", self.key(training), training_code(), self._data(seed, group[0]), architecture, recipe,
            [[role, k, digest_of(population.indices(role, k))] for role, k in group],
            [digest_of(i) for w in sorted({world_of(role) for role, _ in group}) for i in population.reference(w)],
            seed, self.environment,
            networks.code(architecture),
            *([population.data.simple] if recipe.augmentation != "none" else []),
            *(f"{name} {version_of(name)}" for name in sorted(_libraries(architecture, recipe))),
            *([self.stamp(seed, "target")] if self.secret else []),
        )  # fmt: skip

    def make_networks(self, training: Part, seed: int, group: list[Model]) -> dict[str, Tensor]:
        """Train a group (or find it): the state of model i under `i.<name>`."""

        def make() -> dict[str, Tensor]:
            defender = self.isolation.defender(training, self._setup(seed, group[0]))
            states = defender.train([self.task(training, seed, model) for model in group])
            return {f"{i}.{name}": t for i, state in enumerate(states) for name, t in state.items()}

        return self.store.get("networks", self.networks_key(training, seed, group), make)

    def _setup(self, seed: int, model: Model) -> Setup:
        classes, shape = self.shape(seed)
        return Setup(self._architecture(model), classes, shape, self.population(seed).data.simple, self.device)

    def _architecture(self, model: Model) -> str:
        return self.protocol.evaluator if model[0] == "evaluator" else self.protocol.architecture_of(data_of(model[0]))

    def _recipe(self, part: Part, model: Model) -> Recipe:
        world = "target" if model[0] == "evaluator" else data_of(model[0])
        return self.protocol.recipe_of(world, part.axes)

    def _data(self, seed: int, model: Model) -> object:
        """What identifies the data and the labels that a network is trained on."""
        protocol, population = self.protocol, self.population(seed)
        if protocol.canaries:
            return [protocol.data_digest, digest_of(population.labels[population.canaries].numpy())]
        if protocol.adversary and protocol.adversary.dataset and data_of(model[0]) == "shadow":
            return [protocol.data_digest, protocol.adversary.data_digest]
        return protocol.data_digest

    def task(self, part: Part, seed: int, model: Model, *, samples: bool = True) -> TrainingTask:
        """What `part` works with in the world of this model; without samples, what it is served with."""
        population = self.population(seed)
        role, k = model
        world = world_of(role)
        reference, validation = population.reference(world)
        members, recipe, uses = population.indices(role, k), self._recipe(part, model), part.uses
        none = members[:0]

        def artifact(name: str, make: object) -> dict[str, Tensor]:
            made_from = [role, k, digest_of(members), seed, self._data(seed, model), recipe]
            made_from += [
                digest_of(rows) for name, rows in (("reference", reference), ("validation", validation)) if name in uses
            ]
            if self.secret:
                made_from.append(self.stamp(seed, world))
            key = digest("artifact", name, self._source(part), made_from, training_code(), self.environment)
            return self.store.get("artifact", key, make)  # type: ignore[arg-type]

        def given(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
            if name not in part.pretrained:
                named = ", ".join(part.pretrained) or "none"
                raise PermissionError(
                    f"task.pretrained: expected a model that a hyperparameter names ({named}), given {name!r}"
                )
            model = self._model(name)
            return model.config, model.weights

        return TrainingTask(
            train=population.samples(members if samples else none),
            reference=population.samples(reference if samples and "reference" in uses else none),
            validation=population.samples(
                validation if samples and ("validation" in uses or recipe.early_stopping) else none
            ),
            uses=uses,
            classes=population.data.classes,
            recipe=recipe,
            architecture=self._architecture(model),
            simple=population.data.simple,
            seed=seed_of("network", self.protocol.dataset, seed, role, k, secret=self.secret),
            device=self.device,
            artifact=artifact,
            pretrained=given,
        )

    def served(self, training: Part, seed: int, model: Model) -> Predict:
        """The trained network as the defense's own code serves it, in float32 and eval mode."""
        group = self.group_of(training, model)
        state = _of(self.make_networks(training, seed, group), f"{group.index(model)}.")
        defender = self.isolation.defender(training, self._setup(seed, model))
        return defender.serve(self.task(training, seed, model, samples=False), state)

    def judges_network(self, training: Part, seed: int, model: Model) -> nn.Module | None:
        """The same weights in the judge's own architecture; None where they don't fit it."""
        group = self.group_of(training, model)
        states = self.make_networks(training, seed, group)
        network = networks.build(self._architecture(model), *self.shape(seed), 0)
        try:
            network.load_state_dict(_of(states, f"{group.index(model)}."))
        except RuntimeError:
            return None
        # The same names and shapes may hide another forward pass.
        x = self.part(seed, "shadow-test").x[:8]
        same = torch.allclose(raw(network, self.device)(x), self.served(training, seed, model)(x), atol=1e-3)
        return network.eval() if same else None

    def shape(self, seed: int) -> tuple[int, tuple[int, int, int]]:
        data = self.population(seed).data
        return data.classes, data.shape

    # --- Guards ---

    def guard_key(self, chain: Chain, i: int, seed: int, world: World) -> str:
        group = self.group_of(chain.training, (world, 0))
        before = [[self.key(g), self.stamp(seed, world)] for g in chain.guards[:i]]  # it is prepared behind their noise
        return digest(
            "guard",
            self.key(chain.guards[i]),
            before,
            self.networks_key(chain.training, seed, group),
            world,
            training_code(),
        )

    def guard_state(self, chain: Chain, i: int, seed: int, world: World) -> dict[str, Tensor]:
        """What guard i needs in this world, prepared on the world's main model."""

        def make() -> dict[str, Tensor]:
            guard = self.isolation.defender(chain.guards[i], self._setup(seed, (world, 0)))
            before = self.predictor(chain, seed, (world, 0), guards=i)
            return guard.prepare(before, self.task(chain.guards[i], seed, (world, 0)))

        return self.store.get("guard", self.guard_key(chain, i, seed, world), make)

    def predictor(
        self,
        chain: Chain,
        seed: int,
        model: Model,
        *,
        guards: int | None = None,
        stored: bool = True,
        kept: bool = True,
    ) -> Predict:
        """The model behind the first `guards` guards (default all), as attacks ask it.

        With `kept` false, what guards remember from now on is kept for this job alone: they can't tell. With `stored`
        false nothing is known beforehand, and none remembers anything.
        """
        guarded = chain.guards[:guards]
        at_hand = (chain.training.name, tuple(g.name for g in guarded), chain.prepared, seed, model, stored, kept)
        if at_hand in self._predictors:
            return self._predictors[at_hand]
        classes = self.population(seed).data.classes
        first = self._first(chain, seed, model) if stored and guarded else self.served(chain.training, seed, model)
        predict = _checked(first, classes, chain.training.name)
        world = world_of(model[0])
        for i, part in enumerate(guarded):
            state = self.guard_state(chain, i, seed, prepared_in(chain, model[0]))
            context = self._context(part, state, seed, world, kept)
            if not stored:
                context = replace(context, remember=lambda name, x, make: make())
            guard = self.isolation.defender(part, self._setup(seed, model))
            predict = _checked(guard.guard(predict, state, context), classes, part.name)
        if model[0] in ("target", "shadow"):  # the models of a bank are many, and each is asked once
            self._predictors[at_hand] = predict
        return predict

    def _first(self, chain: Chain, seed: int, model: Model) -> Predict:
        """What the first guard asks: the network, and what it has said already as a target without guards."""
        bare = replace(chain, guards=())
        parts = {"target": ("target-train", "target-test"), "shadow": ("shadow-train", "shadow-test")}
        known = self.known_answers(bare, seed, model, list(parts.get(model[0], ("candidates",))))

        @lru_cache(maxsize=1)
        def served() -> Predict:
            return self.served(chain.training, seed, model)

        return GuardedTarget("posterior", lambda x: served()(x), known).log_posteriors

    def claims(self, chain: Chain, seed: int) -> Claims:
        """What the training defense says of itself. Raises ValueError where a radius is not one of pixels in [0, 1]."""
        defender = self.isolation.defender(chain.training, self._setup(seed, ("target", 0)))
        claims = defender.claims(self.task(chain.training, seed, ("target", 0)))
        for name, radius in (("robust", claims.robust), ("certificate", claims.certificate)):
            if radius is not None and not 0 < radius <= 1:
                raise ValueError(f"claims: {name}: expected a radius above 0 and at most 1, given {radius}")
        return claims

    def attacker(self, part: Part, seed: int) -> Attacker | RemoteAttacker:
        """One instance of an attack, ready to fit."""
        return self.isolation.attacker(part, self._setup(seed, ("target", 0)))

    def builder(self, seed: int) -> Builder:
        """Makes the networks that a stealing attack trains."""
        return Builder(self._setup(seed, ("target", 0)), seed_of("copy", seed))

    def _source(self, part: Part) -> object:
        more = {
            name: what
            for name, what in self.key(part).items()
            if name in ("trusted", "pretrained", "libraries", "contract")
        }
        return [part.entry.source, *more.items()] if more else part.entry.source

    def _context(self, part: Part, state: dict[str, Tensor], seed: int, world: World, kept: bool = True) -> Context:
        key, stamp = self._noise_key(seed, world), self.stamp(seed, world)
        # What begins with _ only serves the answers: DIFFENCE's interval differs by network, its reconstructions don't.
        shared = [[name, tensor_digest(t)] for name, t in sorted(state.items()) if not name.startswith("_")]
        made_from = digest(self._source(part), shared)

        def remember(name: str, x: Tensor, make: object) -> Tensor:
            address = digest("derived", made_from, name, stamp, tensor_digest(x), self.environment)
            store = self.store if kept or self.store.has("derived", address) else self._throwaway
            return store.get("derived", address, lambda: {"value": make()})["value"]  # type: ignore[operator]

        return Context(key=key, device=self.device, remember=remember)

    def _noise_key(self, seed: int, world: World) -> bytes:
        """The secret of a world, from which its guards draw their noise: one for all chains (RULES 3, 8)."""
        return hmac.digest(
            self.secret or b"development", f"noise/{self.protocol.dataset}/{seed}/{world}".encode(), "sha256"
        )

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
        together = next((g for g in _TOGETHER if part in g), (part,))
        where = [[name, digest_of(self._indices(seed, name))] for name in together]
        key = digest("answers", *self._answering(chain, seed, model), where, serving_code())

        def make() -> dict[str, Tensor]:
            x = torch.cat([self.part(seed, name).x for name in together])
            # In the same calls for all models: what guards remember of a call serves them all.
            rng = np.random.default_rng(seed_of("asked", seed, secret=self.secret))
            answered = ask(self.predictor(chain, seed, model), x, rng)
            parts = answered.split([len(self._indices(seed, name)) for name in together])
            return dict(zip(together, parts, strict=True))

        return self.store.get("answers", key, make)[part]

    def _answering(self, chain: Chain, seed: int, model: Model) -> list[object]:
        """What identifies a model behind its guards."""
        group = self.group_of(chain.training, model)
        networks = self.networks_key(chain.training, seed, group)
        guards = [self.guard_key(chain, i, seed, prepared_in(chain, model[0])) for i in range(len(chain.guards))]
        return [networks, group.index(model), guards, self.stamp(seed, world_of(model[0])) if guards else ""]

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
        known: dict[str, int] = {}

        def ask(x: Tensor) -> Tensor:
            known[tensor_digest(x)] = 8 * m * len(x) * population.data.classes
            if sum(known.values()) > self.isolation.limits.stored_mb << 20:
                raise PermissionError(f"a bank answers {self.isolation.limits.stored_mb} MB, and was asked for more")
            return torch.stack([self.asked(chain, seed, (role, k), x) for k in range(m)])

        return Bank(torch.from_numpy(population.bank_members(role, m)), torch.stack(rows), ask, m)

    def asked(self, chain: Chain, seed: int, model: Model, x: Tensor) -> Tensor:
        """Log-posteriors (n, k) of a bank's model behind its guards on any images, computed once for all attacks."""
        key = digest("asked", *self._answering(chain, seed, model), tensor_digest(x), serving_code())
        return self.store.get("answers", key, lambda: {"value": self.predictor(chain, seed, model)(x)})["value"]

    def _indices(self, seed: int, part: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        population = self.population(seed)
        return population.candidates if part == "candidates" else population.parts[part]


def _of(states: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in states.items() if name.startswith(prefix)}


def _checked(predict: Predict, classes: int, who: str) -> Predict:
    return lambda x: check_log_posteriors(predict(x), len(x), classes, who)
