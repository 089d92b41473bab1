"""The local table: what is read is what was written; kills, damage and files of others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark import places
from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.result import Picture, Result
from leaderboard import tables
from leaderboard.cache import GROUP, Notes, Table
from leaderboard.publish import publish
from leaderboard.ranking import Board, _samples_needed, attack_table, defense_table, readable, scenarios
from leaderboard.records import Records, lists
from tests.leaderboard.conftest import hostile, make_board, make_result

MadeUp = tuple[list[Result], Board]


def slow_scenarios(results: Iterable[Result]) -> pd.DataFrame:
    """The columns of `ranking.scenarios`, record by record."""
    names = ("task", "attack", "defense", "seed", "status", "reason", "track", "null_row", "trust", "isolation")
    rows = [
        {**r.cost, **r.metrics, **{n: getattr(r, n) for n in names}, "null_auc": r.null_auc, "claims": r.claims}
        for r in map(readable, results)
    ]
    wanted = [*names, "seconds", "queries", "train_seconds", "members", "nonmembers", *METRICS, "null_auc", "claims"]
    frame = pd.DataFrame(rows).reindex(columns=list(dict.fromkeys(wanted)))
    for metric in METRICS:
        if needed := _samples_needed(metric):
            side = "members" if metric.startswith("tnr") else "nonmembers"
            frame[metric] = frame[metric].where(frame[side] >= needed)
    return frame


def written(results: Iterable[Result], path: Path, origin: str = "mlflow") -> Records:
    table = Table(Notes("toy-v1", "x"))
    table.add(origin, map(readable, results))
    table.write(path)
    found = Table.read(path)
    assert found is not None
    return found.rows


def test_columns_are_what_the_records_say(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = hostile(made_up[0]), made_up[1]
    rows = written(results, tmp_path / "t.parquet")
    assert list(rows) == [readable(r) for r in results]
    for found in (scenarios(rows), scenarios(results)):
        slow = slow_scenarios(results)
        for name in slow:
            if name == "null_auc":
                values, starts, lengths = lists(found.result, name)
                found_lists = [tuple(values[a : a + n]) for a, n in zip(starts, lengths, strict=True)]
                assert found_lists == slow.null_auc.tolist()
                values, starts, lengths = lists(found.result[::-7], name)
                assert [tuple(values[a : a + n]) for a, n in zip(starts, lengths, strict=True)] == found_lists[::-7]
            elif name == "claims":
                assert [Records.of(results)[i].claims for i in range(3)] == [r.claims for r in results[:3]]
            elif slow[name].dtype == float:
                np.testing.assert_array_equal(found[name], slow[name])
            else:
                assert found[name].tolist() == slow[name].tolist(), name
    for least in ("self-reported", "reproduced"):
        pd.testing.assert_frame_equal(defense_table(rows, board, least), defense_table(results, board, least))
        for task in TASK_METRICS:
            pd.testing.assert_frame_equal(
                attack_table(rows, board, task, least), attack_table(results, board, task, least)
            )


def test_a_row_is_a_record(tmp_path: Path) -> None:
    """Read from columns, from the file, or still at hand: each field is the record's."""
    picture = Picture.of(np.random.default_rng(0).random((2, 3, 4, 4)))
    record = make_result(
        "inversion", "a", "d", 3, pictures={"reconstructions": picture}, log="no\nway", claims={"epsilon": "8"},
        histogram=((0.0, 0.5, 1.0), (1, 2), (2, 1)), intervals={"mse": (0.0, 1.0)}, provenance={"run_id": "r1"},
        cost={"seconds": 2.0}, reason="because", trust="reproduced",
    )  # fmt: skip
    for rows in (
        written([record], tmp_path / "t.parquet"),
        Records.of([record]),
        written([record] * 2, tmp_path / "u")[1:],
    ):
        (row,) = rows
        assert row == record == rows[0] and row.track == record.track
        assert all(getattr(row, name) == getattr(record, name) for name in Result.model_fields)
        with pytest.raises(AttributeError):
            row.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_more_rows_than_one_group(tmp_path: Path) -> None:
    results = [make_result("membership", f"a{i}", "d", 0, log=f"log {i}") for i in range(2 * GROUP + 10)]
    path = tmp_path / "t.parquet"
    written(results, path)
    table = Table.read(path)
    assert table is not None
    table.add("mlflow", [make_result("membership", "late", "d", 0, log="late")])
    table.keep("mlflow", np.array([i % 3 != 0 for i in range(len(results) + 1)]))
    expected = [r.log for i, r in enumerate([*results, results[0].model_copy(update={"log": "late"})]) if i % 3]
    before = table.rows
    assert [r.log for r in before] == expected
    table.write(path)
    again = Table.read(path)
    assert again is not None
    assert [r.log for r in table.rows] == [r.log for r in again.rows] == [r.log for r in before] == expected
    table.add("mlflow", [], replace=True)
    assert len(table.rows) == 0, "what is no longer published is no longer here"


def test_what_no_table_can_hold_is_left_out() -> None:
    table = Table(Notes("toy-v1", "x"))
    assert (
        table.add("mlflow", [make_result("membership", "a", "d", 2**80), make_result("membership", "b", "d", 1)]) == 1
    )
    assert [r.attack for r in table.rows] == ["b"]


WRITER = """
import sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[2])
from leaderboard.cache import Notes, Table
from tests.leaderboard.conftest import make_board
table = Table.read(Path(sys.argv[1])) or Table(Notes("toy-v1", "x"))
print("ready", flush=True)
while True:
    table.add("mlflow", make_board()[0][:50])
    table.write(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_write_changes_nothing(tmp_path: Path) -> None:
    path, root, before = tmp_path / "t.parquet", str(Path(__file__).parents[2]), 0
    for pause in (0.0, 0.01, 0.05, 0.11, 0.23):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path, root], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(pause)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        table = Table.read(path)  # raises ValueError where it is not whole
        rows = len(table.rows) if table else 0
        assert rows >= before and rows % 50 == 0
        assert not table or [r.attack for r in table.rows][-1] == make_board()[0][49].attack
        before = rows
    assert before, "some write came to its end"
    left = tmp_path / ".t.parquet.left"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    written(make_board()[0], path)
    assert not left.exists(), "what kills have left is removed in time"


def test_damage_is_told_from_data(made_up: MadeUp, tmp_path: Path) -> None:
    """Cut anywhere, or any byte changed: the same rows, or one line."""
    path = tmp_path / "t.parquet"
    whole = [r.to_json() for r in written(made_up[0][:40], path)]
    content, random = path.read_bytes(), np.random.default_rng(0)
    damages = [content[:n] for n in (0, 1, 4, 11, len(content) // 2, len(content) - 9, len(content) - 1)]
    for at in random.integers(0, len(content), 300):
        damages.append(content[:at] + bytes([content[at] ^ random.integers(1, 256)]) + content[at + 1 :])
    told = []
    for damaged in damages:
        path.write_bytes(damaged)
        try:
            table = Table.read(path)
        except (ValueError, FileExistsError) as error:
            told.append(str(error))
        else:
            assert table is None or [r.to_json() for r in table.rows] == whole
    assert len(told) > 200
    assert all(str(path) in line and "\n" not in line and len(line) < 400 for line in told)


def test_a_damaged_table_is_made_anew(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results[:100], board, tmp_path / "toy-v1")
    path = tmp_path / "tables" / "t.parquet"

    def opened(fetch: Callable[..., list[Result]] = lambda *_: results[100:110]) -> tables.Source:
        return tables.Source("toy-v1", tmp_path, fetch, path=path, every=60)

    opened().refresh()
    path.write_bytes(path.read_bytes()[:-100])
    source = opened()
    assert source.refresh() and len(source.results) == 110
    assert source.message.startswith(f"{path} was damaged or half written (") and source.message.endswith("made anew")

    def nobody(*_: object) -> list[Result]:
        raise AssertionError("MLflow was asked for what the file holds")

    again = opened(nobody)
    assert len(again.results) == 110, "before anything is asked"
    assert not again.refresh() and again.message == ""
    assert sorted(r.key for r in again.results) == sorted(r.key for r in source.results)


def test_columns_and_records_are_of_one_file_whoever_replaces_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, other = tmp_path / "t.parquet", tmp_path / "other.parquet"
    for name, to in (("first", path), ("second", other)):
        written([make_result("membership", name, "d", 0)], to)
    real = pq.ParquetFile

    def replaced(*arguments: Any, **settings: Any) -> pq.ParquetFile:
        found = real(*arguments, **settings)
        if other.exists():
            other.rename(path)  # another process writes as soon as this one has opened the file
        return found

    monkeypatch.setattr("leaderboard.cache.pq.ParquetFile", replaced)
    table = Table.read(path)
    assert table is not None and not other.exists()
    assert [(r.attack, r.model_copy().attack) for r in table.rows] == [("first", "first")]

    monkeypatch.undo()
    written([make_result("membership", "fourth", "d", 0)], other)
    table.add("mlflow", [make_result("membership", "more", "d", 0)], replace=True)
    moved = os.replace

    def overtaken(source: str, target: Path) -> None:
        moved(source, target)
        moved(other, target)  # another process writes as soon as this one has

    monkeypatch.setattr("leaderboard.cache.os.replace", overtaken)
    table.write(path)
    assert [(r.attack, r.model_copy().attack) for r in table.rows] == [("more", "more")]


def test_files_of_others_are_left_alone(made_up: MadeUp, tmp_path: Path) -> None:
    publish(*made_up, tmp_path / "toy-v1")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"theirs": [1, 2]}), path)
    content = path.read_bytes()
    source = tables.Source("toy-v1", tmp_path, lambda *_: [], path=path)
    assert source.refresh() and len(source.results) == len(made_up[0])
    assert "none of leakboard's: it is left alone" in source.message
    assert path.read_bytes() == content
    folder = tmp_path / "folder.parquet"
    folder.mkdir()
    source = tables.Source("toy-v1", tmp_path, lambda *_: [], path=folder)
    assert source.refresh() and len(source.results) == len(made_up[0])
    assert source.message.startswith(str(folder)) and folder.is_dir()
    assert not list(tmp_path.glob(".*")), "nothing is left of the attempt"


def test_a_table_is_of_one_protocol_one_mlflow_and_one_program(
    made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"

    def rows(protocol: str = "toy-v1", tracking: str = "x") -> int:
        return len(tables.Source(protocol, tmp_path, lambda *_: [], path=path, tracking=tracking).results)

    written(made_up[0], path)
    assert rows() == len(made_up[0])
    assert rows(protocol="other-v1") == rows(tracking="y") == 0
    monkeypatch.setattr("leaderboard.cache._FORMAT", "another")
    assert rows() == 0


def test_where_tables_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LEAKBOARD_TABLES", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    first = tables.table_path("toy-v1")
    assert first.parent == tmp_path / "tables" and first.name.startswith("toy-v1-")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@server:5000")
    second = tables.table_path("toy-v1")
    assert second.parent == places.mlruns() / "tables" and second.name != first.name and "secret" not in str(second)
    monkeypatch.setenv("LEAKBOARD_TABLES", str(tmp_path))
    assert tables.table_path("toy-v1").parent == tmp_path
