"""Runs a plan in worker processes; a killed run goes on where it stopped, for the store keeps the rest.

Workers use one thread each (float32 sums depend on the number of threads), ignore Ctrl-C, which is the
parent's to handle, and end with the parent. Each takes the jobs of few entries, whose sandboxes it keeps
warm. Whatever a submission does becomes a status of its own jobs: a worker that dies or hangs takes only
the job that it was doing with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmark import __version__
from benchmark.data.splits import indices_digest
from benchmark.entries.registry import Chain, Registry
from benchmark.errors import Fault, UserError, out_of_memory, printable, trace
from benchmark.judge import kinds, scenario
from benchmark.judge.utility import utility
from benchmark.protocol import Protocol
from benchmark.result import Isolation as Where
from benchmark.result import Result, Status
from benchmark.run.plan import Job, Plan, same_scenario, scenario_key
from benchmark.sandbox.hints import described
from benchmark.sandbox.host import MALLOC, Launcher
from benchmark.sandbox.remote import Isolation, Mode
from benchmark.targets.artifacts import Artifacts, official_measures
from benchmark.targets.store import Store, StoreError
from benchmark.text import plain_log

_LOSSES = 3
"""How often a job may lose its worker before it counts as failed: memory may have run out for another's sake."""
_DIED = "the worker died: killed, or out of memory"
_GRACE = 600
"""Seconds beyond the limits after which a job is stopped from outside; sandboxes are stopped by their watchdog."""
_AHEAD = 2
"""Jobs that a worker has at hand: the one that it does, and the next."""


@dataclass(frozen=True)
class Setting:
    """What a worker needs to rebuild the judge."""

    protocol: Protocol
    submissions: Path
    store: Path
    device: str
    isolation: Mode = "auto"
    launcher: Launcher | None = None
    secret: bytes | None = field(default=None, repr=False)
    baselines: Path | None = None
    """The submissions that come with the package, where they are not the user's own (`places.baselines`)."""

    def artifacts(self, workers: int = 1) -> Artifacts:
        """Everything that the setting names, opened in this process."""
        isolation = Isolation(self.isolation, self.launcher, self.protocol.limits, workers)
        registry, store = Registry(self.submissions, self.baselines), Store(self.store)
        return Artifacts(self.protocol, registry, store, torch.device(self.device), isolation, self.secret)


@dataclass(frozen=True)
class Done:
    """A finished job: its error (one line) or, for a scenario, its result; and what it computed."""

    id: str
    seconds: float
    error: str = ""
    status: Status = "failed"
    """What the error is."""
    log: str = ""
    ends_run: bool = False
    """The store can't be used: every later job would fail the same way."""
    result: Result | None = None
    made: tuple[tuple[str, float], ...] = ()


Sort = tuple[str, str, str]
"""What takes about the same time: the kind of a job, its defense without hyperparameters, its attack likewise."""


def sort_of(kind: str, defense: str, attack: str = "") -> Sort:
    """By names as jobs and results have them."""
    return kind, re.sub(r"\[.*?\]", "", defense), attack.split("[")[0]


class Progress:
    """Jobs done, and the seconds that the others will take.

    A job is expected to take the time of its kind, its attack and its defense, each as far as it was seen; of a kind
    that was not, the usual ratio to the others is taken (`_USUAL`). What is shown is smoothed: one odd job says little.
    """

    def __init__(self, plan: Plan, workers: int, before: Iterable[tuple[Sort, float, float]] = ()) -> None:
        """before: what earlier runs took, as the sort of job, how many units of it (`_units`) and all their seconds."""
        self.total, self.done, self.workers = len(plan.jobs), 0, workers
        self._left: dict[Sort, float] = defaultdict(float)
        for job in plan.jobs.values():
            self._left[_sort(job)] += _units(job)
        self._seen: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._spent, self._shown_total = 0.0, 0.0
        for sort, units, seconds in before:
            self._learn(sort, units, seconds)

    def advance(self, job: Job, seconds: float) -> None:
        """A job ended, after these seconds."""
        sort, units = _sort(job), _units(job)
        self.done += 1
        self._left[sort] -= units
        self._learn(sort, units, seconds)
        self._spent += seconds
        total = self._spent + self._raw()
        pull = min(1.0, 1 / min(self.done, max(1.0, self.total / 20)))
        self._shown_total += pull * (total - self._shown_total)

    @property
    def seconds_left(self) -> float:
        """Until the last job ends, if nothing waits; 0 while no time at all is known."""
        left, total = self._raw(), self._spent + self._raw()
        return left * (self._shown_total / total if self._shown_total and total else 1.0) / self.workers

    def _learn(self, sort: Sort, units: float, seconds: float) -> None:
        kind, defense, attack = sort
        by_attack = self._by_attack(kind, attack)
        for place, expected in (
            ((), units * _USUAL[kind]), ((kind,), units), ((kind, "attack", attack), units),
            ((kind, "defense", defense), units * by_attack), (sort, units),
        ):  # fmt: skip
            seen = self._seen[place]
            seen[0] += seconds
            seen[1] += expected

    def _raw(self) -> float:
        """Seconds of all workers together, by what is known now."""
        return sum(units * self._rate(sort) for sort, units in self._left.items())

    def _rate(self, sort: Sort) -> float:
        """Seconds of a unit of work. Each step counts a prior unit of the step before it."""
        kind, defense, attack = sort
        by_attack = self._by_attack(kind, attack)
        seconds, expected = self._seen[kind, "defense", defense]
        found = by_attack * (seconds + by_attack) / (expected + by_attack) if by_attack else 0.0
        seconds, units = self._seen[sort]  # another seed's
        return (seconds + found / 4) / (units + 1 / 4)

    def _by_attack(self, kind: str, attack: str) -> float:
        seconds, usual = self._seen[()]
        found = _USUAL[kind] * seconds / usual if usual else 0.0
        for place in ((kind,), (kind, "attack", attack)):
            seconds, units = self._seen[place]
            found = (seconds + found) / (units + 1)
        return found


_USUAL = {"networks": 5.0, "guard": 15.0, "answers": 1.0, "scenario": 2.0}
"""Seconds of a unit of each kind, on digits and two cores: where only some kinds are done, ratios stand for the others."""


def _sort(job: Job) -> Sort:
    return sort_of(job.kind, job.defense, job.attack)


def _units(job: Job) -> float:
    """How much work of its kind a job is: the networks that train together, the models that are asked."""
    return float({"networks": len(job.detail), "answers": len(job.detail) - 2}.get(job.kind, 1))


@dataclass
class _Worker:
    """One process and the jobs that it has at hand (it does the first)."""

    pool: ProcessPoolExecutor
    jobs: dict[Future[Done], Job] = field(default_factory=dict)
    since: float = 0.0
    """When the first of its jobs came to be the first."""

    def submit(self, job: Job) -> None:
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs[self.pool.submit(run_job, job)] = job

    def finished(self, future: Future[Done]) -> Job:
        self.since = time.monotonic()
        return self.jobs.pop(future)


def execute(
    plan: Plan,
    setting: Setting,
    workers: int,
    report: Callable[[Job, Done, Progress], None],
    before: Iterable[tuple[Sort, float, float]] = (),
) -> Iterator[Result]:
    """Yield results as they come. Raises KeyboardInterrupt after stopping the workers. before: see `Progress`."""
    _environment()
    waiting = dict(plan.jobs)
    progress = Progress(plan, workers, before)
    failed: dict[str, Done] = {}
    losses: dict[str, int] = defaultdict(int)
    team = [_Worker(_pool(setting, workers)) for _ in range(workers)]
    try:
        while waiting or any(w.jobs for w in team):
            _hand_out(team, waiting, setting)
            running = {f: w for w in team for f in w.jobs}
            finished, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            ended: list[tuple[Job, Done]] = []
            for future in finished:
                worker = running[future]
                if future not in worker.jobs:  # it went with its worker
                    continue
                try:
                    done = future.result()
                except BrokenProcessPool:
                    ended += _replace(worker, setting, workers, waiting, losses)
                else:
                    job = worker.finished(future)
                    ended.append((job, _failure(setting, job, done) if done.error and job.kind == "scenario" else done))
            for worker in team:
                if worker.jobs and time.monotonic() - worker.since > setting.protocol.limits.seconds + _GRACE:
                    ended += _replace(worker, setting, workers, waiting, losses, hung=True)
            for job, done in ended:
                progress.advance(job, done.seconds)
                if done.ends_run:
                    raise StoreError(done.error)
                if done.error:
                    failed[job.id] = done
                report(job, done, progress)
                if done.result:
                    yield done.result
            yield from _give_up(waiting, failed, setting, progress, report)
    finally:
        for worker in team:
            _stop(worker.pool)


def _hand_out(team: list[_Worker], waiting: dict[str, Job], setting: Setting) -> None:
    """Give every worker what it can do next, in the plan's order where that does not make one wait for another."""
    for depth in range(_AHEAD):
        for worker in team:
            if len(worker.jobs) > depth:
                continue
            unfinished = waiting.keys() | {j.id for w in team for j in w.jobs.values()}
            ready = [j for j in waiting.values() if not (j.needs & unfinished)]
            if not ready:
                return
            making = {m for w in team if w is not worker for j in w.jobs.values() for m in _makes(j)}
            job = next((j for j in ready if not (making & _makes(j))), ready[0])
            try:
                worker.submit(job)
            except BrokenProcessPool:  # it died since the last look; what it was doing, if anything, tells
                if not worker.jobs:
                    _stop(worker.pool, kill=True)
                    worker.pool = _pool(setting, len(team))
                continue
            del waiting[job.id]


def _makes(job: Job) -> set[tuple[str, int]]:
    """The parts whose store a job fills: what one makes once for all chains of a seed, like DIFFENCE's reconstructions.

    Of two at once the second one waits. An attack's scenario reads what others have made.
    """
    if job.attack or job.kind == "networks":
        return set()
    return {(part.split("[")[0], job.seed) for part in job.defense.split("+")}


def _replace(
    worker: _Worker,
    setting: Setting,
    workers: int,
    waiting: dict[str, Job],
    losses: dict[str, int],
    *,
    hung: bool = False,
) -> list[tuple[Job, Done]]:
    """A new process for a worker that died or hangs. Its jobs go back to the queue; a culprit's end is returned."""
    first, *others = worker.jobs.values()
    worker.jobs.clear()
    _stop(worker.pool, kill=True)
    worker.pool = _pool(setting, workers)
    losses[first.id] += 1
    if hung:
        limit = setting.protocol.limits.seconds
        others_end = [(first, _failure(setting, first, Done(first.id, 0.0, f"more than {limit} s", "timeout")))]
    elif losses[first.id] >= _LOSSES:
        others_end = [(first, _failure(setting, first, Done(first.id, 0.0, _DIED)))]
    else:
        others, others_end = [first, *others], []
    waiting.update({job.id: job for job in others})
    return others_end


def _failure(setting: Setting, job: Job, done: Done) -> Done:
    """The end of a failed job; a scenario says so on the board."""
    if job.kind != "scenario":
        return done
    registry = _registry(setting.submissions, setting.baselines)
    result = _result(setting, registry, job, done.status, done.error, log=done.log)
    return replace(done, result=result)


def _give_up(
    waiting: dict[str, Job],
    failed: dict[str, Done],
    setting: Setting,
    progress: Progress,
    report: Callable[[Job, Done, Progress], None],
) -> Iterator[Result]:
    """What waits for a failed job has failed too; scenarios say so on the board."""
    while True:
        hopeless = [j for j in waiting.values() if j.needs & failed.keys()]
        if not hopeless:
            return
        for job in hopeless:
            del waiting[job.id]
            cause = next(failed[n] for n in job.needs if n in failed)
            failed[job.id] = replace(cause, id=job.id, seconds=0.0, result=None)
            progress.advance(job, 0.0)
            done = _failure(setting, job, failed[job.id])
            if done.result:
                report(job, done, progress)
                yield done.result


# --- In the worker ----------------------------------------------------------------------------------

_artifacts: Artifacts | None = None
_setting: Setting | None = None


def start_worker(setting: Setting, parent: int, workers: int) -> None:
    """Rebuild the judge in this process, which is to end when process `parent` is no longer its parent."""
    global _artifacts, _setting
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="opacus|diffusers|torch")
    _setting = setting
    _artifacts = setting.artifacts(workers)


def run_job(job: Job) -> Done:
    """Do one job. A failure is returned, not raised."""
    artifacts, setting = _artifacts, _setting
    assert artifacts is not None and setting is not None
    artifacts.store.made.clear()
    start = time.perf_counter()
    _reset_peak()
    result, failure = None, Done(job.id, 0.0)
    try:
        if job.kind == "scenario":
            result = artifacts.store.result(job.id)  # another run may have been faster
            if result is None:
                result = _score(artifacts, setting, job)
                artifacts.store.save_result(result)
        else:
            _prepare(artifacts, job)
    except (Exception, SystemExit) as problem:  # a submission that calls sys.exit() ends nothing but itself
        failure = _failed(job, problem, artifacts.registry)
    finally:
        artifacts.end_job()
    seconds = time.perf_counter() - start
    return replace(failure, seconds=seconds, result=result, made=tuple(artifacts.store.made))


def _failed(job: Job, problem: BaseException, registry: Registry) -> Done:
    own = isinstance(problem, UserError | Fault)
    line = " ".join(str(problem).split()) if own else described(problem, registry.entries)
    text = line if job.kind == "scenario" else f"{job.kind} of {job.defense}: {line}"
    if isinstance(problem, StoreError):
        return Done(job.id, 0.0, str(problem), ends_run=True)
    if isinstance(problem, Fault):
        return Done(job.id, 0.0, text, problem.status, problem.log)
    status: Status = "out-of-memory" if out_of_memory(problem) else "failed"
    return Done(job.id, 0.0, text, status, plain_log(trace(problem)))


def _prepare(artifacts: Artifacts, job: Job) -> None:
    chain = artifacts.chain(job.defense)
    if job.kind == "networks":
        group = [(str(m[0]), int(m[1])) for m in job.detail]  # type: ignore[index]
        training = chain.training
        if group[0][0] == "evaluator":
            training = artifacts.chain(artifacts.protocol.baseline).training
        artifacts.make_networks(training, job.seed, group)
    elif job.kind == "guard":
        i, world = job.detail
        artifacts.guard_state(chain, i, job.seed, world)  # type: ignore[arg-type]
    else:
        world, parts, *models = job.detail
        for model in models:
            for part in parts:  # type: ignore[attr-defined]
                artifacts.answers(replace(chain, prepared=world), job.seed, model, part)  # type: ignore[arg-type]


def _score(artifacts: Artifacts, setting: Setting, job: Job) -> Result:
    chain = artifacts.chain(job.defense)
    part = artifacts.registry.attack(job.attack) if job.attack else None
    if scenario_key(artifacts, part, chain, job.seed) != job.id:
        # A worker that started later has read other files: its number must not go under the old key.
        raise UserError("the code, a submission or a pretrained model changed while the run was going on; run again")
    same = artifacts.store.result(key) if (key := same_scenario(artifacts, part, chain, job.seed)) else None
    try:
        if same is not None and same.status == "ok":
            scenario.same_labels(artifacts, chain, job.seed)
            fields = {name: getattr(same, name) for name in _OF_SCORES}
            return _result(
                setting, artifacts.registry, job, "ok", "", provenance=_data(artifacts, chain, job.seed), **fields
            )
        if part:
            outcome = kinds.scenario(artifacts, part, chain, job.seed).score()
        else:
            outcome = utility(artifacts, chain, job.seed)
    except scenario.Skip as reason:
        return _result(setting, artifacts.registry, job, "skipped", str(reason))
    outcome.cost["peak_mb"] = _peak_mb()
    fields = {k: v for k, v in vars(outcome).items() if v is not None}
    if isinstance(outcome.null, bool):
        fields["null_row"] = outcome.null
    fields.pop("null", None)
    return _result(setting, artifacts.registry, job, "ok", "", provenance=_data(artifacts, chain, job.seed), **fields)


_OF_SCORES = ("metrics", "intervals", "cost", "roc", "histogram", "null_auc", "null_tpr", "pictures", "null_row")
"""What a result has of its scenario, apart from where it was made and of what."""


def _data(artifacts: Artifacts, chain: Chain, seed: int) -> dict[str, str]:
    """Digests of the data, the split and the pretrained models, for the record."""
    population = artifacts.population(seed)
    found = {"data": population.data.digest[:16], "split": indices_digest(population.parts)[:16]}
    if models := artifacts.models(*chain.parts):
        found["pretrained"] = ", ".join(f"{name} {made_of[:16]}" for name, made_of in models.items())
    return found


def _result(setting: Setting, registry: Registry, job: Job, status: Status, reason: str, **fields: Any) -> Result:
    protocol = setting.protocol
    isolation = Isolation(setting.isolation)
    attack = registry.attack(job.attack) if job.attack else None
    entry = attack.entry if attack else None
    chain = registry.chain(job.defense, protocol.baseline)
    provenance = fields.pop("provenance", {}) | environment(setting.device)
    provenance |= {"defense_source": "+".join(p.entry.source[:12] for p in chain.parts)}
    if entry:
        provenance["attack_source"] = entry.source[:12]
    parts = [*((attack,) if attack else ()), *chain.parts]
    if versions := {name: version for p in parts for name, version in p.entry.versions.items()}:
        provenance["libraries"] = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    places: list[Where] = ["trusted", "reviewed", "bubblewrap"]
    unread = [p for p in parts if not p.entry.reviewed]
    nulls = [p.entry.card.null for p in chain.parts if p.entry.card]
    return Result(
        key=job.id,
        protocol=protocol.name,
        protocol_digest=official_measures(protocol, setting.secret),
        task=entry.task if entry else "utility",  # type: ignore[arg-type]
        attack=job.attack,
        defense=job.defense,
        dataset=protocol.dataset,
        architecture=protocol.architecture,
        seed=job.seed,
        status=status,
        reason=printable(reason),
        access=entry.access if entry else "",
        knowledge=attack.knowledge if attack else "",
        null_row=fields.pop("null_row", bool(entry.card and entry.card.null) if entry else any(nulls)),
        provenance=provenance,
        isolation=min((isolation.where(p.entry) for p in unread or parts), key=places.index),
        trust="official" if setting.secret else "self-reported",
        finished=time.time(),
        **fields,
    )


@cache
def environment(device: str) -> dict[str, str]:
    """Commit, versions and machine, as every record carries them."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except OSError:
        commit = ""
    cpu = ""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return {
        "commit": commit or "unknown",
        "leakboard": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "device": gpu or f"cpu: {cpu}",
    }


# --- Processes --------------------------------------------------------------------------------------


@cache
def _registry(root: Path, baselines: Path | None) -> Registry:
    return Registry(root, baselines)


def _pool(setting: Setting, workers: int) -> ProcessPoolExecutor:
    """One process: then a death has one culprit."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=start_worker, initargs=(setting, os.getpid(), workers))


def _stop(pool: ProcessPoolExecutor, *, kill: bool = False) -> None:
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill() if kill else process.terminate()


def _environment() -> None:
    """Read by the workers when they start."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    for name, value in MALLOC.items():
        os.environ.setdefault(name, value)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # elsewhere than on Linux the peak covers the worker's life
        Path("/proc/self/clear_refs").write_bytes(b"5")


def _peak_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
