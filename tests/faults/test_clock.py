"""A clock that jumps by hours, forwards and backwards, changes no number and loses no result."""

from __future__ import annotations

import itertools
import time

import pytest

from benchmark.run.tracking import Tracker, fetch_results
from tests.conftest import Home, numbers
from tests.run.test_tracking import record, runs_of


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock finds it hours away from the last, and every other one before it."""
    real, hours = time.time, itertools.cycle([0, 5, -7, 48, -72, 1])
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * next(hours))


def test_a_run_under_a_jumping_clock(scored: Home, jumping: None) -> None:
    wanted = scored.results()
    for result in scored.store.glob("result/*/*.json"):
        result.unlink()
    for answers in scored.store.glob("answers/*/*.json"):
        answers.unlink()
    assert scored.call("run", "--protocol", "smoke").code == 0
    again = scored.call("run", "--protocol", "smoke")
    assert "0 scenarios scored, 3 reused" in again.out
    assert numbers(scored.results()) == numbers(wanted)
    assert sorted(r.key for r in fetch_results("smoke")) == sorted(r.key for r in wanted.values())


def test_costs_are_no_difference_of_clock_times(scored: Home, jumping: None) -> None:
    for result in scored.store.glob("result/*/*.json"):
        result.unlink()
    assert scored.call("run", "--protocol", "smoke").code == 0
    for result in scored.results().values():
        assert all(0 <= value < 3600 for name, value in result.cost.items() if "seconds" in name), result.cost


def test_what_a_jump_leaves_unfinished_is_found(home: Home, jumping: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while logging, then a clock that went back: still one run."""
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_text", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Tracker(home.store / "logged").log(record())
    monkeypatch.setattr(time, "time", lambda: 1.0e9)
    for _ in range(2):
        Tracker(home.store / "logged").log(record())
    assert len(runs_of("scenario")) == len(fetch_results("toy")) == 1
