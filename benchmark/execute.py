"""Runs a plan in worker processes; a killed run goes on where it stopped, for the store keeps the rest.

Workers use one thread each (float32 sums depend on the number of threads), ignore Ctrl-C, which is the
parent's to handle, and end with the parent. Whatever a submission raises becomes a status.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmark import __version__, judge
from benchmark.artifacts import Artifacts
from benchmark.datasets.splits import indices_digest
from benchmark.errors import UserError
from benchmark.plan import Job, Plan, scenario_key
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.result import Result, Status
from benchmark.store import Store

_LOSSES = 3
"""How often a job may lose its worker before it counts as failed: a neighbour's death is a loss too."""
_DIED = "the worker died: killed, or out of memory"


@dataclass(frozen=True)
class Setting:
    """What a worker needs to rebuild the judge."""

    protocol: Protocol
    submissions: Path
    store: Path
    device: str


@dataclass(frozen=True)
class Done:
    """A finished job: its error (one line) or, for a scenario, its result; and what it computed."""

    id: str
    seconds: float
    error: str = ""
    result: Result | None = None
    made: tuple[tuple[str, float], ...] = ()


class Progress:
    """Jobs done, and the seconds left by the mean time of each kind of job."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self.left: dict[str, int] = defaultdict(int)
        for job in plan.jobs.values():
            self.left[job.kind] += 1
        self.total, self.done, self.workers = len(plan.jobs), 0, workers
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def advance(self, kind: str, seconds: float) -> None:
        self.done += 1
        self.left[kind] -= 1
        self._seconds[kind].append(seconds)

    @property
    def seconds_left(self) -> float:
        every = [s for v in self._seconds.values() for s in v]
        mean = sum(every) / len(every) if every else 0.0
        of = {k: sum(v) / len(v) for k, v in self._seconds.items()}
        return sum(n * of.get(k, mean) for k, n in self.left.items()) / self.workers


def execute(
    plan: Plan, setting: Setting, workers: int, report: Callable[[Job, Done, Progress], None]
) -> Iterator[Result]:
    """Yield results as they come. Raises KeyboardInterrupt after stopping the workers."""
    _environment()
    waiting = dict(plan.jobs)
    progress = Progress(plan, workers)
    failed: dict[str, str] = {}
    losses: dict[str, int] = defaultdict(int)
    pool = _pool(setting, workers)
    running: dict[Future[Done], Job] = {}
    try:
        while waiting or running:
            _submit(pool, waiting, running, losses, 2 * workers)
            if not running:
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool(setting, workers)
                continue
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                try:
                    done = future.result()
                except BrokenProcessPool:
                    lost = [job, *running.values()]
                    running.clear()
                    pool.shutdown(wait=False, cancel_futures=True)
                    pool = _pool(setting, workers)
                    done_jobs = [(j, _failure(setting, j, _DIED)) for j in _retry(lost, losses, waiting)]
                else:
                    lost_result = done.error and job.kind == "scenario"
                    done_jobs = [(job, _failure(setting, job, done.error, done.seconds) if lost_result else done)]
                for finished_job, outcome in done_jobs:
                    progress.advance(finished_job.kind, outcome.seconds)
                    if outcome.error:
                        failed[finished_job.id] = outcome.error
                    report(finished_job, outcome, progress)
                    if outcome.result:
                        yield outcome.result
                if not running:
                    break
            yield from _give_up(waiting, failed, setting, progress, report)
    finally:
        _stop(pool)


def _submit(
    pool: ProcessPoolExecutor,
    waiting: dict[str, Job],
    running: dict[Future[Done], Job],
    losses: dict[str, int],
    most: int,
) -> None:
    """Hand over jobs that wait for nothing, until `most` are running or queued with the workers."""
    for job in [j for j in waiting.values() if not (j.needs & waiting.keys())]:
        if len(running) >= most:
            return
        if job.needs & {j.id for j in running.values()}:
            continue
        # What has lost a worker runs alone: then a death has one culprit.
        if running and (losses[job.id] or any(losses[j.id] for j in running.values())):
            continue
        try:
            running[pool.submit(run_job, job)] = job
        except BrokenProcessPool:  # a worker died since the last look; what was running tells
            return
        del waiting[job.id]


def _retry(lost: list[Job], losses: dict[str, int], waiting: dict[str, Job]) -> list[Job]:
    """Jobs whose worker died go back to the queue; those that have lost `_LOSSES` workers are returned."""
    given_up = []
    for job in lost:
        losses[job.id] += 1
        if losses[job.id] < _LOSSES:
            waiting[job.id] = job
        else:
            given_up.append(job)
    return given_up


def _failure(setting: Setting, job: Job, reason: str, seconds: float = 0.0) -> Done:
    """A failed job; a scenario says so on the board."""
    scenario = job.kind == "scenario"
    result = _result(setting, _registry(setting.submissions), job, "failed", reason) if scenario else None
    return Done(job.id, seconds, reason, result)


def _give_up(
    waiting: dict[str, Job],
    failed: dict[str, str],
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
            reason = next(failed[n] for n in job.needs if n in failed)
            failed[job.id] = reason
            progress.advance(job.kind, 0.0)
            done = _failure(setting, job, reason)
            if done.result:
                report(job, done, progress)
                yield done.result


# --- In the worker ----------------------------------------------------------------------------------

_artifacts: Artifacts | None = None
_setting: Setting | None = None


def start_worker(setting: Setting, parent: int) -> None:
    """Rebuild the judge in this process, which is to end when process `parent` is no longer its parent."""
    global _artifacts, _setting
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="opacus|diffusers|torch")
    _setting = setting
    registry = Registry(setting.submissions)
    _artifacts = Artifacts(setting.protocol, registry, Store(setting.store), torch.device(setting.device))


def run_job(job: Job) -> Done:
    """Do one job. A failure is returned, not raised."""
    artifacts, setting = _artifacts, _setting
    assert artifacts is not None and setting is not None
    artifacts.store.made.clear()
    start = time.perf_counter()
    _reset_peak()
    result, error = None, ""
    try:
        if job.kind == "scenario":
            result = _score(artifacts, setting, job)
            artifacts.store.save_result(result)
        else:
            _prepare(artifacts, job)
    except (Exception, SystemExit) as problem:  # a submission that calls sys.exit() ends nothing but itself
        error = f"{job.kind} of {job.defense}: {_one_line(problem)}"
    return Done(job.id, time.perf_counter() - start, error, result, tuple(artifacts.store.made))


def _out_of_memory(problem: BaseException) -> bool:
    """PyTorch's own allocators raise RuntimeErrors."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(problem, MemoryError) or any(t in str(problem).lower() for t in texts)


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
        parts, *models = job.detail
        for model in models:
            for part in parts:  # type: ignore[attr-defined]
                artifacts.answers(chain, job.seed, model, part)  # type: ignore[arg-type]


def _score(artifacts: Artifacts, setting: Setting, job: Job) -> Result:
    chain = artifacts.chain(job.defense)
    part = artifacts.registry.attack(job.attack) if job.attack else None
    if scenario_key(artifacts, part, chain, job.seed) != job.id:
        # A worker that started later has read other files: its number must not go under the old key.
        raise UserError("the code or a submission changed while the run was going on; run again")
    try:
        if part:
            outcome = judge.Scenario(artifacts, part, chain, job.seed).score()
        else:
            outcome = judge.utility(artifacts, chain, job.seed)
    except judge.Skip as reason:
        return _result(setting, artifacts.registry, job, "skipped", str(reason))
    except (Exception, SystemExit) as problem:
        status: Status = "out-of-memory" if _out_of_memory(problem) else "failed"
        return _result(setting, artifacts.registry, job, status, _one_line(problem))
    outcome.cost["peak_mb"] = _peak_mb()
    fields = {k: v for k, v in vars(outcome).items() if v is not None}
    population = artifacts.population(job.seed)
    if isinstance(outcome.null, bool):
        fields["null_row"] = outcome.null
    fields.pop("null", None)
    fields["provenance"] = {"data": population.data.digest[:16], "split": indices_digest(population.parts)[:16]}
    return _result(setting, artifacts.registry, job, "ok", "", **fields)


def _result(setting: Setting, registry: Registry, job: Job, status: Status, reason: str, **fields: Any) -> Result:
    protocol = setting.protocol
    entry = registry.attack(job.attack).entry if job.attack else None
    chain = registry.chain(job.defense, protocol.baseline)
    provenance = fields.pop("provenance", {}) | environment(setting.device)
    provenance |= {"defense_source": "+".join(p.entry.source[:12] for p in chain.parts)}
    if entry:
        provenance["attack_source"] = entry.source[:12]
    nulls = [p.entry.card.null for p in chain.parts if p.entry.card]
    return Result(
        key=job.id,
        protocol=protocol.name,
        protocol_digest=protocol.measures,
        task=entry.task if entry else "utility",  # type: ignore[arg-type]
        attack=job.attack,
        defense=job.defense,
        dataset=protocol.dataset,
        architecture=protocol.architecture,
        seed=job.seed,
        status=status,
        reason=reason[:500],
        access=entry.access if entry else "",
        knowledge="+".join(sorted(entry.needs)) or "none" if entry else "",
        null_row=fields.pop("null_row", bool(entry.card and entry.card.null) if entry else any(nulls)),
        provenance=provenance,
        finished=time.time(),
        **fields,
    )


@cache
def environment(device: str) -> dict[str, str]:
    """Commit, versions and machine, as every record carries them."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except OSError:
        commit = ""
    cpu = ""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
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
def _registry(root: Path) -> Registry:
    return Registry(root)


def _pool(setting: Setting, workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=start_worker, initargs=(setting, os.getpid()))


def _stop(pool: ProcessPoolExecutor) -> None:
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def _environment() -> None:
    """Read by the workers when they start. The malloc settings save page faults (a quarter of the time)."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 << 30))


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _one_line(problem: BaseException) -> str:
    text = " ".join(str(problem).split()) or "no message"
    return text if isinstance(problem, UserError) else f"{type(problem).__name__}: {text}"


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # elsewhere than on Linux the peak covers the worker's life
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
