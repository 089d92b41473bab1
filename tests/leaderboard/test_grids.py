"""Matrices as HTML: what a cell says, its colours, and that foreign text stays text."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from leaderboard import grids
from leaderboard.kinds import ANY, BYPASSED, kind_table, kinds_of
from leaderboard.ranking import AUC, defense_table, pair_table
from leaderboard.texts import short_names
from tests.leaderboard.conftest import EVIL, make_board, make_kinds


def rows(html: str) -> dict[str, list[str]]:
    """The cells of each row, by the row's title."""
    found = re.findall(r'<tr><th scope="row" title="([^"]*)">.*?</th>(.*?)</tr>', html)
    return {title: re.findall(r"<td[^>]*>.*?</td>", cells) for title, cells in found}


def test_a_pair_s_cell_is_its_verdict() -> None:
    results, board = make_board()
    pairs, table = pair_table(results, board), defense_table(results, board)
    drawn = rows(grids.pairs(pairs, short_names(table.defense), AUC, len(pairs) // 2))
    ranked = table[table.reason == ""]
    assert list(drawn) == list(ranked.defense), "in the order of the ranks"
    for row in ranked.itertuples():
        marks = [re.sub("<[^>]*>", "", cell) for cell in drawn[row.defense]]
        assert sum(mark.startswith("+") for mark in marks) == row.better_than
        assert sum(mark.startswith("−") for mark in marks) == row.worse_than
        assert marks[list(drawn).index(row.defense)] == ""
    both = pairs[(pairs["first"] == "selena") & (pairs.second == "undefended")].iloc[0]
    cell = drawn["selena"][list(drawn).index("undefended")]
    assert f"selena leaks clearly less than undefended: {both.difference:+.3f}" in cell
    assert (">++<" in cell) == both.discovery


def test_a_matrix_s_cell_has_its_number_and_a_colour_on_which_it_can_be_read() -> None:
    cells = pd.DataFrame({
        "attack": "loss", "defense": ["a[n=1]", "b", "c"], "row": "loss", "column": ["a", "b", "c"], "group": "posterior/none",
        "value": [0.9, 0.1, np.nan], "text": ["0.90", "0.10", ""], "note": "3 of 3 scored", "link": "?attack=loss&defense=a",
        "opened": [True, False, False],
    })  # fmt: skip
    html = grids.scenarios(cells, "AUC", AUC, False)
    above, below, nothing = rows(html)["loss"]
    assert "#d98a00" in above and "#3a8fcf" in below and "background" not in nothing
    assert "lbg-framed" in above and "lbg-framed" not in below
    assert 'title="loss on a[n=1]: 0.900; 3 of 3 scored"' in above and "?attack=loss&amp;defense=a" in above
    assert html.count("posterior/none") == 1 and 'title="a[n=1]"' in html


def test_numbers_can_be_read_on_every_colour() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for base in (grids.BLUE, grids.ORANGE):
        for share in np.linspace(0, 1, 21):
            cell = grids._cell(grids.Cell("1", "", grids._mixed(base, float(share))))
            back, ink = re.findall(r"#[0-9a-f]{3,6}", cell)
            ink = "#" + "".join(c * 2 for c in ink[1:])
            light, dark = sorted((luminance(back), luminance(ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("kind", ["pairs", "scenarios"])
def test_foreign_text_is_escaped(kind: str) -> None:
    if kind == "pairs":
        pairs = pair_table(*make_board()).replace("selena", EVIL)
        html = grids.pairs(pairs, {name: name for name in pairs["first"]}, AUC, 1)
    else:
        texts = {c: [EVIL] for c in ("attack", "defense", "row", "column", "group", "text", "note", "link")}
        html = grids.scenarios(pd.DataFrame({**texts, "value": 0.5, "opened": False}), EVIL, AUC, False)
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    for tag in re.findall(r"<[a-z][^>]*>", html):
        assert "onerror" not in re.sub(r'"[^"]*"', "", tag)


def test_a_kind_s_cell_is_its_difference_to_the_baseline() -> None:
    """Its sign, its points and its colour; marked where the interval excludes 0; the baseline has its own excess."""
    results, board = make_kinds()
    table, whole = kind_table(results, board), defense_table(results, board)
    ranked = list(whole.defense[whole.reason == ""])
    drawn = rows(grids.kinds(table, short_names(whole.defense), ranked, board.baseline))
    assert list(drawn) == [board.baseline, *(d for d in ranked if d != board.baseline)]
    seen = set()
    for row in table[table.defense.isin(ranked)].itertuples():
        cell = drawn[row.defense][[*kinds_of(table), ANY].index(row.kind)]
        text = re.sub("<[^>]*>", "", cell)
        if row.reason:
            assert text == "»" and "background" not in cell and BYPASSED in cell
        elif row.defense == board.baseline:
            assert text == f"{100 * row.excess:.0f} %" and "background" not in cell
        else:
            sign = {"less": "▼", "more": "▲", "": "−" if row.difference < 0 else "+"}[row.verdict]
            points = f"{100 * abs(row.difference):.0f}"
            assert text == (f"{sign}{points}" if points != "0" or row.verdict else "0")
            if points != "0":
                red, _, blue = (int(c, 16) for c in re.findall("..", re.search("background:#(......)", cell)[1]))  # type: ignore[index]
                assert (blue > red) == (row.difference < 0), "blue leaks less"
        seen.add(text[0])
    assert seen >= {"»", "▼", "▲", "−"}


def test_no_foreign_text_is_markup_among_the_kinds() -> None:
    results, board = make_kinds()
    table, whole = kind_table(results, board), defense_table(results, board)
    table = table.assign(reason=table.reason.where(table.reason == "", EVIL), decided=EVIL)
    html = grids.kinds(table, dict.fromkeys(whole.defense, EVIL), list(whole.defense), board.baseline)
    assert "<img" not in html and "<script" not in html and "&lt;script&gt;" in html
