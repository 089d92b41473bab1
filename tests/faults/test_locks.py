"""Processes that die while they hold a lock or write a file, and runs that are started together."""

from __future__ import annotations

import builtins
import contextlib
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.run.tracking import Tracker, fetch_results
from benchmark.targets.store import Store, digest
from tests.conftest import Home
from tests.run.test_tracking import record, runs_of

KEY = digest("a key")
FORK = multiprocessing.get_context("fork")


def tensors() -> dict[str, Tensor]:
    return {"x": torch.ones(5)}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies(target: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a child that does this is killed; else it has ended well."""
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def hold(store: Store) -> None:
    with store.lock("kind", KEY):
        kill()


def hold_ledger(ledger: Path) -> None:
    with Tracker(ledger)._locked():
        kill()


def test_a_lock_dies_with_its_holder(home: Home) -> None:
    store = Store(home.store)
    start = time.monotonic()
    assert dies(hold, store)
    assert torch.equal(store.get("kind", KEY, tensors)["x"], tensors()["x"])
    assert dies(hold_ledger, home.store / "logged")
    tracker = Tracker(home.store / "logged")
    tracker.log(record())
    assert not tracker.pending and len(runs_of("scenario")) == 1
    assert time.monotonic() - start < 30


def keep_until(store: Store, n: int) -> None:
    """Make and keep tensors and a result; die before (even n) or after (odd n) call n // 2 that takes a path of it."""
    calls = itertools.count()

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            here = str(path).startswith(str(store.root)) and next(calls) == n // 2
            if here and not n % 2:
                kill()
            try:
                answer = real(path, *arguments, **named)
                if here and hasattr(answer, "write") and answer.writable():
                    answer.write(b"half")
                    answer.flush()
                return answer
            finally:
                if here:
                    kill()

        return call

    os.replace, os.open, os.mkdir = wrapped(os.replace), wrapped(os.open), wrapped(os.mkdir)  # type: ignore[assignment]
    builtins.open = wrapped(builtins.open)  # type: ignore[assignment]
    store.get("kind", KEY, tensors)
    store.save_result(record(key=KEY))
    os._exit(0)


def test_a_kill_at_every_write(tmp_path: Path) -> None:
    n = 0
    while dies(keep_until, store := Store(tmp_path / str(n)), n):
        for _ in range(2):  # killed again, then left alone
            dies(keep_until, store, n)
        assert torch.equal(store.get("kind", KEY, tensors)["x"], tensors()["x"])
        store.save_result(record(key=KEY))
        assert store.result(KEY) == record(key=KEY)
        assert not list(store.root.rglob("*.tmp")), "what a killed process leaves is not piled up"
        n += 1
    assert n >= 16


def log_until(ledger: Path, n: int) -> None:
    """Log a result; die at the n-th call to MLflow or write to the ledger."""
    from mlflow import MlflowClient

    left = [n]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            answer = real(*arguments, **named)
            left[0] -= 1
            if left[0] < 0:
                kill()
            return answer

        return call

    for name in ("create_run", "log_batch", "log_inputs", "log_text", "log_image", "set_terminated", "delete_run"):
        setattr(MlflowClient, name, wrapped(getattr(MlflowClient, name)))
    Tracker._write = wrapped(Tracker._write)  # type: ignore[method-assign]
    Tracker(ledger).log(record())
    os._exit(0)


def test_a_kill_at_every_step_of_logging(home: Home) -> None:
    """Killed at the first step, then at the second, and so on, in one ledger: one run, whole, and one parent."""
    n = 0
    while dies(log_until, home.store / "logged", n):
        n += 1
    assert n >= 8
    (run,) = runs_of("scenario")
    (parent,) = runs_of("entry")
    assert run.info.status == parent.info.status == "FINISHED"
    assert [r.key for r in fetch_results("toy")] == [record().key]


def test_an_earlier_failure_stays_when_the_success_is_interrupted(home: Home) -> None:
    failed = record(status="failed", reason="no", metrics={}, intervals={}, roc=None)
    Tracker(home.store / "logged").log(failed)
    assert dies(log_until, home.store / "logged", 2)
    Tracker(home.store / "logged").log(record())
    assert sorted(r.info.status for r in runs_of("scenario")) == ["FAILED", "FINISHED"]


def log_many(ledger: Path, defenses: list[str]) -> None:
    tracker = Tracker(ledger)
    for defense in defenses:
        tracker.log(record(defense=defense, key=defense))
    os._exit(len(tracker.pending))


def test_two_trackers_together(home: Home) -> None:
    """Experiment, parents and runs are made once, whoever comes first."""
    defenses = [f"d{i}" for i in range(6)]
    processes = [FORK.Process(target=log_many, args=(home.store / "logged", d)) for d in (defenses, defenses[::-1])]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0]
    assert sorted(r.data.tags["defense"] for r in runs_of("entry")) == defenses
    assert sorted(r.data.tags["leakboard.key"] for r in runs_of("scenario")) == defenses


def test_a_ledger_that_outlived_its_database_and_a_kill(home: Home, mlflow_template: Path) -> None:
    """The database is lost, and the command that fills a new one is killed: the next one goes on."""
    ledger, defenses = home.store / "logged", ["d0", "d1", "d2"]
    finish(log_many, ledger, defenses)
    (home.folder / "mlflow.db").unlink()
    Tracker(ledger)  # the next command, killed before it has logged anything
    shutil.copy(mlflow_template, home.folder / "mlflow.db")  # what MLflow would make, without the seconds that it takes
    finish(log_many, ledger, defenses[:1])
    finish(log_many, ledger, defenses)
    assert sorted(r.key for r in fetch_results("toy")) == defenses


def finish(target: Callable[..., Any], *arguments: Any) -> None:
    """In a process of its own: MLflow keeps connections to a database that is gone."""
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("kill_one", [False, True], ids=["both finish", "one is killed"])
def test_two_runs_together(home: Home, kill_one: bool) -> None:
    """On one store: nothing is trained twice, nothing logged twice, and both show the same tables."""
    runs = [home.start("run", "--protocol", "smoke", "--workers", "1") for _ in range(2)]
    if kill_one:
        while not list(home.store.glob("networks/*/*.lock")) and runs[0].poll() is None:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(runs[0].pid, signal.SIGKILL)
    outputs = [run.communicate(timeout=300) for run in runs]
    codes = [run.returncode for run in runs]
    assert codes == ([-signal.SIGKILL, 0] if kill_one else [0, 0]), outputs
    trained = [int(m[1]) for out, _ in outputs if (m := re.search(r"^(\d+) trained", out, re.M))]
    assert sum(trained) == 3
    if not kill_one:
        first, second = (without_seconds(out) for out, _ in outputs)
        assert first == second and len(first) == 3
    assert sorted(r.key for r in fetch_results("smoke")) == sorted(r.key for r in home.results().values())
    assert len(home.results()) == 3


def without_seconds(out: str) -> list[str]:
    """The ranked rows of a command's output, without the seconds at their end."""
    return [re.sub(r"\s+[\d.]+$", "", line) for line in out.splitlines() if re.search(r"undefended|random|loss", line)]
