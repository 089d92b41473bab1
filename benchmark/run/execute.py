"""Runs a plan on workers; a killed run goes on where it stopped, for the store keeps the rest.

A worker that dies or hangs takes only the job that it was doing with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmark.entries.registry import Registry
from benchmark.result import Result
from benchmark.run.executors import Executor
from benchmark.run.executors.pool import Pool
from benchmark.run.plan import Job, NetworksJob, Plan, ScenarioJob
from benchmark.run.progress import Progress, Sort
from benchmark.run.work import Done, Setting, result_of, run_job
from benchmark.targets.store import StoreError
from benchmark.text import name_parts

LOSSES = 3
"""How often a job may lose its worker before it counts as failed: memory may have run out for another's sake."""
DIED = "the worker died: killed, or out of memory"
_GRACE = 600
"""Seconds beyond the limits after which a job is stopped from outside; sandboxes are stopped by their watchdog."""
_AHEAD = 2
"""Jobs that a worker has at hand: the one that it does, and the next."""


def on_this_machine(setting: Setting, workers: int) -> Executor[Job, Done]:
    """Workers for `execute`: processes of this machine."""
    return Pool(run_job, setting, workers, setting.protocol.limits.seconds + _GRACE)


def execute(
    plan: Plan,
    setting: Setting,
    executor: Executor[Job, Done],
    report: Callable[[Job, Done, Progress], None],
    before: Iterable[tuple[Sort, float, float]] = (),
) -> Iterator[Result]:
    """Yield results as they come, and stop the executor. Raises KeyboardInterrupt after that. before: see `Progress`."""
    waiting = dict(plan.jobs)
    progress = Progress(plan, executor.workers, before)
    failed: dict[str, Done] = {}
    losses: dict[str, int] = defaultdict(int)
    try:
        while waiting or executor.busy:
            _hand_out(executor, waiting)
            for ended in executor.ended(1.0):
                job = ended.work
                losses[job.id] += ended.how == "lost"
                if ended.how == "not begun" or (ended.how == "lost" and losses[job.id] < LOSSES):
                    waiting[job.id] = job
                    continue
                if ended.problem is not None:
                    raise ended.problem
                done = ended.made or _of_lost(job, ended.how == "hung", setting)
                if done.error and isinstance(job, ScenarioJob):
                    done = failure(setting, job, done)
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
        executor.stop()


def _of_lost(job: Job, hung: bool, setting: Setting) -> Done:
    if hung:
        return Done(job.id, 0.0, f"more than {setting.protocol.limits.seconds} s", "timeout")
    return Done(job.id, 0.0, DIED)


def _hand_out(executor: Executor[Job, Done], waiting: dict[str, Job]) -> None:
    """Give every worker what it can do next, in the plan's order where that does not make one wait for another."""
    for depth in range(_AHEAD):
        for worker in range(executor.workers):
            if len(executor.at_hand(worker)) > depth:
                continue
            having = {w: executor.at_hand(w) for w in range(executor.workers)}
            unfinished = waiting.keys() | {j.id for jobs in having.values() for j in jobs}
            ready = [j for j in waiting.values() if not (j.needs & unfinished)]
            if not ready:
                return
            making = {m for w, jobs in having.items() if w != worker for j in jobs for m in _makes(j)}
            job = next((j for j in ready if not (making & _makes(j))), ready[0])
            if executor.submit(worker, job):
                del waiting[job.id]


def _makes(job: Job) -> set[tuple[str, int]]:
    """The parts whose store a job fills: what one makes once for all chains of a seed, like DIFFENCE's reconstructions.

    Of two at once the second one waits. An attack's scenario reads what others have made.
    """
    if job.attack or isinstance(job, NetworksJob):
        return set()
    return {(id, job.seed) for id, _ in name_parts(job.defense)}


def failure(setting: Setting, job: ScenarioJob, done: Done) -> Done:
    """The end of a scenario that failed, with a result: the board says so."""
    registry = _registry(setting.submissions, setting.baselines)
    return replace(done, result=result_of(setting, registry, job, done.status, done.error, log=done.log))


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
            if isinstance(job, ScenarioJob):
                done = failure(setting, job, failed[job.id])
                report(job, done, progress)
                assert done.result is not None
                yield done.result


@cache
def _registry(root: Path, baselines: Path | None) -> Registry:
    return Registry(root, baselines)
