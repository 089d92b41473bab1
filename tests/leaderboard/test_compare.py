"""Paired differences of two entries: against the ranking and by hand; and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.result import Result
from leaderboard.pairs import differences, verdict, worst_by_seed
from leaderboard.publish import publish
from leaderboard.ranking import WORST, Board, defense_table, scenarios
from leaderboard.views.compare import facts, parts
from tests.leaderboard.conftest import EVIL, app_page, hostile, make_result

Toy = tuple[list[Result], Board]


def row(table: pd.DataFrame, metric: str, against: str) -> pd.Series:
    (found,) = [r for _, r in table.iterrows() if (r.metric, r.against) == (metric, against)]
    return found


def test_the_worst_case_is_the_rankings(made_up: Toy) -> None:
    results, board = made_up
    frame = scenarios(results)
    ranked = defense_table(frame, board)
    ok = frame[(frame.status == "ok") & (frame.task == "membership")]
    for name in ranked[ranked.reason == ""].defense:
        for metric in WORST:
            found = worst_by_seed(ok[ok.defense == name], metric, ranked.attrs["pool"], board.seeds)
            assert found.mean() == pytest.approx(ranked.set_index("defense")[f"worst_{metric}"][name], abs=1e-12)


def test_differences_are_paired_by_seed_and_attack(made_up: Toy) -> None:
    results, board = made_up
    frame = scenarios(results)
    pool = defense_table(frame, board).attrs["pool"]
    table = differences(frame, "defense", "undefended", "selena", board.seeds, pool)
    values = {(r.attack, r.defense, r.seed): r.metrics.get("auc") for r in results if r.task == "membership"}
    by_hand = [values["lira", "undefended", s] - values["lira", "selena", s] for s in board.seeds]  # type: ignore[operator]
    columns = frame.assign(**{c: frame[c].astype("category") for c in ("task", "attack", "defense", "status")})
    pd.testing.assert_frame_equal(differences(columns, "defense", "undefended", "selena", board.seeds, pool), table)
    found = row(table, "auc", "lira")
    assert found.difference == pytest.approx(np.mean(by_hand))
    interval = stats.t.interval(0.95, 2, np.mean(by_hand), stats.sem(by_hand))
    assert (found.low, found.high) == pytest.approx(interval, abs=1e-8)
    assert found.verdict == "first leaks more"
    over_pool = [np.mean([values[a, "undefended", s] - values[a, "selena", s] for a in pool]) for s in board.seeds]  # type: ignore[operator]
    assert row(table, "auc", f"mean of {len(pool)}").difference == pytest.approx(np.mean(over_pool))


def test_a_skipped_variant_counts_as_its_default() -> None:
    """As in the ranking (RULES 3, 12): the attack that holds p's guards decides against q, where there are none."""
    results = [make_result("membership", "a", d, s, metrics={"auc": 0.6}) for d in "pq" for s in range(3)]
    results += [make_result("membership", "a[guards=target]", "p", s, metrics={"auc": 0.75}) for s in range(3)]
    results += [make_result("membership", "a[guards=target]", "q", s, status="skipped") for s in range(3)]
    table = differences(scenarios(results), "defense", "p", "q", (0, 1, 2), ["a", "a[guards=target]"])
    assert row(table, "auc", "worst case of 2").difference == pytest.approx(0.15)
    assert row(table, "auc", "a[guards=target]").second == pytest.approx(0.6)


def test_below_chance_is_leakage_too() -> None:
    """One attack finds p's members at the bottom: the verdict is the worst case's, not the other way round (RULES 16)."""
    aucs = {"p": (0.30, 0.31, 0.29), "q": (0.50, 0.51, 0.50)}
    results = [make_result("membership", "a", d, s, metrics={"auc": aucs[d][s]}) for d in "pq" for s in range(3)]
    table = differences(scenarios(results), "defense", "p", "q", (0, 1, 2), ["a"])
    assert set(table[table.metric == "auc"].verdict) == {"first leaks more"}
    assert row(table, "auc", "a")["first"] == pytest.approx(0.7)


def test_what_one_of_them_lacks_counts_for_neither(made_up: Toy) -> None:
    """lira has no result on hamp with the last seed: two seeds are left, and the worst case does without lira."""
    results, board = made_up
    table = differences(scenarios(results), "defense", "hamp", "selena", board.seeds, ["lira", "loss", "nn_sorted"])
    assert row(table, "auc", "lira").seeds == 2
    assert row(table, "auc", "loss").seeds == 3
    assert "worst case of 2" in set(table.against)
    mirrored = differences(scenarios(results), "defense", "selena", "hamp", board.seeds, ["lira", "loss", "nn_sorted"])
    assert row(mirrored, "auc", "lira")["first"] == row(table, "auc", "lira")["second"]
    assert list(mirrored.difference) == pytest.approx(list(-table.difference))


def test_attacks_are_compared_on_the_defenses_that_both_met(made_up: Toy) -> None:
    results, board = made_up
    table = differences(scenarios(results), "attack", "gradient", "loss", board.seeds, board.required_defenses)
    assert set(table.task) == {"membership"}
    assert not [a for a in table.against if a.endswith("memguard")], "gradient skipped what has a guard"
    assert f"mean of {len(board.required_defenses) - 2}" in set(table.against)


@pytest.mark.parametrize(
    ("metric", "numbers", "said"),
    [
        ("auc", (0.1, 0.05, 0.15), "first leaks more"),
        ("auc", (-0.1, -0.15, -0.05), "second leaks more"),
        ("mse_to_class_mean", (0.1, 0.05, 0.15), "second leaks more"),
        ("test_accuracy", (0.1, 0.05, 0.15), "first is higher"),
        ("test_accuracy", (-0.1, -0.15, -0.05), "second is higher"),
        ("auc", (0.1, -0.05, 0.25), "not told apart"),
        ("auc", (0.0, 0.0, 0.0), "equal"),
        ("auc", (0.1, np.nan, np.nan), "one seed: no interval"),
    ],
)
def test_verdicts(metric: str, numbers: tuple[float, float, float], said: str) -> None:
    assert verdict(metric, *numbers) == said


def test_names_fall_into_parts() -> None:
    assert parts("a[n=10,x=b+c]+d") == [("a", {"n": "10", "x": "b+c"}), ("d", {})]
    assert parts("") == []


def test_hyperparameters_come_with_their_defaults() -> None:
    """On the project's own tree: what is given overrides what the file declares."""
    given = facts("label_smoothing[epsilon=0.25]", "defense", [])
    assert given["label_smoothing: epsilon"] == "0.25"
    assert given["Method"] == "Label smoothing"
    assert facts("label_smoothing", "defense", [])["label_smoothing: epsilon"] == "0.8"
    assert facts("nn_sorted[guards=target]", "attack", [])["nn_sorted: guards"] == "target"
    assert facts("no_such", "defense", [])["no_such"] == "there is no submission of this name"


def test_the_page(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("compare", first="selena", second="hamp").run()
    assert not app.exception
    table = app.dataframe[0].value
    assert set(table.metric) == {"Test accuracy", "TPR at 1 % FPR", "AUC"}
    differing = app.dataframe[1].value.set_index("what")
    assert differing.loc["selena", "first"] == "there is no submission of this name"
    assert "Trust" not in differing.index, "what is the same is left out"
    app.button_group(key="metrics").set_value(["ece"]).run()
    assert set(app.dataframe[0].value.metric) == {"ECE"}
    app.button_group(key="side").set_value("attack").run()
    assert not app.exception
    assert app.selectbox(key="first").value == "boundary", "the first of the board's attacks"
    assert set(app.selectbox(key="second").options) == {"gradient", "loss", "nn_sorted", "lira", "random"}


def test_a_lone_entry_has_nothing_to_meet(folder: Path) -> None:
    rows = [make_result("utility", "", "only", s, metrics={"test_accuracy": 0.8}) for s in (0, 1)]
    publish(rows, Board((), ("only",), (0, 1), "only", 0.7), folder / "toy-v1")
    app = app_page("compare").run()
    assert not app.exception
    assert app.code[0].value == "leakboard run --protocol toy-v1"


def test_records_stay_text(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    publish(hostile(results), board, folder / "toy-v1")
    app = app_page("compare", first="undefended").run()
    app.selectbox(key="second").set_value(next(o for o in app.selectbox(key="second").options if "alert" in o)).run()
    assert not app.exception
    assert not app.markdown
    cells = app.dataframe[1].value.to_string()
    assert "alert(1)" in cells
    assert "\x1b" not in cells
    assert EVIL not in cells
