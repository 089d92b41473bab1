"""The plan: which jobs are missing, and in which order. Jobs are scenarios, and what these are made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from benchmark.digests import code_of
from benchmark.entries.registry import ATTACKS, Chain, Part
from benchmark.errors import UserError
from benchmark.judge.kinds import KINDS
from benchmark.judge.scenario import asked_parts
from benchmark.judge.utility import asked_targets
from benchmark.protocol import Protocol
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.experiment import EVALUATORS, NetworkId, prepared_on, trained_as
from benchmark.targets.network import Network, training_code
from benchmark.targets.served import Guard
from benchmark.targets.store import digest


def judge_code(task: str) -> str:
    """Digest of the code that turns networks and answers into the numbers of a kind of attack, or of `utility`."""
    root = "judge.utility:utility" if task == "utility" else f"judge.kinds.{task}:Kind"
    return code_of(
        root, "targets.artifacts:Artifacts", "data.population:populate",
        "networks.access:GuardedTarget", "networks.access:ask", "networks.access:raw", "sandbox.local:Attacker", "sandbox.local:Defender", "sandbox.remote:Builder",
        "data.attribute:thickness", "data.attribute:above_class_median",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work for a worker, to be done after the jobs whose ids it `needs`."""

    kind: ClassVar[str]
    id: str
    defense: str
    seed: int
    needs: frozenset[str] = frozenset()
    attack: str = ""

    @property
    def units(self) -> float:
        """How much work it is, in units of its kind (`Progress`)."""
        return 1.0

    def make(self, artifacts: Artifacts) -> None:
        """Make what this job stands for, and store it. Not for a scenario, whose result the worker stores."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NetworksJob(Job):
    """Networks that train together."""

    kind = "networks"
    models: tuple[NetworkId, ...]

    @property
    def units(self) -> float:
        return float(len(self.models))

    def make(self, artifacts: Artifacts) -> None:
        _network(artifacts, artifacts.chain(self.defense), self.seed, self.models[0]).states()


@dataclass(frozen=True, kw_only=True)
class GuardJob(Job):
    """The state of a guard, by its place in the cascade, as it is prepared on one network."""

    kind = "guard"
    place: int
    prepared: NetworkId

    def make(self, artifacts: Artifacts) -> None:
        artifacts.served(artifacts.chain(self.defense), self.seed, *self.prepared).guards[self.place].state()


@dataclass(frozen=True, kw_only=True)
class AnswersJob(Job):
    """The answers of models to parts of the data; the adversary's stand behind guards that were prepared on `prepared`."""

    kind = "answers"
    prepared: NetworkId
    parts: tuple[str, ...]
    models: tuple[NetworkId, ...]

    @property
    def units(self) -> float:
        return float(len(self.models))

    def make(self, artifacts: Artifacts) -> None:
        chain = replace(artifacts.chain(self.defense), prepared=self.prepared)
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
    """Groups of networks that train together, by key: how many networks, and whether they are stored."""

    @property
    def networks(self) -> int:
        return sum(size for size, _ in self.groups.values())

    @property
    def networks_stored(self) -> int:
        return sum(size for size, stored in self.groups.values() if stored)

    def scenarios(self) -> int:
        return sum(j.kind == "scenario" for j in self.jobs.values())


def scenario_key(artifacts: Artifacts, attack: Part | None, chain: Chain, seed: int) -> str:
    """The store key of one scenario's result (without an attack: of the utility's).

    It covers everything that makes it.
    """
    faced = chain.facing(attack) if attack else chain
    asked = [["asked", faced.name]] if faced.guards != chain.guards else []
    evaluator = attack is not None and KINDS[attack.entry.task].evaluator
    return digest(
        "scenario", artifacts.protocol.name, artifacts.measures, artifacts.key(attack) if attack else "utility",
        [artifacts.stamp(seed, w) for w in ("target", "shadow")] if chain.guards else [],
        artifacts.key(artifacts.chain(artifacts.protocol.baseline).training) if evaluator else "",
        artifacts.key(chain.training), [artifacts.key(g) for g in chain.guards], artifacts.reference_sizes(chain.training),
        artifacts.population(seed).data.simple, seed, judge_code(attack.entry.task if attack else "utility"), training_code(), artifacts.networks_code(evaluator), artifacts.environment, *asked,
    )  # fmt: skip


def same_scenario(artifacts: Artifacts, attack: Part | None, chain: Chain, seed: int) -> str:
    """The key of another scenario with the same numbers, "" if there is none.

    A label-only attack is not affected by guards that keep labels: its numbers are those without these guards.
    """
    faced = chain.facing(attack) if attack else chain
    if faced.guards == chain.guards:
        return ""
    other = artifacts.chain(faced.name)
    return scenario_key(artifacts, attack, other, seed) if other.name == faced.name else ""


def make_plan(artifacts: Artifacts, attacks: list[Part], chains: list[Chain], seeds: list[int]) -> Plan:
    """Every attack on every chain, and every chain's utility, with all seeds; there are no jobs for what is stored.

    Raises UserError for an entry that asks for more than the protocol's split has.
    """
    for each in attacks:
        _check_split(artifacts.protocol, each)
    plan = Plan()
    for seed in seeds:
        for chain in chains:
            for attack in (None, *attacks):
                key = scenario_key(artifacts, attack, chain, seed)
                numbers = _targets(artifacts, attack, chain)
                ids = list(_network_ids(artifacts, attack, chain, seed, numbers))
                for id in ids:
                    _count_group(plan, artifacts, chain, seed, id)
                if artifacts.store.result(key) is not None:
                    plan.done.append(key)
                    continue
                if attack and skipped(artifacts.protocol, attack, chain):
                    plan.jobs[key] = ScenarioJob(id=key, defense=chain.name, seed=seed, attack=attack.name)
                    continue
                faced = [chain.facing(attack, k) if attack else chain for k in numbers]
                needs = frozenset(
                    job
                    for each in {one.prepared: one for one in faced}.values()
                    for job in _answers_jobs(plan, artifacts, attack, each, seed, ids)
                )
                if faced[0].guards != chain.guards:  # the judge compares the labels with those behind all guards
                    needs |= frozenset(_answers_jobs(plan, artifacts, None, chain, seed, [("target", 0)]))
                if (same := same_scenario(artifacts, attack, chain, seed)) in plan.jobs:
                    needs |= {same}
                name = attack.name if attack else ""
                plan.jobs[key] = ScenarioJob(id=key, defense=chain.name, seed=seed, attack=name, needs=needs)
    return plan


def _check_split(protocol: Protocol, attack: Part) -> None:
    """Raises UserError where an attack asks for a world or for halves that the split does not have."""
    split, entry, kind = protocol.split, attack.entry, KINDS[attack.entry.task]
    asked = sorted(entry.needs & {"shadow", "references-offline"})
    if entry.task == "membership" and protocol.thresholds == "partial":
        asked = [need for need in asked if need != "shadow"]  # known samples stand for it
    lacks = ""
    if not split.shadow_world and (asked or kind.evaluator):
        lacks = f"no shadow world, which {entry.task} needs{f' for {asked[0]}' if asked else ''}"
    elif not protocol.halves and any(need.startswith("references") for need in entry.needs):
        lacks = "parts of different sizes, and reference models are trained on halves of both: give split.size"
    if lacks:
        hint = (
            "; thresholds: partial gives known samples in its place"
            if asked == ["shadow"] and entry.task == "membership"
            else ""
        )
        raise UserError(f"{protocol.name}: {attack.name}: split {split.scheme} has {lacks}{hint}")


def skipped(protocol: Protocol, attack: Part | None, chain: Chain) -> str:
    """Why an attack does not apply to a defense under this protocol; "" where it does."""
    if attack is None or protocol.split.shadow_world or attack.adversary.guards == "target":
        return ""
    if any(need.startswith("references") for need in attack.entry.needs) and chain.facing(attack).guards:
        return f"no shadow world to prepare the guards of reference models in: {attack.entry.id}[guards=target] applies"
    return ""


def _targets(artifacts: Artifacts, attack: Part | None, chain: Chain) -> range:
    """The numbers of the targets that a scenario, or the utility, needs. Guards that the attack does not meet make it no dearer."""
    if attack is None:
        return asked_targets(artifacts, chain)
    if not KINDS[attack.entry.task].every_target:
        return range(1)
    return artifacts.targets(chain.facing(attack), attack)


def _network_ids(
    artifacts: Artifacts, attack: Part | None, chain: Chain, seed: int, numbers: range
) -> Iterator[NetworkId]:
    """The networks that a scenario needs, in the roles in which they answer; `numbers`: its targets'."""
    yield from (("target", k) for k in numbers)
    if attack is None:
        return
    needs = attack.entry.needs
    membership, calibrate = ATTACKS[attack.entry.task].from_shadow == "shadow", attack.entry.calibrate
    uses_shadow = (
        artifacts.protocol.thresholds == "shadow"
        and membership
        and ("shadow" in needs or (calibrate == "shadow" and not any(n.startswith("references") for n in needs)))
    )
    guards_of_references = chain.guards and any(n.startswith("references") for n in needs)
    if artifacts.protocol.split.shadow_world and (uses_shadow or guards_of_references):
        yield "shadow", 0
    for role in ("online", "offline"):
        if f"references-{role}" in needs:
            yield from sorted({id for k in numbers for id in artifacts.reference_ids(chain, seed, role, k)})
    if KINDS[attack.entry.task].evaluator:
        yield from ((role, 0) for role in EVALUATORS)


def _count_group(plan: Plan, artifacts: Artifacts, chain: Chain, seed: int, id: NetworkId) -> None:
    """Enter the group of a network in `plan.groups`."""
    network = _network(artifacts, chain, seed, id)
    if network.key not in plan.groups:
        plan.groups[network.key] = len(network.group), artifacts.store.has("networks", network.key)


def _network(artifacts: Artifacts, chain: Chain, seed: int, id: NetworkId) -> Network:
    """The network of this id. An evaluator is trained like the baseline, whatever the defense."""
    defense = artifacts.chain(artifacts.protocol.baseline) if id[0] in EVALUATORS else chain
    return artifacts.network(defense.training, seed, *trained_as(*id))


def _answers_jobs(
    plan: Plan, artifacts: Artifacts, attack: Part | None, chain: Chain, seed: int, network_ids: list[NetworkId]
) -> Iterator[str]:
    """Add the jobs that a scenario needs, and yield their ids. Parts and guards follow from the networks' roles."""
    roles = dict.fromkeys(role for role, _ in network_ids)
    for role in roles:
        ids = [network_id for network_id in network_ids if network_id[0] == role]
        networks = [_networks_job(plan, _network(artifacts, chain, seed, network_id), chain) for network_id in ids]
        if role in EVALUATORS or (role == "shadow" and not _asks_shadow(attack)):
            yield from filter(None, networks)
            continue
        # Targets stand behind guards of their own; those of all others are prepared on one network, once.
        for together in [[one] for one in ids] if role == "target" else [ids]:
            model, prepared = artifacts.served(chain, seed, *together[0]), prepared_on(chain, *together[0])
            parts = model.parts
            if role == "target" and artifacts.protocol.canaries:
                parts = (*parts, "candidates")
            if attack:
                parts = (*parts, *asked_parts(KINDS[attack.entry.task].asks, attack.entry))
            guards = [_guard_job(plan, guard, chain) for guard in model.guards]
            own = networks if role != "target" else [networks[ids.index(together[0])]]
            id = digest("job", "answers", chain.name, seed, together, parts, prepared)
            needs = frozenset(filter(None, [*own, *guards]))
            if id not in plan.jobs:
                plan.jobs[id] = AnswersJob(
                    id=id, defense=chain.name, seed=seed, prepared=prepared, parts=parts, models=tuple(together),
                    needs=needs,
                )  # fmt: skip
            yield id


def _asks_shadow(attack: Part | None) -> bool:
    """Whether the shadow model's answers are needed: by the attack, or to calibrate its threshold."""
    return bool(attack and ("shadow" in attack.entry.needs or attack.entry.calibrate == "shadow"))


def _networks_job(plan: Plan, network: Network, chain: Chain) -> str:
    """Add the job that trains a network's group; its id, or "" where the group is stored."""
    key, models = network.key, tuple(network.group)
    if network.experiment.store.has("networks", key):
        return ""
    if key not in plan.jobs:
        plan.jobs[key] = NetworksJob(id=key, defense=chain.name, seed=network.seed, models=models)
    return key


def _guard_job(plan: Plan, guard: Guard, chain: Chain) -> str:
    """Add the job that prepares a guard, and those that it needs; its id, or "" where the state is stored."""
    key, before = guard.key, guard.before
    if before.experiment.store.has("guard", key):
        return ""
    if key not in plan.jobs:
        needs = [_networks_job(plan, before.network, chain), *(_guard_job(plan, g, chain) for g in before.guards)]
        plan.jobs[key] = GuardJob(
            id=key, defense=chain.name, seed=before.seed, place=len(before.guards), prepared=before.id,
            needs=frozenset(filter(None, needs)),
        )  # fmt: skip
    return key
