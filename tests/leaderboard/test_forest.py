"""The forest plot: its marks lie where the table's numbers are, its sentences say no more than the table, texts stay texts."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark.api import Card
from benchmark.result import Result
from leaderboard.forest import Paper, address, axis, caption, forest, forest_of_kind, leader, papers
from leaderboard.kinds import bypassed, kind_table
from leaderboard.ranking import AUC, TPR, Board, defense_table, rank_interval
from leaderboard.texts import short_names
from tests.leaderboard.conftest import EVIL, OF_KINDS, hostile, make_board, make_kinds

Toy = tuple[list[Result], Board]
WORST = f"worst_{AUC}"


def table(*values: float, metric: str = AUC, **columns: Any) -> pd.DataFrame:
    """A ranked table of defenses a, b, ... with these worst cases, each clearly better than all that follow."""
    n, worst = len(values), f"worst_{metric}"
    frame = pd.DataFrame({
        "rank": range(1, n + 1), "rank_low": range(1, n + 1), "rank_high": range(1, n + 1),
        "better_than": range(n - 1, -1, -1), "worse_than": range(n), "defense": list("abcdefghijklmnopqrst")[:n],
        "reason": "", worst: values, f"{worst}_low": np.array(values) - 0.01, f"{worst}_high": np.array(values) + 0.01,
        f"{worst}_null_95": 0.52, f"{worst}_attack": "lira", f"{worst}_track": "posterior/none", "at_chance": False,
        "test_accuracy": 0.8, **{f"best_known_{metric}{end}": np.nan for end in ("", "_excess_low")},
        f"best_known_{metric}_attack": "",
    }).assign(**columns)  # fmt: skip
    frame.attrs = {"metric": metric, "pool": ["lira"]}
    return frame


def rows(html: str) -> list[str]:
    return re.findall(r'<li class="lb-row.*?</li>', html, re.DOTALL)


def place(row: str, name: str, what: str = "left") -> float:
    """Where a mark of a row lies, or how wide it is, in percent of the plot; NaN without the mark."""
    found = re.search(rf'class="lb-{name}" style="[^"]*{what}:([\d.]+)%', row)
    return float(found[1]) if found else float("nan")


def ends(html: str) -> tuple[float, float]:
    """The axis as its ticks say it."""
    ticks = [(float(at), float(value)) for at, value in re.findall(r'lb-tick" style="left:([\d.]+)%">([\d.]+)<', html)]
    assert ticks[0][0] == 0 and ticks[-1][0] == 100
    return ticks[0][1], ticks[-1][1]


@pytest.mark.parametrize("metric", [AUC, TPR])
def test_marks_lie_where_the_numbers_are(made_up: Toy, metric: str) -> None:
    results, board = made_up
    found = defense_table(results, Board(**(vars(board) | {"rank_by": (metric,)})))
    html = forest(found, board.baseline)
    low, high = ends(html)
    ranked = found[found.reason == ""]
    drawn = rows(html)
    assert len(drawn) == len(ranked) > 5
    worst, within = f"worst_{metric}", pytest.approx
    base = float(found.loc[found.defense == board.baseline, worst].iloc[0])

    def value(percent: float) -> float:
        return low + percent / 100 * (high - low)

    for (_, row), line in zip(ranked.iterrows(), drawn, strict=True):
        near = {"abs": 1e-5 * (high - low)}
        assert value(place(line, "dot")) == within(row[worst], **near)
        assert value(place(line, "bar")) == within(row[f"{worst}_low"], **near)
        width = place(line, "bar") + place(line, "bar", "width")
        assert value(width) == within(row[f"{worst}_high"], abs=2e-5 * (high - low))
        assert value(place(line, "null", "width")) == within(row[f"{worst}_null_95"], **near)
        assert value(place(line, "base")) == within(base, **near)
        assert f'title="{row.defense}"' in line and row[f"{worst}_attack"] in line.replace("<wbr>", "")
    names = [unescape(n.replace("<wbr>", "")) for n in re.findall(r'<b title="[^"]*">(.*?)</b>', html)]
    short = short_names(found.defense)
    assert names == [short[d] for d in ranked.defense], "in the order of the ranks"
    places = re.findall(r"rank </span>(.*?)</span>", html)
    assert places == list(rank_interval(ranked))
    assert [("lb-chance" in line) for line in drawn] == list(ranked.at_chance)


def test_as_many_decimals_as_the_intervals_support_and_no_print_for_two_ranks() -> None:
    apart, close = table(0.55, 0.60), table(0.551, 0.552)
    for found, prints in ((apart, ["0.55", "0.60"]), (close, ["0.551", "0.552"])):
        wide = found.assign(**{f"{WORST}_low": found[WORST] - 0.02, f"{WORST}_high": found[WORST] + 0.02})
        assert [re.search(r"</span><b>([\d.]+)</b>", r)[1] for r in rows(forest(wide, "a"))] == prints  # type: ignore[index]


def test_one_seed_has_no_interval_and_no_null_no_band() -> None:
    one = table(0.6, 0.7).assign(**{f"{WORST}{end}": np.nan for end in ("_low", "_high", "_null_95")})
    html = forest(one, "a")
    assert "lb-dot" in html.split("</style>")[1] and "(0." not in html
    assert not any('class="lb-bar"' in r or 'class="lb-null"' in r for r in rows(html))


def test_without_the_baseline_there_is_no_line() -> None:
    html = forest(table(0.6, 0.7), "undefended")
    assert 'class="lb-base"' not in html and "Dashed line" not in html


@pytest.mark.parametrize(
    ("values", "start"),
    [([0.51, 0.83], 0.5), ([0.44], 0.5), ([0.0], 0.0), ([0.012, 0.25], 0.0), ([float("nan")], 0.5), ([1.0], 0.5)],
)
def test_an_axis_has_round_ticks_and_holds_all(values: list[float], start: float) -> None:
    found = axis(values, start)
    ticks = found.ticks()
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= min([start, *values]) or np.isnan(values).any()
    assert ticks[-1] >= np.nanmax([*values, start])
    step = ticks[1] - ticks[0]
    assert re.fullmatch(r"[125]0*", f"{step * 1e6:.0f}"), step
    assert all(0 <= found.at(v) <= 100 for v in [start, *values] if not np.isnan(v))


# --- The sentence -----------------------------------------------------------------------------------


def test_a_clear_leader() -> None:
    assert leader(table(0.55, 0.6, 0.7)) == "a (worst-case AUC: 0.55) leads: clearly better than the 2 others."
    assert leader(table(0.55, 0.6)).endswith("clearly better than the other.")
    some = table(0.55, 0.6, 0.7, 0.8, better_than=[2, 1, 0, 0])
    assert (
        leader(some) == "a (worst-case AUC: 0.55) leads: clearly better than 2 of 3 others; 1 cannot be told from it."
    )


def test_ties() -> None:
    unclear = table(0.55, 0.6, 0.7, better_than=0, worse_than=0)
    assert leader(unclear).endswith("has the smallest value, but cannot be told from any of the 2 others.")
    equal = table(0.55, 0.55, 0.7, rank=[1, 1, 3])
    assert leader(equal) == "a and b lead with the same value (worst-case AUC: 0.55)."


def test_chance() -> None:
    some = table(0.5, 0.51, 0.6, 0.7, at_chance=[True, True, False, False], better_than=[2, 2, 1, 0])
    assert leader(some, "d") == (
        "2 of 4 defenses leak no more than chance to the required attacks (a and b); there is no order among them. "
        "Of the rest c leaks least (worst-case AUC: 0.60): clearly better than 1 of 3 others, clearly worse than 2."
    )
    every = leader(table(*[0.5] * 8, at_chance=True), "b")
    assert every.startswith(
        "All 8 defenses leak no more than chance to the required attacks (a, b, c, d, e, f and 2 more)"
    )
    assert every.endswith("b is among them: these attacks find nothing to defend against.")
    assert leader(table(0.5, 0.6, at_chance=[True, False])).startswith(
        "Of 2 defenses a alone leaks no more than chance"
    )
    alone = "a is the only defense that is ranked, and leaks no more than chance to the required attacks"
    assert leader(table(0.5, at_chance=True)) == f"{alone}."
    assert leader(table(0.5, at_chance=True), "a") == f"{alone}: these attacks find nothing to defend against."


def test_few_and_none() -> None:
    assert leader(table(0.6)) == "a (worst-case AUC: 0.60) is the only defense that is ranked."
    nothing = table(0.6, reason="it lacks loss")
    assert leader(nothing) == "No defense is ranked yet."
    assert "No defense is ranked yet." in forest(nothing, "a") and "lb-row" not in forest(nothing, "a")


# --- Texts ------------------------------------------------------------------------------------------


def test_remarks_stand_beside_the_name() -> None:
    html = forest(table(0.6, 0.7, tuned=["30 trials", ""], attacked_by=["", "label-only <HAMP>"]), "b")
    first, second = rows(html)
    assert '<small title="30 trials">tuned</small>' in first and "tuned" not in second
    assert '<small title="label-only &lt;HAMP&gt;">standard attacks only</small>' in second


def test_best_known_stands_beside_the_row() -> None:
    known = table(0.6, 0.7).assign(best_known_auc=[0.66, np.nan], best_known_auc_attack=["rmia", ""])
    assert "best known 0.660 by rmia" in rows(forest(known, "b"))[0] and "best known" not in rows(forest(known, "b"))[1]


def test_settings_of_a_defense_open_below_its_row() -> None:
    html = forest(table(0.6, 0.62, 0.7, defense=["a[n=2]", "a", "b"]), "b")
    assert re.findall(r'<b title="([^"]*)">', html) == ["a", "a[n=2]", "b"], "the default has the row"
    assert re.findall(r"<summary>([^<]*)</summary>", html) == ["1 more setting of a"]
    inside = html[html.index("<details>") : html.index("</details>")]
    assert 'title="a[n=2]"' in inside and 'title="b"' not in inside
    required = forest(table(0.6, 0.62, 0.7, defense=["a[n=2]", "a", "b"]), "b", {}, ["a[n=2]"])
    assert re.findall(r'<b title="([^"]*)">', required) == ["a[n=2]", "a", "b"]


def test_foreign_text_is_escaped() -> None:
    results, board = make_board()
    found = defense_table(hostile(results), board)
    attacked = {f"worst_{m}_{what}": EVIL for m in (AUC, TPR) for what in ("attack", "track")}
    evil = found.assign(tuned=EVIL, attacked_by=EVIL, alone=EVIL, **attacked)
    evil.loc[0, "defense"] = EVIL
    html = forest(evil, EVIL, {"selena": Paper(EVIL, "https://arxiv.org/abs/1")})
    assert "Paper of selena" in html
    tags = set(re.findall(r"<\s*([a-z]+)", html, re.IGNORECASE))
    assert tags <= {
        "style",
        "section",
        "div",
        "span",
        "ol",
        "li",
        "i",
        "b",
        "small",
        "p",
        "a",
        "wbr",
        "details",
        "summary",
    }
    for tag in re.findall(r"<[a-z][^>]*>", html):
        outside = re.sub(r'"[^"]*"', "", tag)  # in quotes it is text, and no quote of its own ends it
        assert "onerror" not in outside and "evil" not in outside
    assert all(a.startswith("https://arxiv.org/") for a in re.findall(r'href="([^"]*)"', html))
    assert "<script" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("TRADES, ICML 2019, arXiv:1901.08573", "https://arxiv.org/abs/1901.08573"),
        ("in a journal, doi:10.1145/3243734.3243855", "https://doi.org/10.1145/3243734.3243855"),
        ("in a journal, DOI:10.1145/3243734.3243855.", "https://doi.org/10.1145/3243734.3243855"),
        ("https://evil.example/arXiv:", ""),
        ("arXiv:1901.08573.evil.example", ""),
        ("NDSS 2024", ""),
        ("doi:10.1145/<script>", ""),
    ],
)
def test_an_address_is_an_arxiv_id_or_a_doi(reference: str, found: str) -> None:
    assert address(reference) == found


def test_papers_of_defenses_are_linked_for_each_part_of_a_cascade() -> None:
    class Entry:
        def __init__(self, id: str, kind: str, reference: str) -> None:
            self.id, self.kind, self.card = id, kind, Card("T", ("A",), reference, 2020) if reference else None

    known = papers([Entry("a", "defense", "arXiv:1901.08573"), Entry("b", "defense", "NDSS 2024"),
                    Entry("c", "defense", ""), Entry("d", "attack", "arXiv:1901.08574")])  # fmt: skip
    assert known == {
        "a": Paper("arXiv:1901.08573", "https://arxiv.org/abs/1901.08573"), "b": Paper("NDSS 2024", "")
    }  # fmt: skip
    html = forest(table(0.6, 0.7, defense=["b+a[n=10]", "b"]), "b", known)
    assert [row.count("<a href") for row in rows(html)] == [1, 0]


def test_the_caption_names_the_line() -> None:
    assert "Dashed line: b." in caption(table(0.6, 0.7), "b")


def test_same_table_same_bytes(made_up: Toy) -> None:
    results, board = made_up
    first, second = (forest(defense_table(r, board), board.baseline) for r in (results, results[::-1]))
    assert first == second


# --- Other kinds of attack --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OF_KINDS)
def test_the_marks_of_a_kind_lie_where_its_numbers_are(kind: str) -> None:
    results, board = make_kinds()
    table, whole = kind_table(results, board), defense_table(results, board)
    html = forest_of_kind(table, kind, whole, board.baseline)
    low, high = ends(html)
    mine = table[(table.kind == kind) & table.defense.isin(whole.defense[whole.reason == ""])].set_index("defense")
    names = [unescape(name) for name in re.findall(r'<b title="([^"]*)">', html)]
    assert sorted(names) == sorted(mine.index)
    found = mine.loc[names]
    there = found.excess.notna()
    assert list(there) == sorted(there, reverse=True) and found.excess[there].is_monotonic_increasing, "the least first"
    base = float(mine["value"][board.baseline])
    for line, (_, row) in zip(rows(html), found.iterrows(), strict=True):
        for mark, what, value in (
            ("dot", "left", row["value"]), ("bar", "left", row.value_low), ("null", "width", row.null), ("base", "left", base)
        ):  # fmt: skip
            at = place(line, mark, what)
            assert np.isnan(at) == np.isnan(value), mark
            assert np.isnan(value) or low + at / 100 * (high - low) == pytest.approx(value, abs=2e-5 * (high - low))
        assert ("lb-chance" in line) == (not row.excess_low > 0)
        said = re.sub("<[^>]*>", "", line)
        assert (f"excess {100 * row.excess:z.0f} %" if row.reason == "" else "bypasses guards") in said


def test_the_sentence_on_a_kind_counts_and_names() -> None:
    results, board = make_kinds()
    table, whole = kind_table(results, board), defense_table(results, board)
    html = unescape(re.sub("<[^>]*>", "", forest_of_kind(table, "stealing", whole, board.baseline)))
    mine = table[(table.kind == "stealing") & table.defense.isin(whole.defense[whole.reason == ""])]
    above = mine[mine.excess_low > 0]
    last = above.sort_values("excess").iloc[-1]
    assert f"clearly further than its null row on {len(above)} of {len(mine)} ranked defenses" in html
    assert f"furthest on {short_names(whole.defense)[last.defense]}: {100 * last.excess:.0f} %" in html
    assert "Clearly more than undefended: " in html and "without an excess" not in html
    guarded = forest_of_kind(table, "inversion", whole, board.baseline)
    assert "2 without an excess stand at the foot." in guarded


def test_a_kind_that_nobody_can_measure_says_why() -> None:
    results, board = make_kinds()
    perfect = [r.model_copy(update={"metrics": {"agreement": 1.0}}) if r.task == "stealing" else r for r in results]
    html = forest_of_kind(kind_table(perfect, board), "stealing", defense_table(perfect, board), board.baseline)
    assert "none has an excess of stealing: the null row alone has 1.000: it leaves nothing to find." in html
    none = defense_table(perfect, board).assign(reason="no")
    assert "No defense is ranked yet." in forest_of_kind(kind_table(perfect, board), "stealing", none, board.baseline)


def test_a_falling_metric_s_null_reaches_to_the_right() -> None:
    results, board = make_kinds()
    table, whole = kind_table(results, board), defense_table(results, board)
    html = forest_of_kind(table.assign(metric="mse_to_class_mean"), "stealing", whole, board.baseline)
    for line in rows(html):
        assert place(line, "null") + place(line, "null", "width") == pytest.approx(100, abs=0.01)
    assert "Further right leaks less" in html


def test_a_guard_that_white_box_attacks_bypass_says_so() -> None:
    results, board = make_kinds()
    table, whole = kind_table(results, board), defense_table(results, board)
    html = forest(whole.assign(bypassed=whole.defense.map(bypassed(table)).fillna("")), board.baseline)
    marked = [line for line in rows(html) if "white-box bypasses guards" in line]
    assert len(marked) == 2 and all('title="invert, attribute_mlp"' in line and "+<wbr>" in line for line in marked)
