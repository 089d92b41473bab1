"""Members of a family beside each other, and on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.result import Result
from leaderboard.families import beside, siblings
from leaderboard.publish import publish
from leaderboard.ranking import Board, defense_table
from tests.leaderboard.conftest import app_page, texts

Toy = tuple[list[Result], Board]


def test_siblings_are_of_one_family() -> None:
    names = ["a", "a.x", "a.y", "b.x", "a.b.x", "ab.x"]
    assert siblings("a.x", names) == ["a.x", "a.y"]
    assert siblings("a", names) == [] == siblings("c", [])
    assert siblings("b.x", names) == ["b.x"]


def test_a_mean_is_over_all_members_or_there_is_none() -> None:
    tables = {
        "f.one": pd.DataFrame({"defense": ["a", "b", "c"], "worst": [0.6, 0.5, 0.9], "reason": ["", "", "incomplete"]}),
        "f.two": pd.DataFrame({"defense": ["b", "a", "d"], "worst": [0.7, 0.8, 0.1], "reason": ["", "", ""]}),
    }
    found = beside(tables, "defense", "worst").set_index("defense")
    assert list(found.columns) == ["mean", "ranked", "one", "two"]
    assert found["mean"].to_dict() == pytest.approx({"b": 0.6, "a": 0.7, "d": np.nan}, nan_ok=True)
    assert list(found.index) == ["b", "a", "d"], "smallest means first, and what has none last"
    assert list(beside(tables, "defense", "worst", largest_first=True).defense) == ["a", "b", "d"]
    assert found.ranked.to_dict() == {"a": 2, "b": 2, "d": 1}
    assert found.loc["b"].to_dict() == {"mean": 0.6, "ranked": 2, "one": 0.5, "two": 0.7}


def test_without_members_there_is_no_row() -> None:
    assert beside({}, "defense", "worst").empty
    alone = pd.DataFrame({"defense": ["a"], "worst": [0.5], "reason": ["missing"]})
    assert beside({"f.one": alone}, "defense", "worst").empty


@pytest.mark.parametrize(("show", "entry"), [("defenses", "defense"), ("attacks", "attack")])
def test_the_page_shows_the_family_when_asked(folder: Path, made_up: Toy, show: str, entry: str) -> None:
    results, board = made_up
    for name in ("toys.small", "toys.large"):
        rows = [r.model_copy(update={"protocol": name, "key": f"{name} {r.key}"}) for r in results]
        publish(rows, board, folder / name)
    app = app_page("board", show, protocol="toys.small").run()
    assert not app.exception and "The family toys" in [s.value for s in app.subheader]
    before = len(app.dataframe)
    app.toggle(key="family").set_value(True).run()
    assert not app.exception
    assert len(app.dataframe) == before + 1
    table = app.dataframe[-1].value.set_index(entry)
    assert list(table.columns) == ["mean", "ranked", "large", "small"]
    assert (
        (table.ranked == 2).all() and np.allclose(table["mean"], table.small) and np.allclose(table.large, table.small)
    )
    assert table["mean"].is_monotonic_increasing if entry == "defense" else table["mean"].is_monotonic_decreasing
    assert "random" not in table.index, "null rows stand apart"
    if entry == "defense":
        ranked = defense_table(results, board)
        expected = ranked[ranked.reason == ""].set_index("defense")[f"worst_{ranked.attrs['metric']}"]
        assert table["mean"].to_dict() == pytest.approx(expected.to_dict(), abs=1e-6)
    assert "each of the 2 members that have results" in texts(app)


def test_a_protocol_alone_has_no_family(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("board", "defenses").run()
    assert not app.exception and not any("family" in s.value for s in app.subheader)
