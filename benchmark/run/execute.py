"""Runs a plan on workers. A killed run continues where it stopped, for finished work is in the store.

A worker that dies or hangs loses only the job that it was doing.
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
"""How many workers may die at a job until it counts as failed: another process may have used up the memory."""
DIED = "the worker died: killed, or out of memory"
_GRACE = 600
"""Seconds beyond the limit after which a worker is stopped; a sandbox is stopped earlier, by its watchdog."""
_AHEAD = 2
"""Jobs that a worker has: the one that it is doing, and the next."""


def on_this_machine(setting: Setting, workers: int) -> Executor[Job, Done]:
    """Workers for `execute` on this machine, one process each."""
    return Pool(run_job, setting, workers, setting.protocol.limits.seconds + _GRACE)


def execute(
    plan: Plan,
    setting: Setting,
    executor: Executor[Job, Done],
    report: Callable[[Job, Done, Progress], None],
    before: Iterable[tuple[Sort, float, float]] = (),
) -> Iterator[Result]:
    """Run all jobs, and yield results as they come. The executor is stopped at the end, also after Ctrl-C or an error.

    `report` is called for each job that ended; `before`: see `Progress`. Raises StoreError if the store can't be used.
    """
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
                done = ended.made or _lost_job(job, ended.how == "hung", setting)
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


def _lost_job(job: Job, hung: bool, setting: Setting) -> Done:
    """The end of a job whose worker died, or hung and was stopped."""
    if hung:
        return Done(job.id, 0.0, f"more than {setting.protocol.limits.seconds} s", "timeout")
    return Done(job.id, 0.0, DIED)


def _hand_out(executor: Executor[Job, Done], waiting: dict[str, Job]) -> None:
    """Submit jobs whose needs are met, up to _AHEAD for each worker, in the plan's order.

    Jobs that would wait for what another worker is making come later, if there are others.
    """
    for depth in range(_AHEAD):
        for worker in range(executor.workers):
            if len(executor.at_hand(worker)) > depth:
                continue
            at_hand = {w: executor.at_hand(w) for w in range(executor.workers)}
            unfinished = waiting.keys() | {j.id for jobs in at_hand.values() for j in jobs}
            ready = [j for j in waiting.values() if not (j.needs & unfinished)]
            if not ready:
                return
            being_made = {part for w, jobs in at_hand.items() if w != worker for j in jobs for part in _shared_parts(j)}
            job = next((j for j in ready if not (being_made & _shared_parts(j))), ready[0])
            if executor.submit(worker, job):
                del waiting[job.id]


def _shared_parts(job: Job) -> set[tuple[str, int]]:
    """Entries, with the seed, of which a job may make what all chains share, such as DIFFENCE's reconstructions.

    Of two such jobs at once, the second one would wait for the first. An attack's scenario only reads what is there.
    """
    if job.attack or isinstance(job, NetworksJob):
        return set()
    return {(id, job.seed) for id, _ in name_parts(job.defense)}


def failure(setting: Setting, job: ScenarioJob, done: Done) -> Done:
    """A failed scenario as a finished job with a result, so that the board shows the failure."""
    registry = _registry(setting.submissions, setting.baselines)
    return replace(done, result=result_of(setting, registry, job, done.status, done.error, log=done.log))


def _give_up(
    waiting: dict[str, Job],
    failed: dict[str, Done],
    setting: Setting,
    progress: Progress,
    report: Callable[[Job, Done, Progress], None],
) -> Iterator[Result]:
    """Give up the jobs that need a failed one; yield a failed result for each scenario among them."""
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
