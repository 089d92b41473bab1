"""A rehearsal: a protocol's whole way, from data on disk to scores, on stand-in images and cut down to seconds.

Shapes, channels, classes, networks, defenses and attacks are the protocol's own; samples, updates, reference models and
repetitions are as few as go. Nothing is kept. What it finds is what a full run would meet after hours: a network that does not take
the images, an attack that a guard breaks, a package that is not installed, a part that the machine cannot hold.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmark import data as datasets
from benchmark import networks
from benchmark.data import standin
from benchmark.data.splits import draw, indices_digest
from benchmark.data.standin import Facts, facts
from benchmark.entries.registry import Chain, Part, Registry
from benchmark.networks.cost import activations, cost
from benchmark.protocol import Protocol, Recipe, ReferenceSizes
from benchmark.run.executors.pool import Pool
from benchmark.run.plan import Plan, make_plan
from benchmark.run.work import Setting, run_job, use

SAMPLES, FEWER = 8, 4
"""Of a part, and where an image takes more than `DEAR` multiply-adds; with inversions at least as many as classes, so that each has an image."""
DEAR = 1_000_000_000
REPEATED = (
    "attack_steps",
    "copies",
    "epochs",
    "labels",
    "left_out",
    "models",
    "n",
    "queries",
    "steps",
    "train_steps",
    "views",
)
"""Hyperparameters that only say how often something is done: a rehearsal takes the least that they allow."""


@dataclass(frozen=True)
class Task:
    """One protocol to be rehearsed, in a setting whose store is the folder of the rehearsal."""

    protocol: Protocol
    setting: Setting
    pairs: tuple[tuple[str, str], ...]
    """(attack, defense) by name; attack "" is the defense's utility."""


@dataclass
class Rehearsed:
    """What came of it: numbers of jobs and networks, seconds, and what failed, a line each."""

    name: str
    jobs: int = 0
    networks: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def rehearse(
    protocols: Sequence[Protocol], setting: Setting, workers: int, report: Callable[[Rehearsed], None]
) -> Iterator[Rehearsed]:
    """Rehearse protocols, each in one of the workers; yields what came of each. `report` is called first.

    In the first protocol of each network every attack meets the baseline and the longest cascade, and every defense meets one attack. The
    others differ from it in the data: in them the attacks by posteriors meet the baseline, and the cascade meets one attack where
    images have another size. Entries that differ in a fraction, such as a noise or an epsilon, go once.
    """
    with tempfile.TemporaryDirectory(
        prefix="leakboard-rehearsal-"
    ) as folder:  # also what a stopped worker leaves goes with it
        yield from _rehearse(protocols, replace(setting, store=Path(folder)), workers, report)


def _rehearse(
    protocols: Sequence[Protocol], setting: Setting, workers: int, report: Callable[[Rehearsed], None]
) -> Iterator[Rehearsed]:
    tasks = list(_tasks(protocols, setting, Registry(setting.submissions, setting.baselines)))
    tasks.sort(key=lambda task: -_weight(task))  # the longest first, so that no worker ends late
    waiting = list(tasks)
    pool: Pool[Task, Rehearsed] = Pool(go_through, setting, workers)
    try:
        while waiting or pool.busy:
            for worker in range(workers):
                if waiting and not pool.at_hand(worker) and pool.submit(worker, waiting[0]):
                    waiting.pop(0)
            for ended in pool.ended(1.0):
                if ended.problem is not None:
                    made = Rehearsed(ended.work.protocol.name, failures=[" ".join(str(ended.problem).split())])
                elif ended.made is None:
                    made = Rehearsed(ended.work.protocol.name, failures=["the worker died: killed, or out of memory"])
                else:
                    made = ended.made
                report(made)
                yield made
    finally:
        pool.stop()


def _tasks(protocols: Sequence[Protocol], setting: Setting, registry: Registry) -> Iterator[Task]:
    met: set[object] = set()
    for protocol in protocols:
        shape = facts(protocol.dataset).shape
        whole, new_shape = protocol.architecture not in met, shape not in met
        met |= {protocol.architecture, shape}
        yield Task(protocol, setting, pairs(protocol, registry, whole, new_shape))


def pairs(protocol: Protocol, registry: Registry, whole: bool, new_shape: bool) -> tuple[tuple[str, str], ...]:
    """(attack, defense) that are gone through, by name: of a protocol whose network, or whose image size, comes for the first time."""
    attacks = [registry.attack(a) for a in protocol.attacks]
    chains = [registry.chain(d, protocol.baseline) for d in protocol.defenses]
    attacks = list({_kind([a]): a for a in reversed(attacks)}.values())[::-1]
    chains = list({_kind(c.parts): c for c in reversed(chains)}.values())[::-1]
    longest = max(chains, key=lambda chain: len(chain.guards))
    by_posterior = [a for a in attacks if a.entry.access == "posterior"]
    found = [(_smaller(a).name, protocol.baseline) for a in (attacks if whole else by_posterior)]
    if whole:
        found.append(("", protocol.baseline))
        found += [(_smaller(attacks[0]).name, c.name) for c in chains]
        found += [(_smaller(a).name, longest.name) for a in by_posterior if longest.guards]
    elif new_shape:
        found.append((_smaller(attacks[0]).name, longest.name))
    named = ((a, _smaller_chain(registry, d, protocol.baseline)) for a, d in found)
    return tuple(dict.fromkeys(named))


def _kind(parts: Sequence[Part]) -> object:
    """What entries have in common that differ in fractions alone."""
    return tuple(
        (p.entry.id, str({k: v for k, v in p.params.model_dump().items() if not isinstance(v, float)}), str(p.axes), str(p.adversary))
        for p in parts
    )  # fmt: skip


def _weight(task: Task) -> float:
    return cost(task.protocol.architecture, 10, facts(task.protocol.dataset).shape).multiply_adds * len(
        {defense for _, defense in task.pairs}
    )


def _smaller(part: Part) -> Part:
    """An entry that repeats nothing more often than it has to."""
    fields = part.entry.params.model_fields
    cut: dict[str, Any] = {}
    for name in REPEATED:
        if name in fields and type(getattr(part.params, name)) is int:
            least = next((m.ge for m in fields[name].metadata if getattr(m, "ge", None) is not None), 1)
            cut[name] = min(getattr(part.params, name), max(1, int(least)))
    axes = part.axes.model_copy(update={"epochs": 1}) if part.axes.epochs else part.axes
    return replace(part, params=part.entry.params(**part.params.model_dump() | cut), axes=axes)


def _smaller_chain(registry: Registry, spec: str, baseline: str) -> str:
    chain: Chain = registry.chain(spec, baseline)
    names = [_smaller(part).name for part in chain.parts]
    return registry.chain("+".join(names), baseline).name


def shrunk(protocol: Protocol, known: Facts, registry: Registry) -> tuple[Protocol, int]:
    """The protocol with few samples, one update and two references, unpinned yet; and how many samples a part has."""
    inversion = any(registry.attack(a).entry.task == "inversion" for a in protocol.attacks)
    dear = cost(protocol.architecture, known.classes, known.shape).multiply_adds > DEAR
    size = max(FEWER if dear else SAMPLES, known.classes if inversion else 0)
    whole: Recipe = protocol.recipe.in_epochs(size)
    changes: dict[str, Any] = {"epochs": 1, "batch_size": max(size, 8), "ensemble": min(whole.ensemble, 2)}
    if whole.schedule == "step":
        changes["milestones"] = (1,)
    split = protocol.split
    few: dict[str, Any] = {"scored": None}
    if split.size is not None or "/" not in protocol.dataset:
        few["size"] = size
    pair = protocol.pair
    return protocol.model_copy(
        update={
            "recipe": whole.model_copy(update=changes),
            "split": split.model_copy(update=few),
            "seeds": protocol.seeds[:1],
            "references": ReferenceSizes(online=2, offline=2),
            "targets": min(protocol.targets, pair),
            "costly": None,
            "label_only": 4,
            "resamples": 100,
            "nulls": 1,
        }
    ), size


def go_through(task: Task) -> Rehearsed:
    """Rehearse one protocol in this process. A failure is returned, not raised."""
    start, made = time.perf_counter(), Rehearsed(task.protocol.name)
    before = os.environ.get("LEAKBOARD_PREPARED")
    folder = Path(tempfile.mkdtemp(dir=task.setting.store))
    try:
        _go_through(task, folder, made)
    except Exception as error:  # whatever happens to one protocol, the others go on
        made.failures.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("LEAKBOARD_PREPARED", None)
        if before is not None:
            os.environ["LEAKBOARD_PREPARED"] = before
    made.seconds = time.perf_counter() - start
    return made


def _go_through(task: Task, folder: Path, made: Rehearsed) -> None:
    registry = Registry(task.setting.submissions, task.setting.baselines)
    known = facts(task.protocol.dataset)
    other = task.protocol.adversary.dataset if task.protocol.adversary else None
    others = [facts(other)] if other else []
    protocol, size = shrunk(task.protocol, known, registry)
    for each in (known, *others):
        if "/" in each.name:
            standin.write(folder / "data", each, protocol.split, protocol.seeds[0], size)
    os.environ["LEAKBOARD_PREPARED"] = str(folder / "data")
    protocol = _pinned(protocol)
    artifacts = use(replace(task.setting, protocol=protocol, store=folder / "store"))
    plan = Plan()
    for defense in dict.fromkeys(d for _, d in task.pairs):
        attacks = [registry.attack(a) for a, d in task.pairs if a and d == defense]
        more = make_plan(artifacts, attacks, [artifacts.chain(defense)], [protocol.seeds[0]])
        plan.jobs |= {
            id: job for id, job in more.jobs.items() if job.kind != "scenario" or (job.attack, defense) in task.pairs
        }
        plan.groups |= more.groups
    made.networks = plan.networks
    failed: set[str] = set()
    for job in plan.jobs.values():
        made.jobs += 1
        if job.needs & failed:
            failed.add(job.id)
            continue
        done = run_job(job)
        problem = done.error or (
            done.result.reason if done.result and done.result.status not in ("ok", "skipped") else ""
        )
        if problem:
            failed.add(job.id)
            made.failures.append(f"{job.attack or job.kind} on {job.defense}: {problem}")


def _pinned(protocol: Protocol) -> Protocol:
    """The protocol with the digests of the data as it is here."""
    datasets.refresh()
    data, seed = datasets.load(protocol.dataset), protocol.seeds[0]
    adversary = protocol.adversary
    if adversary and adversary.dataset:
        adversary = adversary.model_copy(update={"data_digest": datasets.load(adversary.dataset).digest})
    split = protocol.split.model_copy(update={"digests": {seed: indices_digest(draw(protocol.split, data, seed))}})
    return protocol.model_copy(update={"data_digest": data.digest, "split": split, "adversary": adversary})


# --- What this machine does not have ----------------------------------------------------------------


def training_samples(protocol: Protocol) -> int:
    """How many samples a target of the full protocol is trained on, about: duplicates are not known before the data are here."""
    known, split = facts(protocol.dataset), protocol.split
    if split.size is not None:
        return split.size
    return known.parts.get("train", 0) if split.scheme == "official" else known.images // len(split.parts)


def lacking(protocol: Protocol, registry: Registry) -> list[str]:
    """What a full run needs and this machine lacks: data, packages, models of the user's own. A line each."""
    names = [
        protocol.dataset,
        *([protocol.adversary.dataset] if protocol.adversary and protocol.adversary.dataset else []),
    ]
    found = [f"data: {name} is not prepared" for name in names if "/" in name and name not in datasets.names()]
    parts = [registry.attack(a) for a in protocol.attacks]
    parts += [p for d in protocol.defenses for p in registry.chain(d, protocol.baseline).parts]
    packages = {library.split(".")[0] for part in parts for library in part.entry.libraries}
    packages |= {
        p
        for name in (protocol.architecture, protocol.evaluator, protocol.second_evaluator)
        for p in networks.libraries(name)
    }
    found += [
        f"package: {name} is not installed" for name in sorted(packages) if importlib.util.find_spec(name) is None
    ]
    return found + [f"model: {model}, which a hyperparameter names" for part in parts for model in part.pretrained]


def too_large(protocol: Protocol, workers: int, device: str) -> list[str]:
    """The parts of a full run that memory does not hold, with what they need, from parameters and image sizes. A line each."""
    known, n = facts(protocol.dataset), training_samples(protocol)
    c, h, w = known.shape
    memory = _memory()
    on = torch.cuda.mem_get_info()[1] if device == "cuda" else memory
    network = cost(protocol.architecture, known.classes, known.shape)
    width = 2 if protocol.recipe.precision == "bfloat16" else 4
    kept = activations(protocol.architecture, known.classes, known.shape) * width * protocol.recipe.batch_size
    scored = 2 * (protocol.split.scored or round(n * (1 - protocol.split.known_fraction)))
    needs = {
        "training images in float32": (4 * n * c * h * w, on),
        f"a training step of {protocol.architecture} (weights, gradients, optimizer, activations of {protocol.recipe.batch_size} images)": (
            16 * network.parameters + kept, on
        ),
        "answers of the reference models": (8 * protocol.references.online * scored * known.classes, memory),
    }  # fmt: skip
    return [
        f"{what}: about {size / 2**30:.1f} GiB in each of {workers} worker{'s' if workers > 1 else ''}, this machine has {limit / 2**30:.1f} GiB"
        for what, (size, limit) in needs.items()
        if size * (workers if limit == memory else 1) > limit
    ]


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
