"""A run of `leakboard run`: from the names on the command line to results, logged and summed up."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from benchmark import places, secret, summaries
from benchmark import protocol as protocols
from benchmark.artifacts import Artifacts
from benchmark.errors import UserError
from benchmark.execute import Done, Progress, Setting, execute
from benchmark.plan import Job, Plan, make_plan, scenario_key
from benchmark.protocol import Protocol
from benchmark.registry import Chain, Part, Registry
from benchmark.remote import Mode, require
from benchmark.result import Result
from benchmark.tracking import Tracker, without_password

if TYPE_CHECKING:
    from leaderboard.ranking import Board


@dataclass(frozen=True)
class Run:
    """What is to be done, and with what."""

    artifacts: Artifacts
    plan: Plan
    attacks: list[Part]
    chains: list[Chain]
    setting: Setting
    seeds: tuple[int, ...]
    given: str
    """The protocol as the user named it: a name, or a file."""


@dataclass
class Outcome:
    """What a run gave. `seconds` by kind of work, over all workers; attacks apart from their judging."""

    tracker: Tracker
    results: list[Result] = field(default_factory=list)
    fresh: int = 0
    trained: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: float = 0.0


def prepare(
    entries: list[str],
    name: str,
    submissions: Path,
    store: Path,
    device: str,
    seeds: list[int] | None = None,
    isolation: Mode = "auto",
) -> Run:
    """Resolve every name, and find a way to isolate, before any work starts. Raises UserError."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: expected auto, cpu or cuda, given {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: expected a machine with CUDA, given one without; use --device cpu")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    loaded = protocols.load(name)
    baselines = _baselines(submissions)
    setting = Setting(
        loaded, submissions.absolute(), store.absolute(), device, isolation, secret=secret.take(), baselines=baselines
    )
    if setting.secret and isolation == "never":
        raise UserError("--trust: expected isolation with a split secret, given none: official rows are watched")
    artifacts = setting.artifacts()
    registry = artifacts.registry
    _check_architectures(loaded)
    attacks, chains = _entries(loaded, registry, entries)
    wrong = [s for s in seeds or [] if s not in loaded.seeds]
    if wrong:
        raise UserError(f"--seed: expected one of {list(loaded.seeds)}, given {wrong[0]}")
    chosen = tuple(dict.fromkeys(seeds or loaded.seeds))
    plan = Plan()
    for some_attacks, some_chains in _pairs(loaded, registry, entries, attacks, chains):
        more = make_plan(artifacts, some_attacks, some_chains, list(chosen))
        plan.jobs |= more.jobs
        plan.done += [k for k in more.done if k not in plan.done]
        plan.groups |= more.groups
    if plan.jobs:
        parts = [
            *attacks,
            *(p for c in chains for p in c.parts),
            registry.chain(loaded.baseline, loaded.baseline).training,
        ]
        setting = replace(setting, launcher=require([p.entry for p in parts], isolation))
    return Run(artifacts, plan, attacks, chains, setting, chosen, name)


def _baselines(submissions: Path) -> Path | None:
    """What comes with the package beside the project's own submissions; another folder holds all there is."""
    return places.baselines() if submissions.absolute() == places.submissions() else None


def _entries(loaded: Protocol, registry: Registry, entries: list[str]) -> tuple[list[Part], list[Chain]]:
    attacks = [registry.attack(a) for a in loaded.attacks]
    chains = [registry.chain(d, loaded.baseline) for d in loaded.defenses]
    for spec in entries:
        if registry.kind_of(spec) == "attack":
            attacks.append(registry.attack(spec))
        else:
            chains.append(registry.chain(spec, loaded.baseline))
    return list({a.name: a for a in attacks}.values()), list({c.name: c for c in chains}.values())


def _pairs(
    loaded: Protocol, registry: Registry, entries: list[str], attacks: list[Part], chains: list[Chain]
) -> list[tuple[list[Part], list[Chain]]]:
    """All with all; or, for entries that were named, each with every required opponent."""
    if not entries:
        return [(attacks, chains)]
    named = {e if registry.kind_of(e) == "attack" else "" for e in entries}
    mine = [a for a in attacks if a.name in {registry.attack(n).name for n in named if n}]
    own = {registry.chain(e, loaded.baseline).name for e in entries if registry.kind_of(e) == "defense"}
    theirs = [c for c in chains if c.name in own]
    required = {registry.chain(d, loaded.baseline).name for d in loaded.defenses}
    required_attacks = {registry.attack(a).name for a in loaded.attacks}
    pairs = []
    if mine:
        pairs.append((mine, [c for c in chains if c.name in required or c.name in own]))
    if theirs:
        baseline = [c for c in chains if c.name == loaded.baseline]
        attackers = [a for a in attacks if a.name in required_attacks or a in mine]
        pairs.append((attackers, list({c.name: c for c in (*baseline, *theirs)}.values())))
    return pairs


def _check_architectures(loaded: Protocol) -> None:
    from benchmark import architectures
    from benchmark.errors import suggest

    named = [("architecture", loaded.architecture), ("evaluator", loaded.evaluator)]
    if loaded.adversary and loaded.adversary.architecture:
        named.append(("adversary.architecture", loaded.adversary.architecture))
    for where, name in named:
        if name not in architectures.NAMES:
            raise UserError(
                f"{loaded.name}: {where}: unknown architecture {name!r}{suggest(name, architectures.NAMES)}"
            )


def default_workers(device: str) -> int:
    return 1 if device == "cuda" else min(os.cpu_count() or 1, 8)


def run(job: Run, workers: int, console: Console) -> Outcome:
    """Do what is missing; log every result as it comes. Ctrl-C loses the work in hand, no more."""
    outcome = Outcome(tracker=Tracker(job.setting.store / "logged"))
    store = job.artifacts.store
    start = time.perf_counter()
    shown = 0.0

    def report(done_job: Job, done: Done, progress: Progress) -> None:
        nonlocal shown
        for kind, seconds in done.made:
            outcome.seconds[kind] += seconds
        if any(kind == "networks" for kind, _ in done.made):
            outcome.trained += len(done_job.detail) if done_job.kind == "networks" else 1
        now = time.perf_counter()
        if now - shown > (1 if console.is_terminal else 10) or progress.done == progress.total:
            shown = now
            left = int(progress.seconds_left)
            console.print(
                f"{progress.done}/{progress.total} jobs, {left // 60}:{left % 60:02d} left, "
                f"{done_job.kind} of {done_job.defense}",
                end="\r" if console.is_terminal and progress.done < progress.total else "\n",
                markup=False, highlight=False, soft_wrap=False, overflow="ellipsis", no_wrap=True,
            )  # fmt: skip

    stored = [marked(r, job.artifacts) for key in job.plan.done if (r := store.result(key)) is not None]
    outcome.results += stored
    for result in stored:
        outcome.tracker.log(result)
    if job.plan.jobs:
        store.check_writable()
        for result in execute(job.plan, job.setting, workers, report):
            result = marked(result, job.artifacts)
            outcome.results.append(result)
            outcome.fresh += 1
            # The judge's own work (bootstrap, storing) is not the attack's.
            kind = "attacks" if result.task == "membership" else "other attacks"
            outcome.seconds[kind] += result.cost.get("seconds", 0.0)
            outcome.tracker.log(result)
    outcome.tracker.retry()
    _summarise(job, outcome)
    outcome.wall = time.perf_counter() - start
    return outcome


def _summarise(job: Run, outcome: Outcome) -> None:
    """Have MLflow's parent runs say what all that is scored says of the defenses that something was logged of."""
    artifacts = job.artifacts
    if stale := outcome.tracker.stale(artifacts.protocol.name, [r.defense for r in outcome.results]):
        rows = {r.key: r for r in board_results(job)} | {r.key: r for r in outcome.results}
        board = board_of(artifacts.protocol, artifacts.registry)
        summaries.log(outcome.tracker, rows.values(), map(artifacts.chain, stale), board)


def board_results(job: Run) -> list[Result]:
    """Everything that is stored of this protocol under today's code, whatever its hyperparameters: the key decides."""
    artifacts = job.artifacts
    registry, seeds = artifacts.registry, artifacts.protocol.seeds
    attack_of, chain_of = cache(registry.attack), cache(artifacts.chain)

    def of_today(r: Result) -> bool:
        with contextlib.suppress(UserError):  # an entry, a hyperparameter or a model that is there no longer
            attack = attack_of(r.attack) if r.attack else None
            return r.seed in seeds and scenario_key(artifacts, attack, chain_of(r.defense), r.seed) == r.key
        return False

    return [marked(r, artifacts) for r in artifacts.store.results(artifacts.measures) if of_today(r)]


def marked(result: Result, artifacts: Artifacts) -> Result:
    """The result, saying so where its defense or a part of the cascade was tuned here, before it was scored or after."""
    names = [p.name for p in artifacts.registry.chain(result.defense, artifacts.protocol.baseline).parts]
    found = []
    for i, j in combinations(range(len(names) + 1), 2):
        if (how := artifacts.store.how_tuned(artifacts.protocol.name, "+".join(names[i:j]))) is not None:
            found.append(how)
    said = {"tuned": "; ".join(dict.fromkeys(found))} if found else {}
    return result.model_copy(update={"claims": result.claims | said})


def stored_results(name: str, submissions: Path, store: Path) -> list[Result]:
    """All results of a protocol that the store holds (`board_results`); with a split secret the official ones."""
    return board_results(prepare([], name, submissions, store, "auto"))


def board_of(loaded: Protocol, registry: Registry) -> Board:
    """What a protocol asks of an entry, by the names that results have: a YAML may write them another way."""
    from leaderboard.ranking import Board

    canonical = {
        "required_attacks": tuple(registry.attack(a).name for a in loaded.attacks),
        "required_defenses": tuple(registry.chain(d, loaded.baseline).name for d in loaded.defenses),
    }
    return Board(**loaded.board() | canonical)


def print_board(job: Run, outcome: Outcome, console: Console) -> None:
    """The ranked tables of all that is scored."""
    from leaderboard.terminal import print_tables

    stored = {r.key: r for r in board_results(job)} | {r.key: r for r in outcome.results}
    board = replace(board_of(job.artifacts.protocol, job.artifacts.registry), seeds=job.seeds)
    print_tables([r for r in stored.values() if r.seed in job.seeds], board, console)
    console.print(f"left out: {' '.join(job.artifacts.protocol.leaves_out.split())}", style="dim", markup=False)


def print_summary(job: Run, outcome: Outcome, console: Console) -> None:
    """What was made, where it is, what it cost, and the next command."""
    reused = job.plan.networks - outcome.trained
    console.print(f"{outcome.trained} trained, {max(reused, 0)} reused; {outcome.fresh} scenarios scored, {len(job.plan.done)} reused; {outcome.wall:.0f} s")  # fmt: skip
    training = outcome.seconds["networks"] + outcome.seconds["artifact"]
    if outcome.fresh and training:
        share = 100 * outcome.seconds["attacks"] / training
        console.print(
            f"time of the workers: training {training:.0f} s, answers {outcome.seconds['answers']:.0f} s, "
            f"membership attacks {outcome.seconds['attacks']:.0f} s ({share:.0f} % of training), "
            f"other attacks {outcome.seconds['other attacks']:.0f} s"
        )
    tracker = outcome.tracker
    shown = without_password(tracker.uri)
    if tracker.pending:
        what = "did not answer" if tracker.down else "refused"
        kept = f"{len(tracker.pending)} results are kept and will be logged by the next run of this command"
        console.print(f"MLflow at {shown} {what} ({tracker.reason}); {kept}", soft_wrap=True, markup=False)
    else:
        console.print(f"store: {job.setting.store}; MLflow: {shown} (leakboard ui)", soft_wrap=True, markup=False)
    named = shlex.join(["--protocol", job.given])
    console.print(f"next: leakboard publish {named} && leakboard board", markup=False, soft_wrap=True)


def reproduce(
    old: Result, protocol: str, submissions: Path, store: Path, device: str, workers: int | None, console: Console
) -> Result:
    """Score one logged scenario again in an empty store. protocol: its name, or the file that it is from."""
    loaded = protocols.load(protocol)
    if loaded.measures != old.protocol_digest:
        raise UserError(
            f"{old.protocol}: expected the version {old.protocol_digest[:12]} of the run, given {loaded.measures[:12]}"
        )
    job = prepare([], protocol, submissions, store, device, [old.seed])
    registry = job.artifacts.registry
    chain = registry.chain(old.defense, loaded.baseline)
    attack = registry.attack(old.attack) if old.attack else None
    plan = make_plan(job.artifacts, [attack] if attack else [], [chain], [old.seed])
    wanted = scenario_key(job.artifacts, attack, chain, old.seed)
    if attack:
        other = scenario_key(job.artifacts, None, chain, old.seed)
        plan.jobs.pop(other, None)
    fresh = None

    def report(done_job: Job, done: Done, progress: Progress) -> None:
        console.print(f"{progress.done}/{progress.total} jobs", end="\r" if console.is_terminal else "\n")

    for result in execute(plan, job.setting, workers or default_workers(job.setting.device), report):
        fresh = result if result.key == wanted else fresh
    assert fresh is not None
    return fresh
