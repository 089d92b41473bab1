"""Which work is missing, and in which order: scenarios, and what they are made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from benchmark.digests import code_of
from benchmark.entries.registry import ATTACKS, Chain, Part
from benchmark.judge.kinds import KINDS
from benchmark.protocol import World
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.experiment import Model, prepared_in
from benchmark.targets.network import Network, training_code
from benchmark.targets.served import Guard
from benchmark.targets.store import digest


def judge_code(task: str) -> str:
    """Digest of what turns networks and answers into the numbers of a kind of attack, or of `utility`."""
    judged = "judge.utility:utility" if task == "utility" else f"judge.kinds.{task}:Kind"
    return code_of(
        judged, "targets.artifacts:Artifacts", "data.population:populate",
        "networks.access:GuardedTarget", "networks.access:ask", "networks.access:raw", "sandbox.local:Attacker", "sandbox.local:Defender",
        "data.attribute:thickness", "data.attribute:above_class_median",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work of a worker, after those whose ids it `needs`."""

    kind: ClassVar[str]
    id: str
    defense: str
    seed: int
    needs: frozenset[str] = frozenset()
    attack: str = ""

    @property
    def units(self) -> float:
        """How much work of its kind it is."""
        return 1.0

    def make(self, artifacts: Artifacts) -> None:
        """Have the store hold what this job makes. A scenario makes a result, which the worker stores."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NetworksJob(Job):
    """Networks that train together."""

    kind = "networks"
    models: tuple[Model, ...]

    @property
    def units(self) -> float:
        return float(len(self.models))

    def make(self, artifacts: Artifacts) -> None:
        _network(artifacts, artifacts.chain(self.defense), self.seed, self.models[0]).states()


@dataclass(frozen=True, kw_only=True)
class GuardJob(Job):
    """The state of a guard, by its place in the cascade."""

    kind = "guard"
    place: int
    world: World

    def make(self, artifacts: Artifacts) -> None:
        artifacts.served(artifacts.chain(self.defense), self.seed, self.world).guards[self.place].state()


@dataclass(frozen=True, kw_only=True)
class AnswersJob(Job):
    """What models answer, behind guards that were prepared in a world, to parts of the data."""

    kind = "answers"
    world: World
    parts: tuple[str, ...]
    models: tuple[Model, ...]

    @property
    def units(self) -> float:
        return float(len(self.models))

    def make(self, artifacts: Artifacts) -> None:
        chain = replace(artifacts.chain(self.defense), prepared=self.world)
        for model in self.models:
            for part in self.parts:
                artifacts.served(chain, self.seed, *model).answers(part)


@dataclass(frozen=True, kw_only=True)
class ScenarioJob(Job):
    """An attack on a defense; without an attack, the defense's utility."""

    kind = "scenario"


@dataclass
class Plan:
    """Jobs by id, in an order in which every job comes after what it needs."""

    jobs: dict[str, Job] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    """Keys of scenarios that are stored already."""
    groups: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Networks that train together, by key: how many, and whether the store holds them. Two plans may share some."""

    @property
    def networks(self) -> int:
        return sum(size for size, _ in self.groups.values())

    @property
    def networks_stored(self) -> int:
        return sum(size for size, stored in self.groups.values() if stored)

    def scenarios(self) -> int:
        return sum(j.kind == "scenario" for j in self.jobs.values())


def scenario_key(artifacts: Artifacts, attack: Part | None, chain: Chain, seed: int) -> str:
    """Covers everything that makes the result of one scenario (or, without an attack, of one utility)."""
    faced = chain.facing(attack) if attack else chain
    asked = [["asked", faced.name]] if faced.guards != chain.guards else []
    evaluator = attack is not None and KINDS[attack.entry.task].evaluator
    return digest(
        "scenario", artifacts.protocol.name, artifacts.measures, artifacts.key(attack) if attack else "utility",
        [artifacts.stamp(seed, w) for w in ("target", "shadow")] if chain.guards else [],
        artifacts.key(artifacts.chain(artifacts.protocol.baseline).training) if evaluator else "",
        artifacts.key(chain.training), [artifacts.key(g) for g in chain.guards], artifacts.reference_sizes(chain.training),
        seed, judge_code(attack.entry.task if attack else "utility"), training_code(), artifacts.networks_code(evaluator), artifacts.environment, *asked,
    )  # fmt: skip


def same_scenario(artifacts: Artifacts, attack: Part | None, chain: Chain, seed: int) -> str:
    """The key of the scenario whose numbers are this one's, for the attack asks for labels that guards keep; else ""."""
    faced = chain.facing(attack) if attack else chain
    if faced.guards == chain.guards:
        return ""
    other = artifacts.chain(faced.name)
    return scenario_key(artifacts, attack, other, seed) if other.name == faced.name else ""


def make_plan(artifacts: Artifacts, attacks: list[Part], chains: list[Chain], seeds: list[int]) -> Plan:
    """Every attack on every chain, and the utility of every chain; stored results make no jobs."""
    plan = Plan()
    for seed in seeds:
        for chain in chains:
            for attack in (None, *attacks):
                key = scenario_key(artifacts, attack, chain, seed)
                models = list(_models(artifacts, attack, chain))
                for model in models:
                    _count(plan, artifacts, chain, seed, model)
                if artifacts.store.result(key) is not None:
                    plan.done.append(key)
                    continue
                faced = chain.facing(attack) if attack else chain
                needs = frozenset(_answers(plan, artifacts, attack, faced, seed, models))
                if faced.guards != chain.guards:  # the judge compares its labels with those that are served
                    needs |= frozenset(_answers(plan, artifacts, None, chain, seed, [("target", 0)]))
                if (same := same_scenario(artifacts, attack, chain, seed)) in plan.jobs:
                    needs |= {same}
                name = attack.name if attack else ""
                plan.jobs[key] = ScenarioJob(id=key, defense=chain.name, seed=seed, attack=name, needs=needs)
    return plan


def _models(artifacts: Artifacts, attack: Part | None, chain: Chain) -> Iterator[Model]:
    yield "target", 0
    if attack is None:
        return
    needs = attack.entry.needs
    uses_shadow = ATTACKS[attack.entry.task].from_shadow == "shadow" and (
        "shadow" in needs or (attack.entry.calibrate == "shadow" and not any(n.startswith("references") for n in needs))
    )
    if uses_shadow or (chain.guards and any(n.startswith("references") for n in needs)):
        yield "shadow", 0
    sizes = artifacts.reference_sizes(chain.training)
    if "references-online" in needs:
        yield from (("online", k) for k in range(sizes.online))
    if "references-offline" in needs:
        yield from (("offline", k) for k in range(sizes.offline))
    if KINDS[attack.entry.task].evaluator:
        yield "evaluator", 0


def _count(plan: Plan, artifacts: Artifacts, chain: Chain, seed: int, model: Model) -> None:
    network = _network(artifacts, chain, seed, model)
    if network.key not in plan.groups:
        plan.groups[network.key] = len(network.group), artifacts.store.has("networks", network.key)


def _network(artifacts: Artifacts, chain: Chain, seed: int, model: Model) -> Network:
    """The evaluation classifier is trained plainly, whatever the defense."""
    plain = artifacts.chain(artifacts.protocol.baseline) if model[0] == "evaluator" else chain
    return artifacts.network(plain.training, seed, *model)


def _answers(
    plan: Plan, artifacts: Artifacts, attack: Part | None, chain: Chain, seed: int, models: list[Model]
) -> Iterator[str]:
    """Add the jobs that a scenario waits for; yield their ids."""
    roles = dict.fromkeys(role for role, _ in models)
    for role in roles:
        mine = [m for m in models if m[0] == role]
        networks = [_networks(plan, _network(artifacts, chain, seed, m), chain) for m in mine]
        if role == "evaluator" or (role == "shadow" and not _asks_shadow(attack)):
            yield from filter(None, networks)
            continue
        model = artifacts.served(chain, seed, role)
        parts, world = model.parts, prepared_in(chain, role)
        if role == "target" and artifacts.protocol.canaries:
            parts = (*parts, "candidates")
        if attack:
            parts = (*parts, *KINDS[attack.entry.task].asks)
        guards = [_guard(plan, guard, chain) for guard in model.guards]
        id = digest("job", "answers", chain.name, seed, role, parts, world)
        needs = frozenset(filter(None, [*networks, *guards]))
        if id not in plan.jobs:
            plan.jobs[id] = AnswersJob(
                id=id, defense=chain.name, seed=seed, world=world, parts=parts, models=tuple(mine), needs=needs
            )
        yield id


def _asks_shadow(attack: Part | None) -> bool:
    return bool(attack and ("shadow" in attack.entry.needs or attack.entry.calibrate == "shadow"))


def _networks(plan: Plan, network: Network, chain: Chain) -> str:
    key, models = network.key, tuple(network.group)
    if network.experiment.store.has("networks", key):
        return ""
    if key not in plan.jobs:
        plan.jobs[key] = NetworksJob(id=key, defense=chain.name, seed=network.seed, models=models)
    return key


def _guard(plan: Plan, guard: Guard, chain: Chain) -> str:
    key, before = guard.key, guard.before
    if before.experiment.store.has("guard", key):
        return ""
    if key not in plan.jobs:
        needs = [_networks(plan, before.network, chain), *(_guard(plan, g, chain) for g in before.guards)]
        plan.jobs[key] = GuardJob(
            id=key, defense=chain.name, seed=before.seed, place=len(before.guards), world=before.world,
            needs=frozenset(filter(None, needs)),
        )  # fmt: skip
    return key
