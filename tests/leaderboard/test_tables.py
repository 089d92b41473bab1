"""Published results and later ones become one list; the terminal shows it in 110 columns."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.result import Result
from leaderboard import tables
from leaderboard.publish import publish
from leaderboard.ranking import Board
from leaderboard.terminal import print_tables

MadeUp = tuple[list[Result], Board]


def test_newest_of_a_scenario_wins_within_its_version(result: Callable[..., Result]) -> None:
    old = result("membership", "a", "p", 0, finished=1.0, metrics={"auc": 0.6})
    new = old.model_copy(update={"finished": 2.0, "status": "failed"})
    other = old.model_copy(update={"protocol_digest": "d2", "finished": 3.0})
    official = old.model_copy(update={"trust": "official", "finished": 0.5})
    assert set(map(id, tables.newest([new, other, old, official]))) == {id(new), id(other), id(official)}
    assert list(tables.editions([old, other, official])) == [
        "public split, version d2",
        "public split, version d1",
        "official split, version d1",
    ]


def test_a_source_reads_once_and_then_asks_for_what_is_new(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results[:100], board, tmp_path / "toy-v1")
    asked: list[int | None] = []

    def fetch(protocol: str, since: int | None) -> list[Result]:
        asked.append(since)
        return results[100:110] if len(asked) > 1 else []

    source = tables.Source("toy-v1", tmp_path, fetch)
    assert source.refresh()
    assert len(source.results) == 100
    assert source.refresh()
    assert len(source.results) == 110
    assert not source.refresh()
    assert len(source.results) == 110
    assert asked[0] == int((max(r.finished for r in results[:100]) - tables.OVERLAP_SECONDS) * 1000)
    publish(results[:120], board, tmp_path / "toy-v1")
    assert source.refresh()
    assert len(source.results) == 120


def test_an_empty_source_asks_for_everything(tmp_path: Path) -> None:
    asked: list[int | None] = []
    source = tables.Source("toy-v1", tmp_path, lambda protocol, since: asked.append(since) or [])  # type: ignore[func-returns-value]
    assert not source.refresh()
    assert asked == [None]
    assert source.message == ""


def test_an_unreachable_server_and_a_damaged_file_are_messages(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up

    def fetch(*_: object) -> list[Result]:
        raise ConnectionError("MLflow at x did not answer\nat all")

    publish(results, board, tmp_path / "toy-v1")
    source = tables.Source("toy-v1", tmp_path, fetch)
    assert source.refresh()
    assert len(source.results) == len(results)
    assert source.message == "MLflow at x did not answer"
    (tmp_path / "toy-v1" / "scenarios.parquet").write_bytes(b"half")
    damaged = tables.Source("toy-v1", tmp_path, lambda *_: [])
    assert not damaged.refresh()
    assert "publish again" in damaged.message


def test_board_settings_come_from_what_was_published(
    made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKBOARD_PUBLISHED", str(tmp_path))
    with pytest.raises(ValueError, match="toy-v1"):
        tables.board_of("toy-v1")
    publish(made_up[0], made_up[1], tmp_path / "toy-v1")
    assert tables.board_of("toy-v1") == made_up[1]
    assert tables.protocols()[0] == "toy-v1"


def test_the_terminal_fits_and_tells_all(made_up: MadeUp) -> None:
    results, board = made_up
    hostile = [r.model_copy(update={"defense": "[red]x[/red]"}) for r in results if r.defense == "selena"]
    out = io.StringIO()
    print_tables([*results, *hostile], board, Console(file=out, width=120, color_system=None))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 110
    for expected in (
        "selena+diffence[n=10]",
        "[red]x[/red]",
        "6–7",
        "hamp: lira missing (seed 2)",
        "below the utility floor",
        "posterior/shadow",
        "attribute_mlp",
    ):
        assert expected in text
