"""What is published can be read back, recomputed, and not be tampered with unnoticed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from benchmark.result import Result
from leaderboard.publish import all_attacks, load, provenance, publish
from leaderboard.ranking import Board, defense_table, scenarios

MadeUp = tuple[list[Result], Board]


def test_tables_recomputed_from_the_scenarios_equal_the_csvs(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    frame = scenarios(load(tmp_path))
    for name, table in (("defenses.csv", defense_table(frame, board)), ("attacks.csv", all_attacks(frame, board))):
        assert table.to_csv(index=False) == (tmp_path / name).read_text()
        assert len(pd.read_csv(tmp_path / name)) == len(table) > 5


def test_results_come_back_to_six_digits(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    loaded = {r.key: r for r in load(tmp_path)}
    assert loaded == {r.key: Result.from_json(r.to_json()) for r in results}


def test_provenance_counts(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    found = json.loads((tmp_path / "provenance.json").read_text())
    assert found["results"] == len(results)
    assert found["seeds"] == [0, 1, 2]
    assert found["statuses"]["skipped"] == 6
    assert found["protocol"] == "toy-v1"
    assert found["protocol_digest"] == "d1"
    assert found["seen"]["device"] == ["cpu"]
    assert "run_id" not in found["seen"]
    assert Board(**{k: tuple(v) if isinstance(v, list) else v for k, v in found["board"].items()}) == board


@pytest.mark.parametrize("damage", ["half", "byte", "other", "text", "alone"])
def test_a_damaged_file_is_one_line(made_up: MadeUp, tmp_path: Path, damage: str) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    path = tmp_path / "scenarios.parquet"
    data = path.read_bytes()
    changed = bytes([data[len(data) // 2] ^ 1])
    if damage == "alone":
        (tmp_path / "provenance.json").unlink()
    elif damage == "other":
        pd.read_parquet(path).assign(metrics='{"auc":0.5}').to_parquet(path)
    else:
        path.write_bytes(
            {
                "half": data[:1000],
                "byte": data[: len(data) // 2] + changed + data[len(data) // 2 + 1 :],
                "text": b"no Parquet",
            }[damage]
        )
    with pytest.raises(ValueError, match=r"scenarios\.parquet") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_matching_digest_does_not_make_records_of_anything(tmp_path: Path) -> None:
    import hashlib

    pd.DataFrame({"key": ["x"]}).to_parquet(tmp_path / "scenarios.parquet")
    digest = hashlib.sha256((tmp_path / "scenarios.parquet").read_bytes()).hexdigest()
    (tmp_path / "provenance.json").write_text(json.dumps({"sha256": digest}))
    with pytest.raises(ValueError, match="holds no results") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        publish(results[:50], board, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_nothing_and_mixtures_are_not_published(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    with pytest.raises(ValueError, match="no results"):
        publish([], board, tmp_path)
    with pytest.raises(ValueError, match="versions"):
        publish([*results, results[0].model_copy(update={"protocol_digest": "d2"})], board, tmp_path)
    assert load(tmp_path) == []
    assert provenance(tmp_path) == {}
