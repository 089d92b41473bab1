"""MLflow: every result once, in full; a server that does not answer costs seconds and loses nothing."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import url2pathname

import pytest
from mlflow.tracking._tracking_service import utils

from benchmark import places
from benchmark.errors import UserError
from benchmark.result import Result
from benchmark.run import tracking
from benchmark.run.tracking import Tracker, TrialTracker, Unreachable, fetch_results, gone_runs, result_of
from tests.conftest import Ended, Home
from tests.test_addresses import SECRETS as ADDRESSES_WITH_SECRETS


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


ADDRESSES = [
    "sqlite:///o.db?timeout=60", "sqlite:///{}/a%20b/o.db", "sqlite+pysqlite:///{}/50%25/é.db?timeout=60&isolation_level=IMMEDIATE", "sqlite:///sub/o.db",
    "sqlite:///file:{}/u.db?uri=true&timeout=60",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_of_a_database_is_logged_to(
    home: Home, ledger: Path, mlflow_template: Path, address: str
) -> None:
    """Ours is MLflow's reading of it; MLflow leaves no folder whose name is an address; it is read again in full."""
    home.patch.setenv("MLFLOW_TRACKING_URI", address.format(home.folder))
    file = tracking.database()
    assert file
    if file.name != "é.db":  # one is made in earnest: that takes seconds
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(mlflow_template.read_bytes())
    tracker = Tracker(ledger)
    tracker.log(record())
    assert not tracker.pending, tracker.reason
    assert [bare(r) for r in fetch_results("toy")] == [record()]
    assert sorted(p.name for p in file.parent.iterdir() if p.suffix == ".db" and p.name != "mlflow.db") == [file.name]
    known = {"artifacts", "store", "submissions", "mlflow.db", "mlflow.db-journal", "a b", "50%", "sub", "o.db", "u.db"}
    assert {p.name for p in home.folder.iterdir()} <= known
    file.unlink()
    Tracker(ledger)
    assert not list(ledger.rglob("key-*.json")), "the ledger knows its database"


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_refused(home: Home, ledger: Path, address: str) -> None:
    home.patch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError, match="expected a database in a file"):
        Tracker(ledger)
    with pytest.raises(Unreachable, match="expected a database in a file"):
        fetch_results("toy")


@pytest.fixture
def project(home: Home, mlflow_template: Path) -> Path:
    """A project in the current folder, with one result in its own MLflow."""
    folder = home.folder / "one"
    (folder / "mlruns/store").mkdir(parents=True)
    shutil.copy(mlflow_template, folder / "mlruns/mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "LEAKBOARD_STORE"):
        home.patch.delenv(name)
    log_in(folder, home, record())
    return folder


def log_in(folder: Path, home: Home, *results: Result) -> None:
    home.patch.chdir(folder)
    tracker = Tracker(places.store() / "logged")
    for result in results:
        tracker.log(result)
    assert not tracker.pending, tracker.reason


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def artifact(run: Any) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://")) / "record.json"


def test_a_project_that_moved_goes_on_in_its_new_place(home: Home, project: Path) -> None:
    moved = project.rename(home.folder / "two é")
    log_in(moved, home, record(), record("lira"))
    assert not project.exists()
    runs = runs_of("scenario")
    assert sorted(r.data.params["attack"] for r in runs) == ["lira", "loss"], "nothing is logged twice"
    places_ = [Path(url2pathname(artifact(r).as_posix())) for r in runs]
    assert all(p.is_relative_to(moved / "mlruns/artifacts/toy") and p.is_file() for p in places_)
    for run in runs:
        assert {"record.json", "roc.png"} == {f.path for f in tracking.connect().list_artifacts(run.info.run_id)}
    (moved / "deep").mkdir()
    log_in(moved / "deep", home, record(), record("random"))
    assert not list((moved / "deep").iterdir()) and len(runs_of("scenario")) == 3, "from any folder of it"


@pytest.mark.parametrize("artifacts", [True, False])
def test_a_copy_leaves_the_original_alone(home: Home, project: Path, artifacts: bool) -> None:
    before = files_of(project)
    copy = shutil.copytree(project, home.folder / "copy")
    if not artifacts:
        shutil.rmtree(copy / "mlruns/artifacts")
    log_in(copy, home, record(), record("lira"), record(claims={"tuned": "30 trials"}))
    assert files_of(project) == before
    runs = {r.data.params["attack"]: r for r in runs_of("scenario")}
    assert artifact(runs["lira"]).is_relative_to(copy) and artifact(runs["loss"]).is_relative_to(copy)
    assert all(artifact(r).is_file() for r in runs.values())


def test_a_copied_database_finds_what_stayed_behind(home: Home, project: Path) -> None:
    copy = shutil.copytree(project, home.folder / "copy")
    shutil.rmtree(copy / "mlruns/artifacts")
    log_in(copy, home, record("lira"))
    runs = {r.data.params["attack"]: artifact(r) for r in runs_of("scenario")}
    assert runs["loss"].is_relative_to(project) and runs["loss"].is_file()
    assert runs["lira"].is_relative_to(copy) and runs["lira"].is_file()


def test_a_study_in_a_copy_leaves_the_original_alone(home: Home, project: Path) -> None:
    home.patch.chdir(project)
    figure = home.folder / "figure.txt"
    figure.write_text("1")
    TrialTracker("toy", "a study").figure(figure)
    before = files_of(project)
    copy = shutil.copytree(project, home.folder / "copy")
    shutil.rmtree(copy / "mlruns/artifacts")
    home.patch.chdir(copy)
    utils._artifact_repos_cache.clear()  # one process knows a run by its id alone; here it is in two databases
    figure.write_text("2")
    TrialTracker("toy", "a study").figure(figure)
    assert files_of(project) == before
    assert [p.read_text() for p in copy.rglob("figure.txt")] == ["2"]


def test_experiments_of_others_stay_where_they_are(home: Home, project: Path) -> None:
    client = tracking.connect()
    theirs = client.create_experiment("theirs", artifact_location=(home.folder / "artifacts/theirs").as_uri())
    log_in(project.rename(home.folder / "two"), home, record("lira"))
    assert tracking.connect().get_experiment(theirs).artifact_location == (home.folder / "artifacts/theirs").as_uri()


def test_a_lost_ledger_is_made_again(ledger: Path) -> None:
    failed = record(status="failed", reason="no", metrics={}, intervals={}, roc=None)
    for _ in range(2):
        tracker = Tracker(ledger)
        for result in (record(), failed, record("lira", claims={"tuned": "30 trials"})):
            tracker.log(result)
        shutil.rmtree(ledger)
    assert len(runs_of("scenario")) == 3


def test_projects_that_share_a_store_log_to_each_database(home: Home, project: Path, mlflow_template: Path) -> None:
    home.patch.setenv("LEAKBOARD_STORE", str(home.folder / "shared"))
    other = home.folder / "other"
    (other / "mlruns/store").mkdir(parents=True)
    shutil.copy(mlflow_template, other / "mlruns/mlflow.db")
    for folder in (project, other, project):
        log_in(folder, home, record())
        assert [bare(r) for r in fetch_results("toy")] == [record()]


def test_who_may_not_write_is_told_so_in_a_line(home: Home, ledger: Path) -> None:
    """Also as root: SQLite itself is asked for no more than reading."""
    Tracker(ledger).log(record())
    home.patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{home.folder}/mlflow.db?mode=ro&uri=true")
    tracker = Tracker(ledger)
    tracker.log(record("lira"))
    assert tracker.reason == f"this user may not write to {home.folder}/mlflow.db" and len(tracker.pending) == 1
    assert [bare(r) for r in fetch_results("toy")] == [record()], "reading goes on"


HOSTILE = [
    "it's", 'a"b', "a'b\"c", "back\\slash", "100%", "`tick`", "x' OR 'a' = 'a", "<b>é</b>\u202e", "' --", "a' or tags.x like '%",
]  # fmt: skip


def test_names_are_no_part_of_a_query(ledger: Path) -> None:
    results = [record(key=f"{name}/../x", defense=name, reason=name) for name in HOSTILE]
    for _ in range(2):
        tracker = Tracker(ledger)
        for result in (record(), *results):
            tracker.log(result)
        assert not tracker.pending, tracker.reason
        for mark in ledger.rglob("*.json"):  # as a killed command leaves it: each run is looked for
            mark.write_text("")
    assert sorted(p.data.tags["defense"] for p in runs_of("entry")) == sorted([*HOSTILE, record().defense])
    assert len(runs_of("scenario")) == 1 + len(HOSTILE)
    assert {p.parent for p in ledger.rglob("*.json")} == {next(p for p in ledger.iterdir() if p.is_dir())}


@pytest.mark.parametrize("name", ["it's", "both ' and \"", "x' OR 'a' = 'a", "100% \\ `"])
def test_studies_of_any_name_are_found_again(home: Home, name: str) -> None:
    for _ in range(2):
        trials = TrialTracker("toy", name)
        trials.log(0, {"a": name}, {"worst_case": 0.5}, {"defense": name})
    other = TrialTracker("toy", name + " other")
    assert other.logged == set() and other.parent != trials.parent and TrialTracker("toy", name).logged == {0}
    client = tracking.connect()
    assert len(client.search_runs([client.get_experiment_by_name("toy.tuning").experiment_id])) == 3


def test_what_was_logged_before_stays_one(ledger: Path) -> None:
    """Parents and studies without the digest of their name, experiments without a view."""
    Tracker(ledger).log(record())
    trials = TrialTracker("toy", "dp_sgd[a=1]+hamp")
    trials.log(0, {}, {"worst_case": 0.5}, {})
    client = tracking.connect()
    for name in ("toy", "toy.tuning"):
        experiment = client.get_experiment_by_name(name)
        for run in client.search_runs([experiment.experiment_id]):
            for tag in ("leakboard.entry", "leakboard.study_id"):
                if tag in run.data.tags:
                    client.delete_tag(run.info.run_id, tag)
        for tag in ("mlflow.experimentKind", "mlflow.sharedViewState.leakboard"):
            client.delete_experiment_tag(experiment.experiment_id, tag)
    Tracker(ledger).log(record("lira"))
    again = TrialTracker("toy", "dp_sgd[a=1]+hamp")
    assert (again.parent, again.logged) == (trials.parent, {0})
    assert len(runs_of("entry")) == 1
    for name in ("toy", "toy.tuning"):
        tags = client.get_experiment_by_name(name).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"
        assert "worst_" in tags["mlflow.sharedViewState.leakboard"]


@pytest.mark.parametrize(
    "text",
    ["", "[" * 90_000, "null", "{" * 50_000, '{"seed":' + "9" * 50_000 + "}", "\ud800", " " * 200_000, record().to_json() + " " * 100_000,
     record().to_json().replace('"seed":0', '"seed":1' + "0" * 5000), record().to_json().replace('"finished":', '"finished":{"a":1},"finished":[],"x":')],
)  # fmt: skip
def test_a_record_may_hold_anything(text: str) -> None:
    run = SimpleNamespace(data=SimpleNamespace(tags={tracking.RECORD: text}), info=None)
    assert tracking._record(run) is None
    assert tracking._record(SimpleNamespace(data=SimpleNamespace(tags={tracking.RECORD: 5}), info=None)) is None


def test_runs_are_asked_for_by_their_ids_alone(ledger: Path) -> None:
    Tracker(ledger).log(record())
    (found,) = fetch_results("toy")
    strange = {"x') or ('1' = '1", "../..", ""}
    assert gone_runs("toy", {found.provenance["run_id"], *strange}) == (set(), strange)
    assert all(result_of(name) is None for name in strange)


def test_no_description_comes_from_a_record(ledger: Path) -> None:
    """A description is the one text that MLflow shows as Markdown, and loads images for."""
    Tracker(ledger).log(record(provenance={"mlflow.note.content": "![x](http://evil.example)", "split": "abc"}))
    assert [r.data.tags.get("mlflow.note.content") for r in (*runs_of("scenario"), *runs_of("entry"))] == [None, None]


def test_a_parent_says_what_its_entry_is_worth(ledger: Path) -> None:
    tracker = Tracker(ledger)
    tracker.log(record())
    name = record().defense
    assert tracker.stale("toy", [name, name]) == [name]
    metrics = {"worst_auc": 0.6, "test_accuracy": 0.9, "never": float("nan")}
    for _ in range(2):
        tracker.summarise("toy", name, metrics, {"dp_sgd.noise": "1.0"}, {"title": "T" * 9000}, ("digits", "abc"))
    assert not tracker.reason and Tracker(ledger).stale("toy", [name]) == []
    (parent,) = runs_of("entry")
    assert parent.data.metrics == {"worst_auc": 0.6, "test_accuracy": 0.9}
    assert len(tracking.connect().get_metric_history(parent.info.run_id, "worst_auc")) == 1, "the same is logged once"
    assert parent.data.params == {"dp_sgd.noise": "1.0"} and len(parent.data.tags["title"]) <= 500
    assert [(i.dataset.name, i.dataset.digest) for i in parent.inputs.dataset_inputs] == [("digits", "abc")]
    Tracker(ledger).log(record("lira"))
    tracker = Tracker(ledger)
    assert tracker.stale("toy", [name]) == [name], "what is logged later is told by whichever command is next"
    params = {"dp_sgd.noise": "2.0", **{f"p{i}": "v" for i in range(250)}, "é ' x": "1"}
    tracker.summarise("toy", name, {"worst_auc": 0.7}, params, {}, ("digits", "abc"))
    assert not tracker.reason
    (parent,) = runs_of("entry")
    assert parent.data.metrics["worst_auc"] == 0.7 and math.isnan(parent.data.metrics["test_accuracy"])
    assert parent.data.params["dp_sgd.noise"] == "1.0" and parent.data.tags["now.dp_sgd.noise"] == "2.0"
    assert len(parent.data.params) == 252 and len(parent.inputs.dataset_inputs) == 1


def test_run_tells_the_parent(scored: Home) -> None:
    ended = scored.call("run", "--protocol", "smoke")
    assert ended.code == 0
    client = tracking.connect()
    experiment = client.get_experiment_by_name("smoke").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`leakboard.kind` = 'entry'")
    attacks = [r.metrics["auc"] for r in scored.results().values() if r.attack == "loss"]
    found, tags = parent.data.metrics, parent.data.tags
    assert found["worst_auc"] == pytest.approx(attacks[0], abs=1e-6) and tags["worst_auc_attack"] == "loss"
    assert {"test_accuracy", "train_accuracy", "train_seconds", "ms_per_query"} <= set(found) and found[
        "scenarios"
    ] == 2
    assert tags["undefended.title"] and parent.data.params["dataset"] and parent.inputs.dataset_inputs
    for mark in (scored.store / "logged").rglob("entry-*.json"):
        mark.unlink()  # as if the command had been killed before it came to this
    scored.call("run", "--protocol", "smoke")
    assert list((scored.store / "logged").rglob("entry-*.json"))


SECRETS = [a for a in ADDRESSES_WITH_SECRETS if not a.startswith("sqlite")]


@pytest.mark.parametrize("address", SECRETS)
def test_no_password_is_told(home: Home, ledger: Path, caplog: pytest.LogCaptureFixture, address: str) -> None:
    home.patch.setenv("MLFLOW_TRACKING_URI", address.replace("127.0.0.1:5000", "127.0.0.1:9"))
    home.patch.setattr(socket, "getaddrinfo", refused)
    told = []
    for call in (lambda: Tracker(ledger).log(record()), lambda: fetch_results("toy"), lambda: result_of("0" * 32)):
        try:
            call()
        except (UserError, Unreachable):
            told.append(traceback.format_exc())
    tracker = None
    with contextlib.suppress(UserError):
        tracker = Tracker(ledger)
        tracker.log(record())
        told += [tracker.reason, tracker.down]
    ended = home.call("ui", "--port", "1") if not address.startswith("http") else Ended(0, "", "")
    other = home.call("reproduce", "0" * 32)
    shown = "\n".join([*told, caplog.text, ended.out, ended.err, other.out, other.err])
    assert shown.strip() and "Tr0ub" not in shown and "dor77" not in shown, shown


def refused(*_: Any, **__: Any) -> Any:
    raise OSError("no network in tests")


def test_a_password_without_its_address_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://judge:Tr0ub%40dor77@127.0.0.1:1/db?sslpassword=pw%2Fpw")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    told = tracking.redacted_line(ValueError("bad password 'Tr0ub@dor77' (Tr0ub%40dor77), pw/pw,\n token t0ken"))
    assert told == "bad password '***' (***), ***, token ***"


# --- Audits -----------------------------------------------------------------------------------------


def audited(key: str = "a" * 40) -> tuple[str, bool]:
    return tracking.log_audit(
        key,
        "Mine",
        {"worst_auc": 0.625, "p": math.nan},
        {"seed": "0"},
        {"verdict": "leaks", "gate": ""},
        {"a.json": "{}"},
    )


def test_an_audit_is_one_run(home: Home) -> None:
    run_id, new = audited()
    assert new and audited() == (run_id, False)
    run = tracking.connect().get_run(run_id)
    assert run.data.metrics == {"worst_auc": 0.625} and run.data.tags["verdict"] == "leaks"
    assert "gate" not in run.data.tags and run.info.status == "FINISHED"
    assert audited("it's another")[1], "a key is no part of a query"
    (page,) = tracking.pages()
    assert page == tracking.EXPERIMENT and fetch_results(tracking.EXPERIMENT) == []


@pytest.mark.parametrize("step", ["log_batch", "log_text", "set_terminated"])
def test_an_audit_that_was_half_logged_is_logged_anew(home: Home, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    from mlflow import MlflowClient

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, refused)
        with pytest.raises(Unreachable):
            audited()
    run_id, new = audited()
    client = tracking.connect()
    found = client.search_runs([client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id])
    assert new and [run.info.run_id for run in found] == [run_id]


def test_audits_of_a_project_that_moved_are_found(home: Home, project: Path) -> None:
    run_id, _ = audited()
    home.patch.chdir(project.rename(home.folder / "two"))
    assert audited() == (run_id, False)
    utils._artifact_repos_cache.clear()
    assert [f.path for f in tracking.connect().list_artifacts(run_id)] == ["a.json"]
