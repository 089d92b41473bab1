"""Published results and later ones become one list; the terminal shows it in 110 columns."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmark import protocol as definitions
from benchmark.result import Result, Trust
from leaderboard import tables
from leaderboard.kinds import kind_table
from leaderboard.publish import edition_folder, load, mark, publish
from leaderboard.ranking import Board, defense_table
from leaderboard.records import Records
from leakboard.tables import print_tables
from tests.leaderboard.conftest import EVIL, hostile, make_board, make_kinds

MadeUp = tuple[list[Result], Board]


def test_newest_of_a_scenario_wins_within_its_version(result: Callable[..., Result]) -> None:
    old = result("membership", "a", "p", 0, finished=1.0, metrics={"auc": 0.6})
    new = old.model_copy(update={"finished": 2.0, "status": "failed"})
    other = old.model_copy(update={"protocol_digest": "d2", "finished": 3.0})
    official = old.model_copy(update={"trust": "official", "finished": 0.5})
    assert list(tables.newest(Records.of([new, other, old, official]))) == [new, other, official]
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
    # What is published says nothing of what MLflow holds: a board newer than one's own runs must not hide them.
    assert asked[:2] == [None, None]
    assert asked[2] == pytest.approx((time.time() - tables.OVERLAP_SECONDS) * 1000, abs=60_000)
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
    assert max(map(len, text.splitlines())) <= 120
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


def printed(results: list[Result], board: Board, **how: object) -> str:
    out = io.StringIO()
    print_tables(results, board, Console(file=out, width=110, **how))  # type: ignore[arg-type]
    return out.getvalue()


def test_the_terminal_obeys_no_record(made_up: MadeUp) -> None:
    results, board = made_up
    text = printed(hostile(results), board, force_terminal=True, color_system="standard")
    written = "".join(text.split())
    assert EVIL.replace("\x1b", r"\x1b").replace("\x07", r"\x07").replace(" ", "")[:60] in written
    assert r"[2J" in text and ":bomb:" in text and "[link=http://evil.example]" in text
    assert set(re.findall(r"\x1b\S*?[a-zA-Z\x07]", text)) == {
        "\x1b[1m",
        "\x1b[1;36m",
        "\x1b[2m",
        "\x1b[3m",
        "\x1b[0m",
    }, "its own styles"
    assert not set(text) & set(map(chr, [*range(10), *range(11, 27), *range(28, 32), *range(127, 160)]))
    assert len(text) < 200_000, "from records of several megabytes"


def test_the_terminal_prints_the_end_of_a_failures_log(made_up: MadeUp) -> None:
    results, board = made_up
    log = "\n".join(f"line {i}" for i in range(100)) + "\nTypeError: expected a Tensor"
    results = [
        r.model_copy(update={"status": "failed", "log": log}) if (r.attack, r.defense, r.seed) == ("loss", "selena", 1) else r
        for r in results
    ]  # fmt: skip
    text = printed(results, board)
    assert "log of loss on selena, seed 1 (failed):" in text
    assert "| TypeError: expected a Tensor" in text
    assert "| line 99" in text and "| line 50" not in text


def test_the_terminal_tells_how_far_entries_can_be_trusted(made_up: MadeUp) -> None:
    results, board = made_up
    assert "self-reported: all entries" in printed(results, board)
    alone = [r.model_copy(update={"isolation": "trusted" if r.defense == "selena" else "bubblewrap"}) for r in results]
    text = " ".join(printed(alone, board).split())
    assert "self-reported; not isolated (--trust): selena " in text
    assert "self-reported; isolated by bubblewrap: " in text


def test_a_mark_outlives_another_scoring_with_the_same_numbers(result: Callable[..., Result]) -> None:
    marked = result("membership", "a", "p", 0, finished=1.0, trust="reproduced", metrics={"auc": 0.6})
    local = marked.model_copy(update={"finished": 2.0, "trust": "self-reported"})
    changed = local.model_copy(update={"metrics": {"auc": 0.7}})
    edited = local.model_copy(update={"key": "other code"})

    def newest(*results: Result, least: Trust = "self-reported") -> list[Result]:
        return list(tables.newest(Records.of(results), least))

    assert newest(local, marked) == newest(marked, local) == [marked]
    assert newest(changed, marked) == [changed]
    assert newest(edited, marked) == [edited]
    assert newest(edited, marked, least="reproduced") == [marked], "a public board prefers what it may rank"


def test_public_boards_are_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, least in (("1", "reproduced"), ("0", "self-reported"), ("", "self-reported")):
        monkeypatch.setenv("LEAKBOARD_PUBLIC", value)
        assert tables.least_trust() == least
    monkeypatch.delenv("LEAKBOARD_PUBLIC")
    assert tables.least_trust() == "self-reported"


def test_a_visitor_who_asks_for_more_trust_is_shown_what_has_it(
    made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody scored a reproduced entry again, with other code: it is ranked by that, or by what was reproduced."""
    monkeypatch.delenv("LEAKBOARD_PUBLIC", raising=False)
    results, board = made_up
    publish([r.model_copy(update={"trust": "reproduced"}) for r in results], board, tmp_path / "toy-v1")
    newer = [
        r.model_copy(update={"key": f"n{r.key}", "finished": r.finished + 9}) for r in results if r.defense == "hamp"
    ]
    source = tables.Source("toy-v1", tmp_path, lambda *_: newer)
    source.refresh()
    trust = {
        level: {r.trust for r in source.at(level) if r.defense == "hamp"} for level in ("self-reported", "reproduced")
    }  # type: ignore[arg-type]
    assert trust == {"self-reported": {"self-reported"}, "reproduced": {"reproduced"}}
    assert source.at("self-reported") is source.results and source.at("reproduced") is source.at("reproduced")
    assert source.at("reproduced").version != source.results.version


def test_editions_of_one_protocol_are_read_apart(
    made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKBOARD_PUBLISHED", str(tmp_path))
    results, board = made_up
    official = [r.model_copy(update={"trust": "official", "protocol_digest": "s", "key": f"s{r.key}"}) for r in results]
    folder = tmp_path / "toy-v1"
    publish(official, board, edition_folder(official, folder))
    assert tables.protocols()[0] == "toy-v1"
    publish(results, board, edition_folder(results, folder))
    source = tables.Source("toy-v1", tmp_path, lambda *_: [])
    assert source.refresh()
    found = tables.editions(source.results)
    assert {name: {(r.trust, r.protocol_digest) for r in rows} for name, rows in found.items()} == {
        "public split, version d1": {("self-reported", "d1")},
        "official split, version s": {("official", "s")},
    }
    assert [len(rows) for rows in found.values()] == [len(results)] * 2
    for rows in found.values():
        assert len(defense_table(rows, board)) > 5
    (folder / "official" / "scenarios.parquet").write_bytes(b"half")
    damaged = tables.Source("toy-v1", tmp_path, lambda *_: [])
    damaged.refresh()
    assert len(damaged.results) == len(results), "one damaged edition leaves the other"
    assert "publish again" in damaged.message


def test_a_new_mark_is_news(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path / "toy-v1")
    source = tables.Source("toy-v1", tmp_path, lambda *_: [])
    source.refresh()
    own = {r.key: r.model_copy(update={"finished": 0.0}) for r in load(tmp_path / "toy-v1")}
    publish(mark(load(tmp_path / "toy-v1"), own).results, board, tmp_path / "toy-v1")
    assert source.refresh()
    assert {r.trust for r in source.results} == {"reproduced"}


def test_the_board_of_the_quickstart_opens_first(folder: Path, made_up: MadeUp) -> None:
    assert tables.protocols()[0] == definitions.QUICKSTART, "of what is defined"
    publish(*made_up, folder / "a-board")
    assert tables.protocols()[:2] == ["a-board", definitions.QUICKSTART], "what is published comes first"
    publish(*made_up, folder / definitions.QUICKSTART)
    assert tables.protocols()[:2] == [definitions.QUICKSTART, "a-board"]
    assert len(set(tables.protocols())) == len(tables.protocols()) > len(definitions.names())


def test_kinds_of_attack_are_printed_within_the_width() -> None:
    results, board = make_kinds()
    text = printed(results, board, color_system=None)
    assert max(map(len, text.splitlines())) <= 110
    part = text.split("Kinds of attack: the way from the null row to a perfect attack, in %")[1].split("Attacks: ")[0]
    table = kind_table(results, board).set_index(["defense", "kind"])
    line = next(line for line in part.splitlines() if line.startswith("selena "))
    row = table.loc["selena", "stealing"]
    half = 100 * max(row.excess - row.excess_low, row.excess_high - row.excess)
    assert line.rstrip().endswith(f" {100 * row.excess:.0f} ±{half:.0f}") and " stealing " in line
    guarded = next(line for line in part.splitlines() if line.startswith("undefended+memguard"))
    assert guarded.count("bypassed") == 2 and " (of 2) " in guarded
    assert "invert, attribute_mlp: bypasses guards, and so does not count for" in part


def test_a_board_of_one_kind_prints_no_table_of_kinds() -> None:
    assert "Kinds of attack" not in printed(*make_board())
