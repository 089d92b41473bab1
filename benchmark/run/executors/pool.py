"""Workers on this machine: processes with one thread each, for float32 sums depend on the number of threads."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Generic

from benchmark.run.executors import Ended, Executor, How, Made, Work
from benchmark.run.work import Setting, start_worker
from benchmark.sandbox.host import MALLOC


@dataclass
class _Worker(Generic[Work, Made]):
    """One process and the work that it has at hand (it does the first)."""

    process: ProcessPoolExecutor
    work: dict[Future[Made], Work] = field(default_factory=dict)
    since: float = 0.0
    """When the first of its work came to be the first."""


class Pool(Executor[Work, Made]):
    """A process a worker, each with a pool of its own: then a death has one culprit.

    do: what a worker does with a piece of work, by a name that can be imported. limit: seconds after which a piece of
    work hangs; None for none.
    """

    def __init__(self, do: Callable[[Work], Made], setting: Setting, workers: int, limit: float | None = None) -> None:
        one_thread()
        self.do, self.setting, self.workers, self.limit = do, setting, workers, limit
        self._team: list[_Worker[Work, Made]] = [_Worker(process(setting, workers)) for _ in range(workers)]

    def at_hand(self, worker: int) -> Sequence[Work]:
        return list(self._team[worker].work.values())

    def submit(self, worker: int, work: Work) -> bool:
        one = self._team[worker]
        try:
            future = one.process.submit(self.do, work)
        except BrokenProcessPool:  # it died since the last look; what it was doing, if anything, tells
            if not one.work:
                self._replace(one)
            return False
        if not one.work:
            one.since = time.monotonic()
        one.work[future] = work
        return True

    def ended(self, timeout: float) -> list[Ended[Work, Made]]:
        running = {future: one for one in self._team for future in one.work}
        found: list[Ended[Work, Made]] = []
        done = wait(running, timeout=timeout, return_when=FIRST_COMPLETED).done
        for future, one in running.items():
            if future not in done or future not in one.work:  # or it went with its worker
                continue
            problem = future.exception()
            if isinstance(problem, BrokenProcessPool):
                found += self._lost(one, "lost")
                continue
            one.since = time.monotonic()
            work = one.work.pop(future)
            found.append(Ended(work, "raised", problem=problem) if problem else Ended(work, "made", future.result()))
        for one in self._team:
            if self.limit is not None and one.work and time.monotonic() - one.since > self.limit:
                found += self._lost(one, "hung")
        return found

    def stop(self, *, kill: bool = False) -> None:
        for one in self._team:
            _end(one.process, kill=kill)

    def _lost(self, one: _Worker[Work, Made], how: How) -> list[Ended[Work, Made]]:
        first, *others = one.work.values()
        self._replace(one)
        return [Ended(first, how), *(Ended(other, "not begun") for other in others)]

    def _replace(self, one: _Worker[Work, Made]) -> None:
        one.work.clear()
        _end(one.process, kill=True)
        one.process = process(self.setting, self.workers)


def process(setting: Setting, workers: int) -> ProcessPoolExecutor:
    """One process that ends with this one, and has the judge at hand."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=start_worker, initargs=(setting, os.getpid(), workers))


def one_thread() -> None:
    """Have processes that start from here on use one thread each."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    for name, value in MALLOC.items():
        os.environ.setdefault(name, value)


def _end(pool: ProcessPoolExecutor, *, kill: bool) -> None:
    processes: list[Any] = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for each in processes:
        each.kill() if kill else each.terminate()
