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
    """One process, and its work by future; it is doing the first piece."""

    process: ProcessPoolExecutor
    work: dict[Future[Made], Work] = field(default_factory=dict)
    since: float = 0.0
    """Time (`time.monotonic`) at which it began the first piece."""


class Pool(Executor[Work, Made]):
    """One process for each worker. Each has a pool of its own, so that a death shows whose work was the cause.

    do: the function that does a piece of work; it must be importable by name. limit: seconds after which a piece of
    work counts as hung; None for no limit.
    """

    def __init__(self, do: Callable[[Work], Made], setting: Setting, workers: int, limit: float | None = None) -> None:
        one_thread()
        self.do, self.setting, self.workers, self.limit = do, setting, workers, limit
        self._team: list[_Worker[Work, Made]] = [_Worker(process(setting, workers)) for _ in range(workers)]

    def at_hand(self, worker: int) -> Sequence[Work]:
        return list(self._team[worker].work.values())

    def submit(self, worker: int, work: Work) -> bool:
        chosen = self._team[worker]
        try:
            future = chosen.process.submit(self.do, work)
        except BrokenProcessPool:  # it died since the last call; if it had work, `ended` will notice
            if not chosen.work:
                self._replace(chosen)
            return False
        if not chosen.work:
            chosen.since = time.monotonic()
        chosen.work[future] = work
        return True

    def ended(self, timeout: float) -> list[Ended[Work, Made]]:
        running = {future: worker for worker in self._team for future in worker.work}
        ended: list[Ended[Work, Made]] = []
        done = wait(running, timeout=timeout, return_when=FIRST_COMPLETED).done
        for future, worker in running.items():
            if future not in done or future not in worker.work:  # or it ended together with its worker
                continue
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                ended += self._lost(worker, "lost")
                continue
            worker.since = time.monotonic()
            work = worker.work.pop(future)
            ended.append(Ended(work, "raised", problem=error) if error else Ended(work, "made", future.result()))
        for worker in self._team:
            if self.limit is not None and worker.work and time.monotonic() - worker.since > self.limit:
                ended += self._lost(worker, "hung")
        return ended

    def stop(self, *, kill: bool = False) -> None:
        for worker in self._team:
            _end(worker.process, kill=kill)

    def _lost(self, worker: _Worker[Work, Made], how: How) -> list[Ended[Work, Made]]:
        first, *others = worker.work.values()
        self._replace(worker)
        return [Ended(first, how), *(Ended(other, "not begun") for other in others)]

    def _replace(self, worker: _Worker[Work, Made]) -> None:
        worker.work.clear()
        _end(worker.process, kill=True)
        worker.process = process(self.setting, self.workers)


def process(setting: Setting, workers: int) -> ProcessPoolExecutor:
    """A pool of one process, which rebuilds the judge from the setting and ends with this process."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=start_worker, initargs=(setting, os.getpid(), workers))


def one_thread() -> None:
    """Have processes that are started from now on use one thread each."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    for name, value in MALLOC.items():
        os.environ.setdefault(name, value)


def _end(pool: ProcessPoolExecutor, *, kill: bool) -> None:
    processes: list[Any] = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for each in processes:
        each.kill() if kill else each.terminate()
