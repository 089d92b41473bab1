"""What every executor keeps: each piece of work ends once, in order, whatever becomes of a worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmark import protocol
from benchmark.run.executors import Ended, Executor
from benchmark.run.executors.pool import Pool
from benchmark.run.work import Setting
from tests.conftest import SUBMISSIONS, alive

Make = Callable[..., Executor[str, str]]
EXECUTORS = [Pool]
"""Each is made by what a worker does, the setting, the number of workers and the limit in seconds."""


def do(work: str) -> str:
    """In a worker."""
    name, _, value = work.partition(" ")
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "die-once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "raise":
        raise ValueError(value)
    if name == "sleep":
        time.sleep(float(value))
    return f"{work} by {os.getpid()}"


@pytest.fixture(params=EXECUTORS, ids=lambda kind: kind.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    setting = Setting(protocol.load("smoke"), SUBMISSIONS, tmp_path / "store", "cpu")
    made: list[Executor[str, str]] = []

    def one(workers: int = 1, limit: float | None = None) -> Executor[str, str]:
        made.append(request.param(do, setting, workers, limit))
        return made[-1]

    yield one
    for executor in made:
        executor.stop(kill=True)


def gather(executor: Executor[str, str], count: int, seconds: float = 120) -> list[Ended[str, str]]:
    found: list[Ended[str, str]] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += executor.ended(0.5)
    return found


def test_a_worker_does_its_work_in_order_and_workers_work_at_once(make: Make) -> None:
    executor = make(2)
    assert not executor.busy and executor.ended(0.1) == []
    for worker, work in ((0, "a"), (0, "b"), (1, "sleep 0.1"), (0, "c")):
        assert executor.submit(worker, work)
    assert list(executor.at_hand(0)) == ["a", "b", "c"] and executor.busy
    found = gather(executor, 4)
    assert [e.work for e in found if e.work in "abc"] == ["a", "b", "c"] and {e.how for e in found} == {"made"}
    by = {e.work: str(e.made).rpartition(" ")[2] for e in found}
    assert by["a"] == by["b"] == by["c"] != by["sleep 0.1"] and not executor.busy


def test_what_raises_ends_itself_alone(make: Make) -> None:
    executor = make()
    for work in ("raise no", "after"):
        assert executor.submit(0, work)
    first, second = gather(executor, 2)
    assert (first.how, repr(first.problem)) == ("raised", "ValueError('no')")
    assert (second.work, second.how) == ("after", "made")


def test_a_lost_worker_is_replaced_and_its_first_work_alone_is_blamed(make: Make, tmp_path: Path) -> None:
    executor = make()
    for work in (f"die-once {tmp_path / 'died'}", "behind"):
        assert executor.submit(0, work)
    lost = gather(executor, 2)
    assert [(e.work.split()[0], e.how) for e in lost] == [("die-once", "lost"), ("behind", "not begun")]
    assert not executor.busy
    for each in lost:  # as whoever runs a plan does
        assert executor.submit(0, each.work)
    assert [e.how for e in gather(executor, 2)] == ["made", "made"]


def test_a_worker_that_dies_at_rest_takes_work_again(make: Make) -> None:
    executor = make()
    assert executor.submit(0, "first")
    (first,) = gather(executor, 1)
    os.kill(int(str(first.made).rpartition(" ")[2]), signal.SIGKILL)
    time.sleep(0.5)
    assert executor.submit(0, "second") or executor.submit(0, "second")
    assert [e.how for e in gather(executor, 1)] == ["made"]


def test_what_hangs_is_stopped_and_what_waits_behind_it_is_not_blamed(make: Make) -> None:
    executor = make(limit=15)  # a worker's start counts
    for work in ("sleep 600", "behind"):
        assert executor.submit(0, work)
    assert [(e.work, e.how) for e in gather(executor, 2)] == [("sleep 600", "hung"), ("behind", "not begun")]
    assert executor.submit(0, "after")
    assert [e.how for e in gather(executor, 1)] == ["made"]


@pytest.mark.parametrize("kill", [False, True])
def test_stopped_workers_end_with_what_they_do(make: Make, kill: bool) -> None:
    executor = make()
    assert executor.submit(0, "first")
    (first,) = gather(executor, 1)
    pid = int(str(first.made).rpartition(" ")[2])
    assert executor.submit(0, "sleep 600")
    executor.stop(kill=kill)
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(pid)
