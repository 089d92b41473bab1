"""One protocol on one device, through one store: its data, its secrets, and the parts of its store keys.

A key covers all that made the content: data, indices, architecture, recipe, seed, the digest of the
submission's source and of the code it runs through, torch's version and the kind of device.

Two worlds: the target's, with the defender's data and secrets, and the shadow world, with the adversary's.
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
from benchmark.protocol import Protocol, Recipe, ReferenceSizes, WorldName
from benchmark.sandbox.remote import Isolation, Setup
from benchmark.targets.store import Store, digest

_THROWAWAY, _STALE_SECONDS = ".throwaway-", 86400

NetworkId = tuple[str, int]
"""Role and number of a network.

Roles: `target`, a network of the population (`Population.indices`): 0 is trained on the split's own target-train, and the
others are its reference models and targets themselves; `shadow`, the shadow model; `offline`, a reference model trained on
shadow data; `evaluator` and `second-evaluator`, the judge's own classifiers, which judge inversions. A target that serves
the adversary as a reference model of another target has the role `online` (`trained_as`).
"""

EVALUATORS = ("evaluator", "second-evaluator")
"""The roles of the judge's own classifiers. They share no sample and no architecture, with each other or with the target."""


def reading_code() -> str:
    """Digest of the code that reads a user's pretrained model."""
    return code_of("networks.pretrained:read")


def built_by(name: str) -> list[str]:
    """What a key holds of an architecture: the digest of the code that builds it and the versions of its packages."""
    return [networks.code(name), *(f"{package} {version_of(package)}" for package in networks.libraries(name))]


def trained_as(role: str, number: int) -> NetworkId:
    """The id under which a network of this role is trained."""
    return ("target", number) if role == "online" else (role, number)


def owner_of(role: str, number: int) -> str:
    """Whose secrets a network of this role stands behind: those of the target of this number, or the adversary's.

    Every target has its own, and reference models are the adversary's: `shadow` (RULES 3).
    """
    return "shadow" if role != "target" else f"target/{number}" if number else "target"


def prepared_on(chain: Chain, role: str, number: int) -> NetworkId:
    """The network on which the guards before a network of this role are prepared.

    Their noise key is that of `owner_of`.
    """
    return (role, number) if role == "target" else chain.prepared


def data_of(role: str) -> WorldName:
    """The world whose data a network is trained on, and whose reference data its defense reads."""
    return "target" if role in ("target", "second-evaluator") else "shadow"


def official_measures(protocol: Protocol, secret: bytes | None) -> str:
    """The digest of the protocol, `measures`; on a secret split another one, so that both never mix (RULES 26)."""
    if secret is None:
        return protocol.measures
    return digest("official", protocol.measures, hmac.digest(secret, b"board", "sha256").hex())


@dataclass
class Experiment:
    """What all networks of a protocol share. `secret`: the key of a secret split; None for the public one."""

    protocol: Protocol
    registry: Registry
    store: Store
    device: torch.device
    isolation: Isolation = field(default_factory=Isolation)
    secret: bytes | None = field(default=None, repr=False)
    _populations: dict[int, Population] = field(default_factory=dict)
    _models: dict[str, pretrained.Model] = field(default_factory=dict)
    predictors: dict[object, Predict] = field(init=False, repr=False, default_factory=dict)
    """Predictors by model, kept until the job ends."""

    @property
    def measures(self) -> str:
        """`official_measures` of this protocol and secret."""
        return official_measures(self.protocol, self.secret)

    def end_job(self) -> None:
        """Drop what was kept for one job, and end every process of a submission."""
        self.predictors.clear()
        self.isolation.end_sessions()
        if "throwaway" in vars(self):
            shutil.rmtree(self.throwaway.root, ignore_errors=True)
            del self.throwaway

    @cached_property
    def throwaway(self) -> Store:
        """A temporary store in the store's folder, deleted when the job ends; those of killed jobs are, after a day."""
        for leftover in self.store.root.glob(f"{_THROWAWAY}*"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(leftover)
        self.store.root.mkdir(parents=True, exist_ok=True)
        return Store(Path(tempfile.mkdtemp(prefix=_THROWAWAY, dir=self.store.root)))

    def chain(self, spec: str) -> Chain:
        """The defense of a name such as `label_smoothing+memguard`. Raises UserError for an unknown one."""
        return self.registry.chain(spec, self.protocol.baseline)

    def key(self, part: Part) -> dict[str, object]:
        """What identifies a part in the store. What unreviewed code made outside a sandbox is kept apart.

        Raises UserError where a pretrained model can't be used. Planning calls this, so it is raised before any work.
        """
        trusted = {"trusted": True} if self.isolation.where(part.entry) == "trusted" else {}
        models = {"pretrained": [reading_code(), version_of("diffusers"), self.models(part)]} if part.pretrained else {}
        texts = {*part.entry.texts, *filter(lambda v: isinstance(v, str), part.params.model_dump().values())}
        network_code = {name: built_by(name) for name in networks.NAMES if name in texts}  # such as a teacher's
        return part.key | trusted | models | ({"networks": network_code} if network_code else {})

    def source(self, part: Part) -> object:
        """What identifies a part apart from its hyperparameters."""
        kept = ("trusted", "pretrained", "libraries", "contract", "networks")
        others = {name: value for name, value in self.key(part).items() if name in kept}
        return [part.entry.source, *others.items()] if others else part.entry.source

    def models(self, *parts: Part) -> dict[str, str]:
        """Digests of the pretrained models that the parts name.

        Names alone do not do, for the files under a name may change.
        """
        return {name: self.model(name).digest for part in parts for name in sorted(part.pretrained)}

    def model(self, name: str) -> pretrained.Model:
        """A pretrained model, read once, so that the weights that are used are those whose digest is in the keys."""
        if name not in self._models:
            self._models[name] = pretrained.read(name, self.population(self.protocol.seeds[0]).data.shape)
        return self._models[name]

    def reference_sizes(self, training: Part) -> ReferenceSizes:
        """How many online and offline reference models a defense has; fewer if it is costly to train."""
        costly = self.protocol.costly
        few = costly.references if costly and training.entry.id in costly.defenses else None
        return few or self.protocol.references

    def population_models(self, training: Part) -> list[int]:
        """The numbers of the networks of the population that a defense has.

        Target 0, and as many reference models as `references.online` outside of its pair. The other one of its pair is
        no reference of it, and there only where it is a target itself.
        """
        first = self.protocol.pair
        others = range(first, first + self.reference_sizes(training).online)
        return [*range(first if self.protocol.targets > 1 else 1), *others]

    def targets(self, chain: Chain, attack: Part | None = None) -> range:
        """The numbers of the targets on which a membership attack is scored: fewer where the protocol calls it, or the defense, costly.

        chain: as the attack meets it (`Chain.facing`). Without an attack: those on which cheap ones are.
        """
        costly, most = self.protocol.costly, self.protocol.targets
        if costly is None or costly.targets is None:
            return range(most)
        dear = attack is not None and attack.entry.id in costly.attacks
        few = dear or any(part.entry.id in costly.defenses for part in chain.parts)
        return range(min(most, costly.targets) if few else most)

    def groups(self, training: Part) -> list[list[NetworkId]]:
        """The networks of one defense and seed, in groups that train together (`recipe.ensemble`), in a fixed order."""
        online: list[NetworkId] = [("target", k) for k in self.population_models(training) if k]
        offline: list[NetworkId] = [("offline", k) for k in range(self.reference_sizes(training).offline)]
        trained_alike: list[list[NetworkId]] = [[("target", 0), ("shadow", 0), *online, *offline]]
        if not self.protocol.split.shadow_world:
            trained_alike = [[("target", 0), *online]]
        elif self.protocol.adversary:  # an ensemble has one network and one recipe
            trained_alike = [[("target", 0), *online], [("shadow", 0), *offline]]
        size = self.protocol.recipe.ensemble if training.entry.plain_training else 1
        return [ids[i : i + size] for ids in trained_alike for i in range(0, len(ids), size)]

    def population(self, seed: int) -> Population:
        """The data of one seed: its parts, candidates and members."""
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

    def noise_key(self, seed: int, owner: str) -> bytes:
        """The secret of a target or of the adversary (`owner_of`), from which guards draw their noise: one for all chains (RULES 3, 8)."""
        name = f"noise/{self.protocol.dataset}/{seed}/{owner}"
        return hmac.digest(self.secret or b"development", name.encode(), "sha256")

    def stamp(self, seed: int, owner: str) -> str:
        """A digest that stands for the noise key in store keys and does not reveal it."""
        return hmac.digest(self.noise_key(seed, owner), b"stamp", "sha256").hex()

    def setup(self, seed: int, role: str) -> Setup:
        """The architecture and data that a network of this role has."""
        data, protocol = self.population(seed).data, self.protocol
        own = dict(zip(EVALUATORS, (protocol.evaluator, protocol.second_evaluator), strict=True))
        name = own.get(role) or protocol.architecture_of(data_of(role))
        return Setup(name, data.classes, data.shape, data.simple, self.device)

    def recipe(self, part: Part, role: str) -> Recipe:
        """The training recipe of a network of this role, with the part's own choices (`Axes`)."""
        world = "target" if role in EVALUATORS else data_of(role)
        if self.protocol.recipe.steps is None:
            return self.protocol.recipe_of(world, part.axes)
        samples = len(self.population(self.protocol.seeds[0]).parts[f"{world}-train"])  # of all seeds alike
        return self.protocol.recipe_of(world, part.axes, samples)

    def networks_code(self, evaluator: bool) -> dict[str, list[str]]:
        """`built_by` of each architecture that a scenario uses, by name; with `evaluator`, the evaluators' too."""
        protocol, adversary = self.protocol, self.protocol.adversary
        names = {protocol.architecture, *([adversary.architecture] if adversary and adversary.architecture else [])}
        return {
            name: built_by(name)
            for name in sorted(names | ({protocol.evaluator, protocol.second_evaluator} if evaluator else set()))
        }

    @cached_property
    def environment(self) -> str:
        """What the last digits of a number depend on besides code: torch's version and the kind of device.

        It is the same on all machines without an accelerator.
        """
        software = f"torch {torch.__version__.split('+')[0]} {self.device.type}"
        if self.device.type != "cuda":
            return software
        gpu = torch.cuda.get_device_name(self.device)
        return f"{software} {torch.version.cuda} cudnn {torch.backends.cudnn.version()} {gpu}"
