"""A real MLflow server that is down at the start, in the middle and at the end: every result is there once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.run import tracking
from benchmark.run.tracking import Tracker, fetch_results
from tests.conftest import Home
from tests.faults.servers import Server
from tests.run.test_tracking import record, runs_of

pytestmark = pytest.mark.slow


@pytest.fixture
def ledger(home: Home, server: Server) -> Path:
    home.patch.setenv("MLFLOW_TRACKING_URI", server.uri)
    home.patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a slow machine is not the fault that is meant
    return home.store / "logged"


def whole(keys: set[str]) -> None:
    """Each of these scenarios has one run that is whole; no other is left; each defense has one parent."""
    runs = runs_of("scenario")
    assert sorted(r.data.tags["leakboard.key"] for r in runs) == sorted(keys)
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert {r.key for r in fetch_results("toy")} == keys
    parents = [p.data.tags["defense"] for p in runs_of("entry")]
    assert len(parents) == len(set(parents))


def test_start_middle_end(ledger: Path, server: Server) -> None:
    results = [record(key=f"k{i}", defense=f"d{i % 3}") for i in range(40)]
    tracker = Tracker(ledger)
    for result in results[:3]:
        tracker.log(result)
    assert len(tracker.pending) == 3 and tracker.down

    server.start()
    tracker = Tracker(ledger)
    for i, result in enumerate(results):
        if i == 12:
            threading.Timer(0.1, server.kill).start()
        tracker.log(result)
        time.sleep(0.01)
    assert 0 < len(tracker.pending) < 40, "the server died in the middle"

    server.start()
    tracker.retry()
    assert not tracker.pending and not tracker.down
    whole({r.key for r in results})

    server.kill()
    tracker.log(record(key="last"))
    assert [r.key for r in tracker.pending] == ["last"]
    tracker.retry()
    assert [r.key for r in tracker.pending] == ["last"], "still down: still kept"
    server.start()
    tracker = Tracker(ledger)
    for result in (*results, record(key="last")):
        tracker.log(result)
    whole({*(r.key for r in results), "last"})


DEATHS = [("create_run", "after"), ("log_batch", "before"), ("log_text", "after"), ("set_terminated", "after")]


def test_the_server_dies_within_a_run(ledger: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server has done a step, or after it has but before its answer arrives."""
    server.start()
    Tracker(ledger).log(record("first"))
    for step, when in DEATHS:
        real: Any = getattr(tracking.connect(), step).__func__

        def die(client: Any, *arguments: Any, real: Any = real, when: str = when, **named: Any) -> Any:
            if when == "after":
                real(client, *arguments, **named)
            server.kill()
            return real(client, *arguments, **named)

        tracker = Tracker(ledger)
        with monkeypatch.context() as patch:
            patch.setattr(f"mlflow.MlflowClient.{step}", die)
            tracker.log(record(step))
        assert [r.attack for r in tracker.pending] == [step] and tracker.down
        server.start()
        Tracker(ledger).log(record(step))
    whole({"key-first", *(f"key-{step}" for step, _ in DEATHS)})
