"""The board and a real MLflow: new runs, deleted, restored and lost ones, another database, an older one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import protocol
from benchmark.result import Picture, Result
from benchmark.run import tracking
from benchmark.run.tracking import Tracker, Unreachable
from leaderboard import tables
from leaderboard.publish import publish
from leaderboard.ranking import Board
from tests.conftest import Home
from tests.leaderboard.conftest import make_board, make_result

BOARD = Board(("a",), ("d",), (0,), "d", 0.5)


@pytest.fixture
def opened(home: Home) -> Iterator[Callable[[], tables.Source]]:
    """opened() is the app's source of `toy-v1` after a restart."""

    def again() -> tables.Source:
        tables.source.cache_clear()
        return tables.source("toy-v1")

    home.patch.delenv("LEAKBOARD_TABLES", raising=False)
    home.patch.delenv("LEAKBOARD_PUBLIC", raising=False)
    yield again
    tables.source.cache_clear()


def log(home: Home, *attacks: str, **changes: Any) -> list[Result]:
    results = [
        make_result("membership", a, "d", 0, finished=time.time(), metrics={"auc": 0.6}, **changes) for a in attacks
    ]
    for result in results:
        Tracker(home.store / "logged").log(result)
    return results


def look(source: tables.Source) -> bool:
    """A refresh after so long a time that MLflow is asked for all that may be new."""
    source._look_at = source._check_at = source._looked_back = -np.inf
    return source.refresh()


def names(source: tables.Source) -> list[str]:
    return sorted(r.attack for r in source.results)


def asks(home: Home) -> list[str]:
    """Every query that goes to MLflow from now on."""
    seen: list[str] = []
    real = tracking._search

    def search(protocol: str, query: str, view: str = "active_only") -> Iterator[Any]:
        seen.append(f"{view} {query}")
        return real(protocol, query, view)

    home.patch.setattr(tracking, "_search", search)
    return seen


def ids(source: tables.Source) -> dict[str, str]:
    return {r.attack: r.provenance["run_id"] for r in source.results}


def test_what_the_file_holds_is_not_asked_for(home: Home, opened: Callable[[], tables.Source]) -> None:
    log(home, "a", "b")
    first = opened()
    assert names(first) == ["a", "b"] and first.message == ""
    seen = asks(home)
    second = opened()
    assert names(second) == ["a", "b"] and not seen, "at the start nobody is asked"
    assert list(second.results) == list(first.results)
    log(home, "c")
    assert look(second) and names(second) == ["a", "b", "c"]
    assert seen and all("end_time >=" in q or "deleted_only" in q or "run_id IN" in q for q in seen)
    assert not look(second)
    third = opened()
    assert names(third) == ["a", "b", "c"]


def test_a_run_that_ended_late_or_elsewhere_is_found(home: Home, opened: Callable[[], tables.Source]) -> None:
    """A machine whose clock is four minutes behind logs after the board has looked."""
    log(home, "a")
    source = opened()
    real = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mlflow.tracking._tracking_service.client.get_current_time_millis", lambda: int((real() - 240) * 1000)
        )
        log(home, "behind")
    ended = {r.info.run_name: r.info.end_time for r in tracking._search("toy-v1", tracking._SCENARIOS)}
    assert min(ended.values()) < real() * 1000 - 230_000
    assert look(source) and names(source) == ["a", "behind"]


def test_deleted_restored_and_lost_runs(home: Home, opened: Callable[[], tables.Source]) -> None:
    log(home, "a", "b", "c")
    source = opened()
    client, run = tracking.connect(), ids(source)
    client.delete_run(run["b"])
    assert look(source) and names(source) == ["a", "c"]
    assert names(opened()) == ["a", "c"], "the file knows it too, or learns it"
    source = opened()
    client.restore_run(run["b"])
    assert look(source) and names(source) == ["a", "b", "c"]

    client.delete_run(run["b"])
    look(source)
    client.delete_run(run["a"])  # nobody looks between this and its end
    purge(home, run["a"], run["b"])
    assert look(source) and names(source) == ["c"]
    assert not look(source)
    assert names(source) == ["c"] and source.message == ""


def purge(home: Home, *runs: str) -> None:
    """As `mlflow gc` does it, without the seconds that it takes to start."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{home.folder}/mlflow.db", str(home.folder / "artifacts"))
    for run in runs:
        store._hard_delete_run(run)


@pytest.mark.slow
def test_mlflows_own_gc(home: Home, opened: Callable[[], tables.Source]) -> None:
    log(home, "a", "b")
    source = opened()
    tracking.connect().delete_run(ids(source)["a"])
    uri = f"sqlite:///{home.folder}/mlflow.db"
    subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri], check=True
    )
    assert look(source) and names(source) == ["b"]


def test_a_deleted_run_gives_way_to_what_was_before_it(home: Home, opened: Callable[[], tables.Source]) -> None:
    (old,) = log(home, "a", key="old")
    publish(
        [make_result("utility", "", "d", 0, metrics={"test_accuracy": 0.9}, finished=1.0)],
        BOARD,
        home.folder / "published" / "toy-v1",
    )
    log(home, "a", key="new")
    source = opened()
    (row,) = (r for r in source.results if r.attack)
    assert row.key == "new"
    tracking.connect().delete_run(row.provenance["run_id"])
    assert look(source) and names(source) == ["", "a"]
    assert [r.key for r in source.results if r.attack] == [old.key]


def test_another_database_behind_the_same_address(
    home: Home, opened: Callable[[], tables.Source], mlflow_template: Path
) -> None:
    log(home, "a", "b")
    source = opened()
    (home.folder / "mlflow.db").rename(home.folder / "away.db")
    assert look(source) and names(source) == []
    assert not (home.folder / "mlflow.db").exists(), "a look makes no database"
    (home.folder / "away.db").rename(home.folder / "mlflow.db")
    assert look(source) and names(source) == ["a", "b"]
    with sqlite3.connect(mlflow_template) as empty, sqlite3.connect(home.folder / "mlflow.db") as database:
        empty.backup(database)
    log(home, "c")
    assert look(source) and names(source) == ["c"]
    assert names(opened()) == ["c"]


def test_a_deleted_experiment(home: Home, opened: Callable[[], tables.Source]) -> None:
    log(home, "a", "b")
    source = opened()
    client = tracking.connect()
    experiment = client.get_experiment_by_name("toy-v1").experiment_id
    client.delete_experiment(experiment)
    assert look(source) and names(source) == []
    client.restore_experiment(experiment)
    assert look(source) and names(source) == ["a", "b"]


def test_a_server_that_dies_halfway_loses_nothing(home: Home, opened: Callable[[], tables.Source]) -> None:
    log(home, "a", "b", "c")
    home.patch.setattr(tables, "PAGE", 1)
    real = tables._fetch

    def dies(*given: Any) -> Iterator[Result]:
        left = iter(real(*given))
        yield next(left)
        raise Unreachable("MLflow at x did not answer: reset")

    home.patch.setattr(tables, "_fetch", dies)
    source = opened()
    assert len(source.results) == 1 and source.message == "MLflow at x did not answer: reset"
    home.patch.setattr(tables, "_fetch", real)
    source = opened()
    look(source)
    assert names(source) == ["a", "b", "c"] and source.message == ""


def test_of_one_scoring_each_copy_gives_what_the_other_lacks(home: Home, opened: Callable[[], tables.Source]) -> None:
    """MLflow's tag holds no pictures; what is published names no run."""
    picture = Picture.of(np.random.default_rng(0).random((2, 1, 4, 4)))
    scored = [
        make_result("inversion", "a", "d", seed, pictures={"reconstructions": picture}, finished=100.0 + seed)
        for seed in range(3)
    ]
    for result in scored:
        Tracker(home.store / "logged").log(result)
    marked = scored[1].model_copy(update={"trust": "reproduced"})
    publish([scored[0], marked], BOARD, home.folder / "published" / "toy-v1")
    rows = sorted(opened().results, key=lambda r: r.seed)
    assert [bool(r.pictures) for r in rows] == [True, True, False]
    assert rows[0].pictures["reconstructions"] == picture
    assert all(r.provenance["run_id"] for r in rows)
    assert [r.trust for r in rows] == ["self-reported", "reproduced", "self-reported"]


def test_an_older_database_is_one_line_and_stays_as_it_is(home: Home, opened: Callable[[], tables.Source]) -> None:
    """One of MLflow's first schemas: MLflow itself would migrate it, unasked."""
    database = home.folder / "old.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")
        connection.execute("CREATE TABLE runs (run_uuid VARCHAR(32))")
    connection.close()
    content = database.read_bytes()
    home.patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    source = opened()
    says = (
        f"{database} was made by an older MLflow (schema 451aebb31d03); back it up, then: mlflow db upgrade sqlite:///"
    )
    assert says in source.message and "\n" not in source.message
    tracker = Tracker(home.store / "logged")
    tracker.log(make_result("membership", "a", "d", 0))
    assert len(tracker.pending) == 1 and "made by an older MLflow" in tracker.down
    assert database.read_bytes() == content


def test_passwords_are_not_shown(home: Home) -> None:
    home.patch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(Unreachable) as told:
        tracking.fetch_results("toy-v1")
    assert "secret" not in str(told.value) and "http://me:***@127.0.0.1:9" in str(told.value)


def test_a_published_folder_of_another_protocol_or_version(home: Home, opened: Callable[[], tables.Source]) -> None:
    """It is told, nothing of it is shown in the wrong place, and nothing is overwritten."""
    results, board = make_board()
    folder = home.folder / "published" / "smoke"

    def shown() -> tables.Source:
        tables.source.cache_clear()
        return tables.source("smoke")

    publish(results, board, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for _ in range(2):  # at first, and from the table
        source = shown()
        assert not len(source.results)
        assert source.message == f"{folder} holds results of toy-v1, expected smoke: none of them is shown"
    renamed = [r.model_copy(update={"protocol": "smoke"}) for r in results]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    publish(renamed, board, folder)
    now = protocol.load("smoke").measures[:8]
    for _ in range(2):
        source = shown()
        assert len(source.results) == len(results)
        assert f"published under version d1 of the protocol, which is {now} now" in source.message
    current = [r.model_copy(update={"protocol_digest": protocol.load("smoke").measures}) for r in renamed]
    publish(current, board, folder)
    source = shown()
    assert source.message == "" and len(source.results) == len(results)
    assert list(tables.editions(source.results)) == [f"public split, version {now}"], (
        "what is no longer published is gone"
    )


def test_the_board_needs_no_torch(home: Home) -> None:
    """It takes seconds to import, and half a gigabyte."""
    code = (
        "import sys; from leaderboard import tables; tables.board_of('digits-v2'); found = tables.source('digits-v2')"
    )
    code += "; assert len(found.results) > 100, found.message; print('torch' in sys.modules)"
    home.patch.delenv("LEAKBOARD_PUBLISHED")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=home.folder)
    assert done.stdout == "False\n"
