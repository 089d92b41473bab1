"""MLflow: every result once, in full; a server that does not answer costs seconds and loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from benchmark import tracking
from benchmark.result import Result
from benchmark.tracking import Tracker, Unreachable, fetch_results, result_of
from tests.conftest import Home


def record(attack: str = "loss", **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "key": f"key-{attack}", "protocol": "toy", "protocol_digest": "d", "task": "membership", "attack": attack,
        "defense": "label_smoothing+diffence[n=10]", "dataset": "digits", "architecture": "tiny", "seed": 0, "status": "ok",
        "access": "posterior", "knowledge": "none", "metrics": {"auc": 0.625, "tpr_at_fpr_0.01": 0.03125},
        "intervals": {"auc": (0.5, 0.75)}, "roc": ((0.0, 0.5, 1.0), (0.0, 0.75, 1.0)), "cost": {"seconds": 1.5},
        "claims": {"epsilon": "8"}, "provenance": {"split": "abc", "commit": "def"}, "finished": 1.7e9, "null_auc": (0.5,),
    }  # fmt: skip
    return Result(**(fields | changes))


def bare(result: Result) -> Result:
    """Without what MLflow adds."""
    kept = {k: v for k, v in result.provenance.items() if k not in ("run_id", "experiment_id")}
    return result.model_copy(update={"provenance": kept})


@pytest.fixture
def ledger(home: Home) -> Path:
    return home.store / "logged"


def runs_of(kind: str) -> list[Any]:
    client = tracking.connect()
    experiment = client.get_experiment_by_name("toy")
    return list(client.search_runs([experiment.experiment_id], f"tags.`leakboard.kind` = '{kind}'"))


def test_a_result_comes_back_in_full(ledger: Path) -> None:
    tracker = Tracker(ledger)
    for attack in ("loss", "lira"):
        tracker.log(record(attack))
    assert not tracker.pending
    found = fetch_results("toy")
    assert sorted(map(bare, found), key=lambda r: r.attack) == [record("lira"), record("loss")]
    assert fetch_results("another") == []
    one = result_of(found[0].provenance["run_id"])
    assert one == found[0]
    assert result_of("0" * 32) is None


def test_the_run_can_be_read_without_leakboard(ledger: Path) -> None:
    Tracker(ledger).log(record())
    (run,), (parent,) = runs_of("scenario"), runs_of("entry")
    assert run.data.metrics["auc"] == 0.625
    assert (run.data.metrics["auc_low"], run.data.metrics["auc_high"], run.data.metrics["cost.seconds"]) == (
        0.5,
        0.75,
        1.5,
    )
    assert run.data.params["attack"] == "loss" and run.data.params["seed"] == "0"
    assert run.data.tags["claim.epsilon"] == "8" and run.data.tags["commit"] == "def"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.info.run_name == "loss on label_smoothing+diffence[n=10], seed 0"
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert run.inputs.dataset_inputs[0].dataset.digest == "abc"
    names = {f.path for f in tracking.connect().list_artifacts(run.info.run_id)}
    assert names == {"record.json", "roc.png"}
    assert (
        Result.from_json((Path(run.info.artifact_uri.removeprefix("file://")) / "record.json").read_text()) == record()
    )


def test_nothing_is_logged_twice(ledger: Path) -> None:
    for _ in range(2):
        tracker = Tracker(ledger)
        tracker.log(record())
        tracker.log(record())
        tracker.log(record("lira", seed=1))
    assert len(runs_of("scenario")) == 2
    assert len(runs_of("entry")) == 1, "one parent a defense"


def test_a_failure_and_the_success_after_it_are_two_runs(ledger: Path) -> None:
    failed = record(status="failed", reason="no", metrics={}, intervals={}, roc=None)
    for result in (failed, failed, record()):
        Tracker(ledger).log(result)
    assert sorted(r.info.status for r in runs_of("scenario")) == ["FAILED", "FINISHED"]


def test_a_run_that_turns_out_tuned_says_so_and_is_one(ledger: Path) -> None:
    tuned = record(claims={"tuned": "30 trials"})
    for result in (record(), tuned, tuned):
        Tracker(ledger).log(result)
    (run,) = runs_of("scenario")
    assert run.data.tags["claim.tuned"] == "30 trials"
    assert [bare(r) for r in fetch_results("toy")] == [tuned]


def test_a_long_log_does_not_cost_the_record(ledger: Path) -> None:
    """As JSON each of these signs is six characters, and MLflow cuts tags."""
    failed = record(status="failed", reason="no", metrics={}, intervals={}, roc=None, log="▇" * 2000)
    Tracker(ledger).log(failed)
    (run,) = runs_of("scenario")
    found = result_of(run.info.run_id)
    assert found and bare(found) == failed.model_copy(update={"log": ""})


def test_another_mlflow_gets_everything_too(home: Home, ledger: Path, mlflow_template: Path) -> None:
    Tracker(ledger).log(record())
    (home.folder / "other.db").write_bytes(mlflow_template.read_bytes())
    home.patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.folder}/other.db")
    Tracker(ledger).log(record())
    assert [bare(r) for r in fetch_results("toy")] == [record()]


@pytest.mark.parametrize("stage", ["_fill", "set_terminated", "ledger"])
def test_a_kill_while_logging_leaves_one_run(ledger: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    Tracker(ledger).log(record("lira"))

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    tracker = Tracker(ledger)
    with monkeypatch.context() as patch:
        if stage == "_fill":
            patch.setattr(tracking, "_fill", die)
        elif stage == "set_terminated":
            tracker._parents[tracker._experiment("toy"), record().defense] = runs_of("entry")[0].info.run_id
            patch.setattr("mlflow.MlflowClient.set_terminated", die)
        else:
            create = Tracker._create
            patch.setattr(Tracker, "_create", lambda self, result: die(create(self, result)))
        with pytest.raises(KeyboardInterrupt):
            tracker.log(record())
    Tracker(ledger).log(record())
    assert sorted(r.data.params["attack"] for r in runs_of("scenario")) == ["lira", "loss"]
    assert sorted(r.attack for r in fetch_results("toy")) == ["lira", "loss"]


def test_a_damaged_ledger_is_no_obstacle(ledger: Path) -> None:
    Tracker(ledger).log(record())
    (mark,) = ledger.rglob("key-*.json")
    for damage in ("", mark.read_text()[:15], "[]"):
        mark.write_text(damage)
        tracker = Tracker(ledger)
        tracker.log(record())
        assert not tracker.pending, tracker.down
        assert len(runs_of("scenario")) == 1


def test_since(ledger: Path) -> None:
    Tracker(ledger).log(record())
    later = int(time.time() * 1000) + 1
    assert len(fetch_results("toy", since_ms=later - 60_000)) == 1
    assert fetch_results("toy", since_ms=later) == []


def test_runs_of_others_are_no_results(ledger: Path) -> None:
    Tracker(ledger).log(record())
    client = tracking.connect()
    experiment = client.get_experiment_by_name("toy").experiment_id
    for text in ("{", '{"key": 1}'):
        client.create_run(experiment, tags={"leakboard.kind": "scenario", tracking.RECORD: text})
    other = client.create_run(experiment)
    assert len(fetch_results("toy")) == 1
    assert result_of(other.info.run_id) is None


def test_no_database_is_no_results_and_is_not_made(home: Home) -> None:
    home.patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.folder}/none.db")
    assert fetch_results("toy") == []
    assert not (home.folder / "none.db").exists()


def test_a_server_that_does_not_answer(home: Home, ledger: Path) -> None:
    home.patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    tracker = Tracker(ledger)
    tracker.log(record())
    tracker.log(record("lira"))
    assert time.monotonic() - start < 20
    assert [r.attack for r in tracker.pending] == ["loss", "lira"]
    assert tracker.down and "\n" not in tracker.down
    with pytest.raises(Unreachable, match=r"MLflow at http://127\.0\.0\.1:9 did not answer"):
        fetch_results("toy")


def test_what_a_dead_server_missed_is_logged_when_it_is_back(home: Home, ledger: Path) -> None:
    """The same address answers later: here a database that appears behind it."""
    real = tracking.connect

    def dead() -> Any:
        raise ConnectionError("refused")

    home.patch.setattr(tracking, "connect", dead)
    for _ in range(2):
        tracker = Tracker(ledger)
        tracker.log(record())
        tracker.log(record("lira"))
        assert len(tracker.pending) == 2
    home.patch.setattr(tracking, "connect", real)
    tracker = Tracker(ledger)
    tracker.log(record())
    tracker.log(record("lira"))
    assert not tracker.pending
    assert len(fetch_results("toy")) == 2


@pytest.mark.parametrize("dead", [True, False])
def test_a_refusal_halfway(ledger: Path, monkeypatch: pytest.MonkeyPatch, dead: bool) -> None:
    """A server that dies holds up all that comes after; one that refuses a record holds up that record alone."""
    fill = tracking._fill

    def refuse(client: Any, run_id: str, result: Result) -> None:
        if result.attack == "lira":
            raise ConnectionError("reset")
        fill(client, run_id, result)

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_fill", refuse)
        if dead:
            patch.setattr(Tracker, "_answers", lambda self: False)
        tracker = Tracker(ledger)
        for attack in ("loss", "lira", "random"):
            tracker.log(record(attack))
        assert [r.attack for r in tracker.pending] == (["lira", "random"] if dead else ["lira"])
    tracker = Tracker(ledger)
    for attack in ("loss", "lira", "random"):
        tracker.log(record(attack))
    assert sorted(r.data.params["attack"] for r in runs_of("scenario")) == ["lira", "loss", "random"]


def test_a_lost_database_is_filled_again(home: Home, ledger: Path) -> None:
    """The ledger outlives the database that it tells of."""
    home.patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.folder}/lost.db")
    empty = (home.folder / "mlflow.db").read_bytes()
    (home.folder / "lost.db").write_bytes(empty)
    Tracker(ledger).log(record())
    (home.folder / "lost.db").unlink()
    tracker = Tracker(ledger)
    (home.folder / "lost.db").write_bytes(empty)  # what MLflow would make, without the seconds that it takes
    tracker.log(record())
    assert [bare(r) for r in fetch_results("toy")] == [record()]


@pytest.mark.slow
def test_a_real_server_comes_back(scored: Home, mlflow_template: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scored.patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    ended = scored.call("run", "--protocol", "smoke")
    assert ended.code == 0
    assert "did not answer" in ended.out and "3 results are kept" in ended.out
    (scored.folder / "server.db").write_bytes(mlflow_template.read_bytes())
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{scored.folder}/server.db", "--artifacts-destination", str(scored.folder / "a"),
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        for _ in range(2):
            ended = scored.call("run", "--protocol", "smoke")
            assert ended.code == 0
            assert "did not answer" not in ended.out, ended.out
        assert {r.key for r in fetch_results("smoke")} == {r.key for r in scored.results().values()}
        assert len(fetch_results("smoke")) == 3
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_record_that_is_refused_holds_up_no_other(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = tracking._fill

    def refuse(client: Any, run_id: str, result: Result) -> None:
        if result.attack == "lira":
            raise ValueError("a tag is too long")
        fill(client, run_id, result)

    monkeypatch.setattr(tracking, "_fill", refuse)
    tracker = Tracker(ledger)
    for attack in ("loss", "lira", "random"):
        tracker.log(record(attack))
    assert [r.attack for r in tracker.pending] == ["lira"]
    assert "too long" in tracker.reason and not tracker.down
