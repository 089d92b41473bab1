"""One protocol on one device, through one store: its data, its secrets, and what identifies them.

Every key covers all that made the content: data, indices, architecture, recipe, seed, the digest of the
submission's source and of the code it runs through, torch's version and the kind of device.
"""

from __future__ import annotations

import contextlib
import hmac
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from benchmark import networks
from benchmark.api import Predict
from benchmark.data.population import Population, digest_of, populate
from benchmark.digests import code_of
from benchmark.entries.registry import Chain, Part, Registry, version_of
from benchmark.networks import pretrained
from benchmark.protocol import Protocol, Recipe, ReferenceSizes, World
from benchmark.sandbox.remote import Isolation, Setup
from benchmark.targets.store import Store, digest

_THROWAWAY, _STALE_SECONDS = ".throwaway-", 86400

Model = tuple[str, int]
"""Role (target, shadow, online, offline, evaluator) and number."""


def reading_code() -> str:
    return code_of("networks.pretrained:read")


def built_by(name: str) -> list[str]:
    """What builds a network, as keys have it: its code and the versions of the packages that this uses."""
    return [networks.code(name), *(f"{package} {version_of(package)}" for package in networks.libraries(name))]


def world_of(role: str) -> World:
    """Reference models belong to the adversary: they live behind the shadow world's secrets (RULES 3)."""
    return "target" if role == "target" else "shadow"


def prepared_in(chain: Chain, role: str) -> World:
    """The world whose guard states a network of this role is served behind; its noise is that of `world_of`."""
    return "target" if role == "target" else chain.prepared


def data_of(role: str) -> World:
    """The world whose data a network is trained on: of online reference models it is the target's own population."""
    return "target" if role in ("target", "online") else "shadow"


def official_measures(protocol: Protocol, secret: bytes | None) -> str:
    """Digest of all that moves a number: those on a secret split are of another kind than public ones (RULES 26)."""
    if secret is None:
        return protocol.measures
    return digest("official", protocol.measures, hmac.digest(secret, b"board", "sha256").hex())


@dataclass
class Experiment:
    """What all networks of a protocol share, with what is at hand of them."""

    protocol: Protocol
    registry: Registry
    store: Store
    device: torch.device
    isolation: Isolation = field(default_factory=Isolation)
    secret: bytes | None = field(default=None, repr=False)
    _populations: dict[int, Population] = field(default_factory=dict)
    _models: dict[str, pretrained.Model] = field(default_factory=dict)
    predictors: dict[object, Predict] = field(init=False, repr=False, default_factory=dict)
    """What serves, for as long as a job goes on."""

    @property
    def measures(self) -> str:
        return official_measures(self.protocol, self.secret)

    def end_job(self) -> None:
        """Let go of what one job had at hand; nothing of a submission runs on."""
        self.predictors.clear()
        self.isolation.end_sessions()
        if "throwaway" in vars(self):
            shutil.rmtree(self.throwaway.root, ignore_errors=True)
            del self.throwaway

    @cached_property
    def throwaway(self) -> Store:
        """A store beside the store, on the same disk, that goes with the job. A killed job's goes with the next one's."""
        for left in self.store.root.glob(f"{_THROWAWAY}*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(left)
        self.store.root.mkdir(parents=True, exist_ok=True)
        return Store(Path(tempfile.mkdtemp(prefix=_THROWAWAY, dir=self.store.root)))

    def chain(self, spec: str) -> Chain:
        return self.registry.chain(spec, self.protocol.baseline)

    def key(self, part: Part) -> dict[str, object]:
        """What identifies a part in the store; what unreviewed code made unwatched serves no other run.

        Raises UserError where a pretrained model can't be used: whatever plans with the part does so before it works.
        """
        trusted = {"trusted": True} if self.isolation.where(part.entry) == "trusted" else {}
        models = {"pretrained": [reading_code(), version_of("diffusers"), self.models(part)]} if part.pretrained else {}
        named = {*part.entry.texts, *filter(lambda v: isinstance(v, str), part.params.model_dump().values())}
        built = {name: built_by(name) for name in networks.NAMES if name in named}  # a teacher, say
        return part.key | trusted | models | ({"networks": built} if built else {})

    def source(self, part: Part) -> object:
        """What identifies a part whatever its hyperparameters."""
        named = ("trusted", "pretrained", "libraries", "contract", "networks")
        more = {name: what for name, what in self.key(part).items() if name in named}
        return [part.entry.source, *more.items()] if more else part.entry.source

    def models(self, *parts: Part) -> dict[str, str]:
        """Digests of the pretrained models that the parts are given: the files under a name may change."""
        return {name: self.model(name).digest for part in parts for name in sorted(part.pretrained)}

    def model(self, name: str) -> pretrained.Model:
        """A pretrained model, read once: what is handed over is what the keys name."""
        if name not in self._models:
            self._models[name] = pretrained.read(name, self.population(self.protocol.seeds[0]).data.shape)
        return self._models[name]

    def reference_sizes(self, training: Part) -> ReferenceSizes:
        costly = self.protocol.costly
        return costly.references if costly and training.entry.id in costly.defenses else self.protocol.references

    def groups(self, training: Part) -> list[list[Model]]:
        """Which networks of one training defense and seed train together, in a fixed order."""
        sizes = self.reference_sizes(training)
        online: list[Model] = [("online", k) for k in range(sizes.online)]
        offline: list[Model] = [("offline", k) for k in range(sizes.offline)]
        alike: list[list[Model]] = [[("target", 0), ("shadow", 0), *online, *offline]]
        if self.protocol.adversary:  # an ensemble has one network and one recipe
            alike = [[("target", 0), *online], [("shadow", 0), *offline]]
        size = self.protocol.recipe.ensemble if training.entry.plain_training else 1
        return [models[i : i + size] for models in alike for i in range(0, len(models), size)]

    def population(self, seed: int) -> Population:
        if seed not in self._populations:
            self._populations[seed] = populate(self.protocol, seed, self.secret)
        return self._populations[seed]

    def data_key(self, seed: int, role: str) -> object:
        """What identifies the data and the labels that a network is trained on."""
        protocol, population = self.protocol, self.population(seed)
        if protocol.canaries:
            return [protocol.data_digest, digest_of(population.labels[population.canaries].numpy())]
        if protocol.adversary and protocol.adversary.dataset and data_of(role) == "shadow":
            return [protocol.data_digest, protocol.adversary.data_digest]
        return protocol.data_digest

    def noise_key(self, seed: int, world: World) -> bytes:
        """The secret of a world, from which its guards draw their noise: one for all chains (RULES 3, 8)."""
        named = f"noise/{self.protocol.dataset}/{seed}/{world}"
        return hmac.digest(self.secret or b"development", named.encode(), "sha256")

    def stamp(self, seed: int, world: World) -> str:
        """Names the noise key in the store without giving it away."""
        return hmac.digest(self.noise_key(seed, world), b"stamp", "sha256").hex()

    def setup(self, seed: int, role: str) -> Setup:
        data, protocol = self.population(seed).data, self.protocol
        name = protocol.evaluator if role == "evaluator" else protocol.architecture_of(data_of(role))
        return Setup(name, data.classes, data.shape, data.simple, self.device)

    def recipe(self, part: Part, role: str) -> Recipe:
        return self.protocol.recipe_of("target" if role == "evaluator" else data_of(role), part.axes)

    def networks_code(self, evaluator: bool) -> dict[str, list[str]]:
        """Of the networks that a scenario meets, by name, the evaluator's among them where there is one."""
        protocol, adversary = self.protocol, self.protocol.adversary
        names = {protocol.architecture, *([adversary.architecture] if adversary and adversary.architecture else [])}
        return {name: built_by(name) for name in sorted(names | ({protocol.evaluator} if evaluator else set()))}

    @cached_property
    def environment(self) -> str:
        """What the last digits of a number depend on, besides code: the same on every machine without an accelerator."""
        software = f"torch {torch.__version__.split('+')[0]} {self.device.type}"
        if self.device.type != "cuda":
            return software
        gpu = torch.cuda.get_device_name(self.device)
        return f"{software} {torch.version.cuda} cudnn {torch.backends.cudnn.version()} {gpu}"
