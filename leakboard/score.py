"""What `leakboard run` does: names become a plan, the plan becomes results, results are logged and printed."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmark import places
from benchmark import protocol as protocols
from benchmark.addresses import shown
from benchmark.data import pins, secret
from benchmark.entries.registry import Chain, Part, Registry
from benchmark.errors import UserError, printable
from benchmark.protocol import Protocol
from benchmark.result import Result
from benchmark.run.execute import execute, on_this_machine
from benchmark.run.plan import Job, NetworksJob, Plan, make_plan, scenario_key
from benchmark.run.progress import Progress, Sort, sort_of
from benchmark.run.tracking import Tracker
from benchmark.run.work import Done, Setting
from benchmark.sandbox.remote import Isolation, Mode, require
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store
from leakboard import console, summaries

if TYPE_CHECKING:
    from leaderboard.ranking import Board


@dataclass(frozen=True)
class Run:
    """The work of one `leakboard run`, before any of it is done."""

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
    """What a run yielded: results, how many of them are new, networks trained, and times in seconds.

    `seconds`: by kind of work, summed over workers; an attack's without what the judge spends on it. `wall`: elapsed.
    """

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
    baselines: Path | None = None,
) -> Run:
    """Resolve every name, plan the missing work and find a way to isolate it. Nothing is computed yet.

    name: of a protocol, or its file. seeds: None: all of the protocol. baselines: a second folder of submissions.
    Raises UserError for an unknown name, device or seed, and where code has to be isolated and nothing can do it.
    """
    loaded = protocols.load(name)
    pins.check(loaded)
    setting = Setting(
        loaded, submissions.absolute(), store.absolute(), device_of(device), isolation, secret=secret.take(),
        baselines=baselines and baselines.absolute(),
    )  # fmt: skip
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


def pinned(name: str) -> bool:
    """Whether a name stands for one protocol whose data are pinned: one that can be run."""
    found = protocols.members(name)
    return len(found) == 1 and all(p.pinned for p in found.values())


def device_of(name: str) -> str:
    """The device of an option: cpu or cuda. Raises UserError for one that is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: expected auto, cpu or cuda, given {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: expected a machine with CUDA, given one without; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


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
    """Which attacks meet which chains: all meet all; where entries were named, each meets every required opponent."""
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
    """Build every network on no device, so that what it does not take is said before any work. Raises UserError."""
    import torch

    from benchmark import data, networks
    from benchmark.errors import suggest

    networks.discover()
    named = [(name, getattr(loaded, name)) for name in ("architecture", "evaluator", "second_evaluator")]
    if loaded.adversary and loaded.adversary.architecture:
        named.append(("adversary.architecture", loaded.adversary.architecture))
    for where, name in named:
        if name in networks.broken:
            raise UserError(f"{loaded.name}: {where}: {networks.broken[name]}")
        if name not in networks.NAMES:
            raise UserError(f"{loaded.name}: {where}: unknown architecture {name!r}{suggest(name, networks.NAMES)}")
        images = data.load(loaded.dataset)
        try:
            with torch.device("meta"):
                networks.build(name, images.classes, images.shape, 0)
        except UserError as problem:
            raise UserError(f"{loaded.name}: {where}: {name}: {problem}") from None


def default_workers(device: str) -> int:
    """Worker processes: one a core, at most 8; one on a GPU."""
    return 1 if device == "cuda" else min(os.cpu_count() or 1, 8)


def run(job: Run, workers: int) -> Outcome:
    """Do the missing work and log every result as it comes. Ctrl-C loses only the jobs that are running."""
    outcome = Outcome(tracker=Tracker(job.setting.store / "logged"))
    store = job.artifacts.store
    start = time.perf_counter()
    shown = 0.0

    def report(done_job: Job, done: Done, progress: Progress) -> None:
        nonlocal shown
        for kind, seconds in done.made:
            outcome.seconds[kind] += seconds
        if any(kind == "networks" for kind, _ in done.made):
            outcome.trained += int(done_job.units) if isinstance(done_job, NetworksJob) else 1
        now, last = time.perf_counter(), progress.done == progress.total
        if now - shown > (1 if console.progress.is_terminal else console.EVERY) or last:
            shown = now
            left = console.clock(progress.seconds_left)
            what = f"{done_job.kind} of {done_job.defense}"
            console.redraw(f"{progress.done}/{progress.total} jobs, {left} left, {what}", last=last)

    stored = [with_tuned_claim(r, job.artifacts) for key in job.plan.done if (r := store.result(key)) is not None]
    outcome.results += stored
    for result in stored:
        outcome.tracker.log(result)
    if job.plan.jobs:
        store.check_writable()
        for result in execute(job.plan, job.setting, on_this_machine(job.setting, workers), report, _times(stored)):
            result = with_tuned_claim(result, job.artifacts)
            outcome.results.append(result)
            outcome.fresh += 1
            # The cost is the attack's own; what the judge spends on bootstrap and storing is not in it.
            kind = "attacks" if result.task == "membership" else "other attacks"
            outcome.seconds[kind] += result.cost.get("seconds", 0.0)
            outcome.tracker.log(result)
    outcome.tracker.retry()
    _summarise(job, outcome)
    outcome.wall = time.perf_counter() - start
    return outcome


def _summarise(job: Run, outcome: Outcome) -> None:
    """Update the parent runs in MLflow of all defenses with newly logged results, from everything that is scored."""
    artifacts = job.artifacts
    if stale := outcome.tracker.stale(artifacts.protocol.name, [r.defense for r in outcome.results]):
        rows = {r.key: r for r in board_results(job.artifacts)} | {r.key: r for r in outcome.results}
        board = board_of(artifacts.protocol, artifacts.registry)
        summaries.log(outcome.tracker, rows.values(), map(artifacts.chain, stale), board)


def _times(results: list[Result]) -> Iterator[tuple[Sort, float, float]]:
    """Kind of work, units and seconds of stored results, from which `Progress` estimates the time left."""
    for r in results:
        if "train_seconds" in r.cost:
            yield sort_of("networks", r.defense), 1.0, r.cost["train_seconds"]
        if "seconds" in r.cost:
            yield sort_of("scenario", r.defense, r.attack), 1.0, r.cost["seconds"]


def board_results(artifacts: Artifacts) -> list[Result]:
    """All stored results of this protocol whose key is that of the current code, with any hyperparameters."""
    registry, seeds = artifacts.registry, artifacts.protocol.seeds
    attack_of, chain_of = cache(registry.attack), cache(artifacts.chain)

    def is_current(r: Result) -> bool:
        with contextlib.suppress(UserError):  # its entry, hyperparameter or model no longer exists
            attack = attack_of(r.attack) if r.attack else None
            return r.seed in seeds and scenario_key(artifacts, attack, chain_of(r.defense), r.seed) == r.key
        return False

    return [with_tuned_claim(r, artifacts) for r in artifacts.store.results(artifacts.measures) if is_current(r)]


def with_tuned_claim(result: Result, artifacts: Artifacts) -> Result:
    """The result, with the claim `tuned` if its defense or a part of the cascade was ever tuned in this store."""
    names = [p.name for p in artifacts.registry.chain(result.defense, artifacts.protocol.baseline).parts]
    tunings = []
    for i, j in combinations(range(len(names) + 1), 2):
        if (how := artifacts.store.how_tuned(artifacts.protocol.name, "+".join(names[i:j]))) is not None:
            tunings.append(how)
    claims = {"tuned": "; ".join(dict.fromkeys(tunings))} if tunings else {}
    return result.model_copy(update={"claims": result.claims | claims})


def stored_results(
    name: str, submissions: Path, store: Path, baselines: Path | None = None, registry: Registry | None = None
) -> list[Result]:
    """All results of a protocol that the store holds (`board_results`): with a split secret the official ones.

    registry: that of `submissions` and `baselines`, if it was read before.
    """
    loaded, hidden = protocols.load(name), secret.take()
    registry = registry or Registry(submissions, baselines)
    device = torch.device(device_of("auto"))
    return board_results(Artifacts(loaded, registry, Store(store), device, Isolation(limits=loaded.limits), hidden))


def board_of(loaded: Protocol, registry: Registry) -> Board:
    """What a protocol requires of an entry, with names as results have them: the YAML may write them otherwise."""
    from leaderboard.ranking import Board

    canonical = {
        "required_attacks": tuple(registry.attack(a).name for a in loaded.attacks),
        "required_defenses": tuple(registry.chain(d, loaded.baseline).name for d in loaded.defenses),
    }
    return Board(**loaded.board() | canonical)


def print_board(job: Run, outcome: Outcome, rows: list[Result], what: str) -> None:
    """Print the tables of `rows`, ranked as on the board, or without ranks and with the reason.

    rows, what: from `with_published`. There are no ranks where seeds or rows of required entries are missing.
    """
    from leakboard.tables import print_tables

    board = board_of(job.artifacts.protocol, job.artifacts.registry)
    scored = {(r.attack, r.defense, r.seed) for r in rows}
    incomplete_seeds = [s for s in board.seeds if not all((r.attack, r.defense, s) in scored for r in outcome.results)]
    ranked = True
    if incomplete_seeds:
        ranked, seeds = False, ", ".join(map(str, job.seeds))
        board = replace(board, seeds=job.seeds)
        plural = "s" if len(job.seeds) > 1 else ""
        what += f"; seed{plural} {seeds} alone, no ranks: they need the protocol's other seeds too"
        rows = [r for r in rows if r.seed in job.seeds]
    elif lacking := sorted(
        {*board.required_attacks, *board.required_defenses} - {n for a, d, _ in scored for n in (a, d)}
    ):
        ranked = False
        some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        what += f"; no ranks: they need the rows of {some}, by leakboard run --protocol {job.given}"
    print_tables(rows, board, console.out, what, ranked=ranked)
    console.notes.print(f"left out: {' '.join(job.artifacts.protocol.leaves_out.split())}", style="dim", markup=False)


def with_published(job: Run, outcome: Outcome, published: Path) -> tuple[list[Result], str]:
    """The rows that `leakboard publish` would write, and in words where they come from.

    They are those of the store and of this run, and published rows of the same version and split that these lack.
    published: the folder of the protocol's published board.
    """
    from leaderboard import publish

    own = list(({r.key: r for r in board_results(job.artifacts)} | {r.key: r for r in outcome.results}).values())
    folder = publish.edition_folder(own, published)
    try:
        published_rows = publish.load(folder)
    except ValueError as problem:
        return own, f"your rows alone: {printable(str(problem), 200)}"
    rows = publish.merge(own, published_rows)
    if more := len(rows) - len(own):
        return rows, f"your {len(own)} rows and {more} published ones ({places.brief(folder)})"
    others = publish.count_other_editions(own, published_rows)
    apart = f", and {others} of another version in {places.brief(folder)}" if others else ""
    return own, f"your {len(own)} rows; nothing published is to be added{apart}"


def print_summary(job: Run, outcome: Outcome) -> None:
    """Print what was computed, where it is stored, what it cost, and the next command."""
    say = console.say
    reused = job.plan.networks - outcome.trained
    say(f"{outcome.trained} trained, {max(reused, 0)} reused; {count(outcome.fresh, 'scenario')} scored, {len(job.plan.done)} reused; {outcome.wall:.0f} s")  # fmt: skip
    training = outcome.seconds["networks"] + outcome.seconds["artifact"]
    if outcome.fresh and training:
        share = 100 * outcome.seconds["attacks"] / training
        say(
            f"time of the workers: training {training:.0f} s, answers {outcome.seconds['answers']:.0f} s, "
            f"membership attacks {outcome.seconds['attacks']:.0f} s ({share:.0f} % of training), "
            f"other attacks {outcome.seconds['other attacks']:.0f} s"
        )
    tracker = outcome.tracker
    address = shown(tracker.uri)
    if tracker.pending:
        what = "did not answer" if tracker.down else "refused"
        kept = f"{len(tracker.pending)} results are kept and will be logged by the next run of this command"
        say(f"MLflow at {address} {what} ({tracker.reason}); {kept}")
    else:
        say(f"store: {places.brief(job.setting.store)}; MLflow: {address} (leakboard ui)")
    if where := console.elsewhere():
        say(where)
    console.tell_next(f"{console.command_line('publish', '--protocol', job.given)} && {console.command_line('board')}")


def count(n: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 network, 2 networks."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def reproduce(
    old: Result,
    protocol: str,
    submissions: Path,
    store: Path,
    device: str,
    workers: int | None,
    baselines: Path | None = None,
) -> Result:
    """Score one logged scenario again in an empty store. protocol: its name, or its file.

    Raises UserError where the protocol is of another version than the logged run's.
    """
    loaded = protocols.load(protocol)
    if loaded.measures != old.protocol_digest:
        raise UserError(
            f"{old.protocol}: expected the version {old.protocol_digest[:12]} of the run, given {loaded.measures[:12]}"
        )
    job = prepare([], protocol, submissions, store, device, [old.seed], baselines=baselines)
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
        left = console.clock(progress.seconds_left)
        console.redraw(f"{progress.done}/{progress.total} jobs, {left} left", last=progress.done == progress.total)

    executor = on_this_machine(job.setting, workers or default_workers(job.setting.device))
    for result in execute(plan, job.setting, executor, report):
        fresh = result if result.key == wanted else fresh
    assert fresh is not None
    return fresh
