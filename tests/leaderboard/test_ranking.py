"""Ranks, ties and worst cases against numbers worked out by hand and against other libraries.

The board of `three_by_three`: attacks a, b, c; defenses p, q, r; seeds 0, 1, 2; AUC rows are seeds.

        p: a .60 .60 .63   q: a .60 .60 .60   r: a .70 .72 .74
           b .61 .59 .62      b .55 .55 .55      b .50 .50 .50
           c .50 .50 .50      c .30 .35 .31      c .50 .50 .50

Worst case of p, leaving one seed out. Means over the other seeds: seed 0: a .615, b .605 -> a, .60;
seed 1: a .615, b .615 -> a (first by name), .60; seed 2: a .60, b .60 -> a, .63. Mean .61, decided by a.
q: c reversed is .70 .65 .69 and wins on each seed: mean .68, decided by "c, sign reversed".
r: a wins: mean .72. Oracle (best attack, no sign): p mean(.61, .60, .63) = .61333, q .60, r .72.
Mean leakage: p (.61 + .60667 + .50) / 3, ...

Differences with 3 seeds (t = 4.302653): p - q = -.10, -.05, -.06: mean -.07, sd .026458, half .065725:
clearly better. p - r = -.10, -.12, -.11: mean -.11, half .024841: clearly better. q - r = 0, -.07, -.05:
mean -.04, half .0896: not told apart. So ranks p 1 [1, 1] a, q 2 [2, 3] b, r 3 [2, 3] b.

As attacks (mean over defenses on each seed): a .63333 .64 .65667; b .55333 .54667 .55667;
c .43333 .45 .43667. All three are clearly apart: ranks 1, 2, 3, ties a, b, c.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.result import Result
from leaderboard.comparison import estimate, leave_one_out, paired_difference, rank
from leaderboard.ranking import (
    ISOLATION,
    RANKS,
    TRUST,
    Board,
    as_in_papers,
    attack_table,
    defense_table,
    epsilon_text,
    measured,
    pair_table,
    rank_interval,
    scenarios,
    with_defaults,
)

AUCS = {
    "p": {"a": (0.60, 0.60, 0.63), "b": (0.61, 0.59, 0.62), "c": (0.50, 0.50, 0.50)},
    "q": {"a": (0.60, 0.60, 0.60), "b": (0.55, 0.55, 0.55), "c": (0.30, 0.35, 0.31)},
    "r": {"a": (0.70, 0.72, 0.74), "b": (0.50, 0.50, 0.50), "c": (0.50, 0.50, 0.50)},
}
ACCURACY = {"p": 0.80, "q": 0.85, "r": 0.90}
Make = Callable[..., Result]


def toy(result: Make, seeds: tuple[int, ...] = (0, 1, 2), **changes: object) -> tuple[list[Result], Board]:
    results = [
        result("membership", a, d, s, metrics={"auc": v[s]}, null_auc=(0.5, 0.4, 0.53), **changes)
        for d, row in AUCS.items() for a, v in row.items() for s in seeds
    ]  # fmt: skip
    results += [result("utility", "", d, s, metrics={"test_accuracy": v}) for d, v in ACCURACY.items() for s in seeds]
    return results, Board(("a", "b", "c"), ("p", "q", "r"), seeds, "r", 0.5, ("auc",))


def by(table: pd.DataFrame, name: str) -> dict[str, pd.Series]:
    return {row[name]: row for _, row in table.iterrows()}


def test_defenses_of_the_toy_board(result: Make) -> None:
    rows = by(defense_table(*toy(result)), "defense")
    assert list(rows) == ["p", "q", "r"]
    assert {d: r.worst_auc for d, r in rows.items()} == pytest.approx({"p": 0.61, "q": 0.68, "r": 0.72})
    assert {d: r.worst_auc_oracle for d, r in rows.items()} == pytest.approx({"p": 1.84 / 3, "q": 0.60, "r": 0.72})
    assert [r.worst_auc_attack for r in rows.values()] == ["a", "c, sign reversed", "a"]
    assert [r.worst_auc_track for r in rows.values()] == ["posterior/none"] * 3
    assert [(r["rank"], r.rank_low, r.rank_high, r.better_than, r.worse_than) for r in rows.values()] == [
        (1, 1, 1, 2, 0),
        (2, 2, 3, 0, 1),
        (3, 2, 3, 0, 1),
    ]
    assert rows["p"].mean_auc == pytest.approx((0.61 + 1.82 / 3 + 0.5) / 3)
    # All ways to put a draw of each seed together (200 of them are drawn: 3 standard errors); the sign is that of the
    # other two seeds (of equals the plain one).
    every = [
        np.mean([v if (sum(draws) - v) / 2 >= 0.5 else 1 - v for v in draws])
        for draws in itertools.product((0.5, 0.4, 0.53), repeat=3)
    ]
    assert rows["p"].worst_auc_null == pytest.approx(np.mean(every), abs=0.011)
    assert rows["p"].worst_auc_null_95 == pytest.approx(np.quantile(every, 0.95), abs=0.02)


def test_chance_passes_its_null_one_time_in_twenty(result: Make) -> None:
    """400 defenses that leak nothing, 6 attacks with correlated scores, 3 seeds; 20 draws of a null each, as in our protocols."""
    rng = np.random.default_rng(0)
    results = []
    for d in (f"d{i:03}" for i in range(400)):
        for seed in (0, 1, 2):
            draws = 0.5 + 0.02 * (0.7 * rng.normal(size=(1, 21)) + 0.7 * rng.normal(size=(6, 21)))
            results += [
                result("membership", f"a{k}", d, seed, metrics={"auc": own[0]}, null_auc=tuple(own[1:]))
                for k, own in enumerate(draws)
            ]
            results.append(result("utility", "", d, seed, metrics={"test_accuracy": 0.9}))
    attacks = tuple(f"a{k}" for k in range(6))
    table = defense_table(results, Board(attacks, ("d000",), (0, 1, 2), "d000", 0.5, ("auc",)))
    passing = (table.worst_auc > table.worst_auc_null_95).mean()
    assert 0.02 <= passing <= 0.09, passing  # .05 +- 3.5 standard errors of 400
    assert table.worst_auc_null.mean() == pytest.approx(0.5, abs=0.003)


def test_a_tuned_row_says_so(result: Make) -> None:
    """RULES 27: in the table and in the terminal, and on no other row."""
    from io import StringIO

    from rich.console import Console

    from leakboard.tables import print_tables

    results, board = toy(result)
    chosen = next(r.defense for r in results if r.defense != board.baseline)
    told = [
        r.model_copy(update={"claims": {"tuned": "20 trials on other splits, against loss"}})
        if r.defense == chosen and not r.attack
        else r
        for r in results
    ]
    table = defense_table(told, board).set_index("defense").tuned
    assert table[chosen] == "20 trials on other splits, against loss" and (table.drop(chosen) == "").all()
    shown = StringIO()
    print_tables(told, board, Console(file=shown, width=160))
    assert shown.getvalue().count("(tuned)") == 1 and f"{chosen} (tuned)" in shown.getvalue()


def test_a_lower_bound_on_epsilon_is_the_least_of_an_attack_chosen_on_other_seeds(result: Make) -> None:
    results, board = toy(result)
    bounds = {"a": (2.0, 0.5, 0.25), "b": (1.0, 1.5, 1.0), "c": (0.0, 0.0, 0.0)}
    told = [
        r.model_copy(update={"metrics": r.metrics | {"epsilon_lower": bounds[r.attack][r.seed]}}) if r.attack else r
        for r in results
    ]
    # Means over the other seeds: seed 0: b (1.25), 1.0; seed 1: a (1.125), 0.5; seed 2: a and b (1.25), the first, 0.25.
    assert defense_table(told, board).epsilon_lower.tolist() == pytest.approx([0.25] * 3)
    assert defense_table(results, board).epsilon_lower.isna().all()


def test_attacks_of_the_toy_board(result: Make) -> None:
    rows = by(attack_table(*toy(result)), "attack")
    assert [rows[a].auc for a in "abc"] == pytest.approx([5.79 / 9, 4.97 / 9, 3.96 / 9])
    assert [(rows[a]["rank"], rows[a].rank_low, rows[a].rank_high) for a in "abc"] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert [(rows[a].better_than, rows[a].worse_than) for a in "abc"] == [(2, 0), (1, 1), (0, 2)]
    means = np.array([1.90, 1.92, 1.97]) / 3
    assert (rows["a"].auc_low, rows["a"].auc_high) == pytest.approx(
        stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    )
    assert rows["a"].targets == 9


def test_a_cost_is_the_median_over_seeds(result: Make) -> None:
    results, board = toy(result)
    seconds = {"p": (8.0, 90.0, 9.0), "q": (2.0, 2.0, 2.0), "r": (4.0, 3.0, 3.0)}
    told = [
        r if r.attack else r.model_copy(update={"cost": {"train_seconds": seconds[r.defense][r.seed]}}) for r in results
    ]
    rows = by(defense_table(told, board), "defense")
    assert {d: (r.train_seconds, r.train_ratio) for d, r in rows.items()} == {"p": (9, 3), "q": (2, 2 / 3), "r": (3, 1)}


def test_an_attack_that_was_always_skipped_says_each_reason(result: Make) -> None:
    results, board = toy(result)
    why = {"p": "no certificate", "q": "outside the threat model", "r": "no certificate"}
    told = [
        r.model_copy(update={"status": "skipped", "metrics": {}, "reason": why[r.defense]}) if r.attack == "b" else r
        for r in results
    ]
    row = by(attack_table(told, board), "attack")["b"]
    assert row.reason == "skipped on every required defense: no certificate; outside the threat model"


def test_an_interval_ends_where_its_metric_does(result: Make) -> None:
    results, board = toy(result)
    wide = {"members": 2000.0, "nonmembers": 2000.0}
    rates = (0.0, 0.0, 0.03)  # mean .01, half-width .0430
    told = [
        r.model_copy(update={"metrics": {**r.metrics, **wide, "tpr_at_fpr_0.01": rates[r.seed], "auc": 1 - rates[r.seed]}})
        if r.attack else r for r in results
    ]  # fmt: skip
    for table in (defense_table(told, board), attack_table(told, board)):
        lead = "worst_" if "defense" in table else ""
        low, high = table[f"{lead}tpr_at_fpr_0.01_low"], table[f"{lead}tpr_at_fpr_0.01_high"]
        assert set(low) == {0.0} and set(high.round(4)) == {0.053}
        assert set(table[f"{lead}auc_low"].round(4)) == {0.947} and set(table[f"{lead}auc_high"]) == {1.0}


def test_one_seed_tells_nothing_apart_and_has_no_interval(result: Make) -> None:
    table = defense_table(*toy(result, seeds=(0,)))
    assert set(table.better_than) == set(table.worse_than) == {0}
    assert set(table.rank_low) == {1}
    assert set(table.rank_high) == {3}
    assert table.worst_auc_low.isna().all()
    assert not table.worst_auc.isna().any()


def test_paired_difference_is_the_paired_t_test() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(0.6, 0.1, (2, 5))
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert paired_difference(first, second) == pytest.approx(((first - second).mean(), low, high))
    assert paired_difference(second, first) == pytest.approx(((second - first).mean(), -high, -low))


def test_shared_targets_alone_decide_a_difference() -> None:
    first = np.array([[0.6, 0.7], [0.9, 0.9]])
    second = np.array([[0.5, 0.5], [np.nan, np.nan]])
    assert paired_difference(first, second).mean == pytest.approx(0.15)


def test_rank_against_a_slow_oracle() -> None:
    values = np.random.default_rng(2).normal(np.arange(8)[:, None, None] / 30, 0.03, (8, 4, 3))
    table = rank(values, larger_is_better=True)
    for i in range(8):
        differences = [paired_difference(values[i], values[j]) for j in range(8) if j != i]
        assert table.rank_low[i] == 1 + sum(d.high < 0 for d in differences)
        assert table.rank_high[i] == 8 - sum(d.low > 0 for d in differences)
    assert list(rank(values, larger_is_better=False).rank_low) == list(9 - table.rank_high)


def test_a_rank_lies_in_its_interval_whatever_is_missing() -> None:
    """Two entries are compared on the targets that both met, for the rank as for its interval."""
    random = np.random.default_rng(4)
    for _ in range(200):
        values = random.normal(np.arange(6)[:, None, None] / 40, 0.03, (6, 5, 1)) + random.normal(0, 0.01, (6, 5, 3))
        values += np.linspace(0, 0.5, 5)[None, :, None]  # some targets are easier for everybody
        gaps = random.random((6, 5)) < 0.25
        gaps[:, 0] = False
        values[gaps] = np.nan
        table = rank(values, larger_is_better=True)
        assert ((table.rank_low <= table["rank"]) & (table["rank"] <= table.rank_high)).all()


def test_equal_entries_are_equal_despite_rounding() -> None:
    values = np.array([[[0.1 + 0.2] * 3], [[0.3] * 3]])
    table = rank(values, larger_is_better=False)
    assert list(table["rank"]) == [1, 1] and list(table.rank_high) == [2, 2]


def test_among_level_entries_there_is_no_order() -> None:
    values = np.array([[[0.1, 0.11, 0.1]], [[0.2, 0.21, 0.2]], [[0.3, 0.31, 0.3]]])
    table = rank(values, larger_is_better=False, level=np.array([True, True, False]))
    assert list(table["rank"]) == [1, 1, 3]
    assert [*zip(table.rank_low, table.rank_high, strict=True)] == [(1, 2), (1, 2), (3, 3)]
    assert list(table.better_than) == [1, 1, 0] and list(table.worse_than) == [0, 0, 2]


def test_leave_one_out_does_not_flatter_the_maximum() -> None:
    noise = np.random.default_rng(3).normal(0.5, 0.02, (400, 30, 3))
    honest = np.mean([leave_one_out(v)[0].mean() for v in noise])
    assert abs(honest - 0.5) < 0.003 < noise.max(1).mean() - 0.5
    values, chosen = leave_one_out(np.array([[1.0, 0.0, 0.0], [0.4, 0.4, 0.4]]))
    assert list(chosen) == [1, 0, 0]
    assert list(values) == [0.4, 0.0, 0.0]


def test_estimate_skips_what_is_missing() -> None:
    assert estimate(np.array([1.0, np.nan, 3.0])) == pytest.approx(estimate(np.array([1.0, 3.0])))
    assert np.isnan(estimate(np.array([1.0])).low)


def test_a_missing_pair_unranks_only_its_entry(result: Make) -> None:
    results, board = toy(result)
    results = [r for r in results if (r.attack, r.defense, r.seed) != ("c", "q", 1)]
    rows = by(table := defense_table(results, board), "defense")
    assert rows["q"].reason == "c missing (seed 1)"
    assert pd.isna(rows["q"]["rank"])
    assert np.isnan(rows["q"].worst_auc)
    assert table.attrs["pool"] == ["a", "b", "c"]
    assert list(table.defense) == ["p", "r", "q"]
    assert by(attack_table(results, board), "attack")["c"].reason == "q missing (seed 1)"


def test_failed_counts_as_missing_and_skipped_as_not_applicable(result: Make) -> None:
    results, board = toy(result)
    failed = [
        r if (r.attack, r.defense) != ("c", "q") else r.model_copy(update={"status": "failed", "metrics": {}})
        for r in results
    ]
    assert by(defense_table(failed, board), "defense")["q"].reason == "c failed (seed 0, 1, 2)"
    skipped = [
        r if (r.attack, r.defense) != ("c", "q") else r.model_copy(update={"status": "skipped", "metrics": {}})
        for r in results
    ]
    table = defense_table(skipped, board)
    assert table.attrs["pool"] == ["a", "b", "c"]
    assert set(table.reason) == {""}
    whole = by(defense_table(results, board), "defense")
    for d in "pr":
        assert by(table, "defense")[d].drop(list(RANKS)).equals(whole[d].drop(list(RANKS)))
    assert by(table, "defense")["q"].worst_auc == pytest.approx(0.60)
    attack = by(attack_table(skipped, board), "attack")["c"]
    assert attack.targets == 6
    assert attack.auc == pytest.approx(0.5)
    assert not pd.isna(attack["rank"])


def with_variant(result: Make, a_on_r: str = "ok") -> tuple[list[Result], Board]:
    """The toy board with `a[x=2,guards=target]`, .75 on p and skipped elsewhere, beside `a[x=2]`, which has a's values."""
    results, _ = toy(result)
    seeds: dict[str, Any] = {"knowledge": "shadow+guards", "null_auc": (0.5, 0.4, 0.53)}
    named = [r.model_copy(update={"attack": "a[x=2]"}) if r.attack == "a" else r for r in results]
    named = [
        r.model_copy(update={"status": a_on_r, "metrics": {}, "null_auc": ()})
        if (r.attack, r.defense) == ("a[x=2]", "r") and a_on_r != "ok"
        else r
        for r in named
    ]
    for s in (0, 1, 2):
        named.append(result("membership", "a[x=2,guards=target]", "p", s, metrics={"auc": 0.75}, **seeds))
        named += [
            result("membership", "a[x=2,guards=target]", d, s, status="skipped", **seeds | {"null_auc": ()})
            for d in "qr"
        ]
    return named, Board(("a[x=2]", "a[x=2,guards=target]", "b", "c"), ("p", "q", "r"), (0, 1, 2), "r", 0.5, ("auc",))


def test_a_variant_that_is_its_default_counts_as_it(result: Make) -> None:
    """It stays in the pool, decides where it is stronger, and unranks nobody (RULES 3, 12)."""
    results, board = with_variant(result)
    table = defense_table(results, board)
    assert table.attrs["pool"] == ["a[x=2]", "a[x=2,guards=target]", "b", "c"]
    rows = by(table, "defense")
    assert set(table.reason) == {""}
    assert (rows["p"].worst_auc, rows["p"].worst_auc_attack) == (pytest.approx(0.75), "a[x=2,guards=target]")
    assert rows["p"].worst_auc_track == "posterior/shadow+guards"
    plain = by(defense_table(*toy(result)), "defense")
    for d in "qr":
        assert rows[d].worst_auc == plain[d].worst_auc
        assert rows[d].worst_auc_null == plain[d].worst_auc_null, "twice the same draws are no further draws"
    assert [rows[d].worst_auc_attack for d in "qr"] == ["c, sign reversed", "a[x=2]"]
    attacks = by(attack_table(results, board), "attack")
    found, default = attacks["a[x=2,guards=target]"], attacks["a[x=2]"]
    assert found.auc == pytest.approx((0.75 + 0.60 + 0.72) / 3) and default.auc == pytest.approx(5.79 / 9)
    assert (found.track, default.track) == ("posterior/shadow+guards", "posterior/none")
    assert (found.reason, found.targets, found["rank"]) == ("", 9, 1)


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_variant_has_no_number_where_its_default_has_none(result: Make, status: str) -> None:
    results, board = with_variant(result, status)
    table = defense_table(results, board)
    assert by(table, "defense")["r"].reason == ("a[x=2] failed (seed 0, 1, 2)" if status == "failed" else "")
    assert by(attack_table(results, board), "attack")["a[x=2,guards=target]"].targets == 6


def test_an_incomplete_entry_changes_no_other_row(result: Make) -> None:
    """A defense that met one attack; an attack, however strong, that met one defense (RULES 12)."""
    results, board = toy(result)
    before = defense_table(results, board)
    more = [result("membership", "a", "s", k, metrics={"auc": 0.51}, null_auc=(0.5, 0.4, 0.53)) for k in range(3)]
    more += [result("utility", "", "s", k, metrics={"test_accuracy": 0.9}) for k in range(3)]
    more += [result("membership", "z", "p", k, metrics={"auc": 0.99}, null_auc=(0.5, 0.4, 0.53)) for k in range(3)]
    more += [result("membership", "tiny", "p", k, metrics={"auc": 0.5, "nonmembers": 20.0}) for k in range(3)]
    after = defense_table([*results, *more], board)
    assert by(after, "defense")["s"].reason.startswith("b missing")
    pd.testing.assert_frame_equal(after[after.defense != "s"], before)
    attacks = [attack_table(rows, board) for rows in (results, [*results, *more])]
    pd.testing.assert_frame_equal(attacks[1][~attacks[1].attack.isin(["z", "tiny"])].reset_index(drop=True), attacks[0])
    whole = [
        r.model_copy(update={"metrics": r.metrics | {"nonmembers": 2000.0, "tpr_at_fpr_0.01": 0.02}}) if r.attack else r
        for r in results
    ]
    by_tpr = Board(board.required_attacks, board.required_defenses, board.seeds, "r", 0.5)
    for make in (defense_table, attack_table):
        assert make([*whole, *more], by_tpr).attrs["metric"] == "tpr_at_fpr_0.01", (
            "a small sample elsewhere changes nothing"
        )


def test_a_stronger_attack_that_is_not_required_is_best_known_and_moves_no_rank(result: Make) -> None:
    results, board = toy(result)
    found = {"p": (0.66, 0.67, 0.665), "q": (0.5, 0.5, 0.5), "r": (0.9, 0.6, 0.75)}
    more = [
        result("membership", "z", d, s, metrics={"auc": v[s]}, null_auc=(0.5,))
        for d, v in found.items()
        for s in range(3)
    ]
    before, table = defense_table(results, board), defense_table([*results, *more], board)
    assert table.attrs["pool"] == ["a", "b", "c"]
    beside = [c for c in table if c.startswith("best_known")]
    pd.testing.assert_frame_equal(table.drop(columns=beside), before.drop(columns=beside))
    rows = by(table, "defense")
    assert rows["p"].best_known_auc == pytest.approx(0.665) and rows["p"].best_known_auc_attack == "z"
    assert rows["p"].best_known_auc_excess == pytest.approx(0.665 - 0.61) and rows["p"].best_known_auc_excess_low > 0
    assert rows["q"].best_known_auc_attack == "" and np.isnan(rows["q"].best_known_auc)
    assert rows["r"].best_known_auc_excess == pytest.approx(0.03) and rows["r"].best_known_auc_excess_low < 0


def test_what_is_not_above_its_null_has_no_order(result: Make) -> None:
    results, board = toy(result)
    high = [
        r.model_copy(update={"null_auc": (0.7, 0.9, 0.8)}) if r.defense in "pq" and r.attack else r for r in results
    ]
    table = defense_table(high, board)
    rows = by(table, "defense")
    assert (rows["p"].at_chance, rows["q"].at_chance, rows["r"].at_chance) == (True, True, False)
    assert rows["p"]["rank"] == rows["q"]["rank"] == 1
    assert dict(zip(table.defense, rank_interval(table), strict=True)) == {"p": "chance", "q": "chance", "r": "2–3"}


def test_rows_of_a_table_without_variants_are_the_rows_themselves(result: Make) -> None:
    frame = scenarios(toy(result)[0])
    assert with_defaults(frame) is frame


def test_utility_floor_and_missing_baseline(result: Make) -> None:
    results, board = toy(result)
    collapsed = [
        r if (r.task, r.defense) != ("utility", "p") else r.model_copy(update={"metrics": {"test_accuracy": 0.1}})
        for r in results
    ]
    rows = by(defense_table(collapsed, board), "defense")
    assert rows["p"].reason == "below the utility floor (0.10 < 0.45)"
    assert rows["q"]["rank"] == 1
    assert rows["p"].worst_auc == pytest.approx(0.61)  # shown, not ranked
    other = Board(("a",), ("p",), (0, 1, 2), "z", 0.5, ("auc",))
    assert set(defense_table(results, other).reason) == {"no test accuracy of the baseline z"}


def test_null_rows_are_anchors_and_no_part_of_the_pool(result: Make) -> None:
    results, board = toy(result)
    results += [
        result("membership", "random", d, s, metrics={"auc": 0.99}, null_row=True) for d in AUCS for s in range(3)
    ]
    table = defense_table(results, board)
    assert "random" not in table.attrs["pool"]
    assert table.worst_auc.max() < 0.8
    row = by(attack_table(results, board), "attack")["random"]
    assert row.reason == "null row"
    assert pd.isna(row["rank"])
    assert row.auc == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("nonmembers", "shown", "metric"), [(99, False, "auc"), (999, True, "auc"), (1000, True, "tpr_at_fpr_0.01")]
)
def test_a_rate_is_shown_from_100_and_ranks_from_1000(result: Make, nonmembers: int, shown: bool, metric: str) -> None:
    results, board = toy(result)
    extra = {"nonmembers": float(nonmembers), "tpr_at_fpr_0.01": 0.02}
    results = [r.model_copy(update={"metrics": r.metrics | extra}) if r.task == "membership" else r for r in results]
    board = Board(board.required_attacks, board.required_defenses, board.seeds, "r", 0.5)
    table = attack_table(results, board)
    assert table.attrs["metric"] == metric == defense_table(results, board).attrs["metric"]
    assert table["tpr_at_fpr_0.01"].notna().all() == shown


def test_reversed_tpr_comes_from_its_own_metric(result: Make) -> None:
    results, board = toy(result)
    extra = {"tpr_at_fpr_0.01": 0.01, "tpr_at_fpr_0.01_reversed": 0.3}
    results = [r.model_copy(update={"metrics": r.metrics | extra}) if r.task == "membership" else r for r in results]
    row = by(defense_table(results, board), "defense")["p"]
    assert row["worst_tpr_at_fpr_0.01"] == pytest.approx(0.3)
    assert row["worst_tpr_at_fpr_0.01_attack"] == "a, sign reversed"


def test_pairs_are_those_of_the_ranks_and_of_a_paired_t_test(made_up: tuple[list[Result], Board]) -> None:
    results, board = made_up
    table, pairs = defense_table(results, board), pair_table(results, board)
    ranked = table[table.reason == ""]
    assert list(dict.fromkeys(pairs["first"])) == list(ranked.defense) and len(pairs) == len(ranked) * (len(ranked) - 1)
    for row in ranked.itertuples():
        verdicts = pairs.verdict[pairs["first"] == row.defense]
        assert [(verdicts == "less").sum(), (verdicts == "more").sum()] == [row.better_than, row.worse_than]
    by_pair = pairs.set_index(["first", "second"])
    one = by_pair.loc[("selena", "undefended")]
    metric, of = table.attrs["metric"], ("selena", "undefended")
    assert set(ranked[f"worst_{metric}_attack"][ranked.defense.isin(of)]) == {"lira"}
    values = {
        d: np.array([r.metrics[metric] for s in board.seeds for r in results if (r.attack, r.defense, r.seed) == ("lira", d, s)])
        for d in of
    }  # fmt: skip
    expected = stats.ttest_rel(values["selena"], values["undefended"])
    assert (one.p, one.difference) == pytest.approx((expected.pvalue, (values["selena"] - values["undefended"]).mean()))
    assert [one.low, one.high] == pytest.approx(list(expected.confidence_interval()))
    back = by_pair.loc[("undefended", "selena")]
    assert (back.difference, back.p, back.discovery) == (
        pytest.approx(-one.difference),
        pytest.approx(one.p),
        one.discovery,
    )


def test_discoveries_are_benjamini_and_hochberg_s_over_unordered_pairs(made_up: tuple[list[Result], Board]) -> None:
    pairs = pair_table(*made_up)
    names = list(dict.fromkeys(pairs["first"]))
    once = pairs[[names.index(a) < names.index(b) for a, b in zip(pairs["first"], pairs.second, strict=True)]]
    p = np.sort(once.p.to_numpy())
    below = np.flatnonzero(p <= 0.05 * np.arange(1, len(p) + 1) / len(p))
    assert once.discovery.sum() == (below.max() + 1 if len(below) else 0)
    assert (once.p[once.discovery].max() if once.discovery.any() else 0) <= 0.05
    assert 0 < once.discovery.sum() < len(once)


def test_pairs_without_an_order_or_an_interval_are_not_told_apart(made_up: tuple[list[Result], Board]) -> None:
    results, board = made_up
    results = [
        r.model_copy(update={"null_tpr": (0.9,) * 40}) if r.defense in ("selena", "undefended+memguard") else r for r in results
    ]  # fmt: skip
    chance = set(defense_table(results, board).query("at_chance and reason == ''").defense)
    pairs = pair_table(results, board)
    level = pairs[pairs["first"].isin(chance) & pairs.second.isin(chance)]
    assert (
        chance >= {"selena", "undefended+memguard"}
        and set(level.p) == {1.0}
        and set(level.verdict) == {""}
        and not level.discovery.any()
    )
    one_seed = pair_table([r for r in results if r.seed == 0], replace(board, seeds=(0,)))
    assert len(one_seed) and set(one_seed.p) == {1.0} and one_seed.low.isna().all() and set(one_seed.verdict) == {""}
    assert pair_table(results, board, "official").empty


def test_as_papers_report_it_is_the_best_attack_on_its_own_data(result: Make) -> None:
    results, board = toy(result)
    several = [
        r.model_copy(update={
            "values": {"auc": (r.metrics["auc"] + 0.1, r.metrics["auc"] - 0.1)},
            "metrics": r.metrics | {"balanced_accuracy_oracle": r.metrics["auc"] - 0.05},
        }) if r.task == "membership" else r
        for r in results
    ]  # fmt: skip
    found = as_in_papers(scenarios(several), board).loc["p"]
    best = np.mean([max(AUCS["p"][a][s] for a in "abc") for s in range(3)])
    assert found.one_target_auc == pytest.approx(best + 0.1), "the first target alone"
    assert found.oracle_balanced_accuracy == pytest.approx(best - 0.05)
    assert by(defense_table(several, board), "defense")["p"].worst_auc_oracle == pytest.approx(best), "over all targets"
    alone = as_in_papers(scenarios(results), board).loc["p"]
    assert alone.one_target_auc == pytest.approx(best) and np.isnan(alone.oracle_balanced_accuracy)


def test_tracks_are_ranked_apart(result: Make) -> None:
    results, board = toy(result)
    results = [r.model_copy(update={"access": "label"}) if r.attack == "b" else r for r in results]
    rows = by(attack_table(results, board), "attack")
    assert [(rows[a]["rank"], rows[a].track) for a in "abc"] == [
        (1, "posterior/none"),
        (1, "label/none"),
        (2, "posterior/none"),
    ]


@pytest.mark.parametrize(
    ("change", "names"), [({"protocol_digest": "d2"}, ("d1", "d2")), ({"trust": "official"}, ("official", "public"))]
)
def test_versions_and_splits_never_meet(result: Make, change: dict[str, str], names: tuple[str, str]) -> None:
    results, board = toy(result)
    results[0] = results[0].model_copy(update=change)
    for table in (defense_table, attack_table):
        with pytest.raises(ValueError, match=f"{names[0]}.*{names[1]}"):
            table(results, board)


def test_a_scenario_given_twice_is_an_error(result: Make) -> None:
    results, _ = toy(result)
    with pytest.raises(ValueError, match="twice: membership a p seed 0"):
        scenarios([*results, results[0]])


def trusted(results: list[Result], level: str, **wanted: object) -> list[Result]:
    """The results, those with these fields at this level of trust."""
    return [
        r.model_copy(update={"trust": level}) if all(getattr(r, k) == v for k, v in wanted.items()) else r for r in results
    ]  # fmt: skip


def test_an_entry_shows_the_weakest_of_its_rows(result: Make) -> None:
    results, board = toy(result)
    results = trusted(results, "reproduced")
    results = trusted(results, "self-reported", attack="b", defense="q", seed=1)
    rows, attacks = by(defense_table(results, board), "defense"), by(attack_table(results, board), "attack")
    assert [rows[d].trust for d in "pqr"] == ["reproduced", "self-reported", "reproduced"]
    assert [attacks[a].trust for a in "abc"] == ["reproduced", "self-reported", "reproduced"]
    assert set(defense_table(results, board).reason) == {""}, "one's own board ranks everything"


@pytest.mark.parametrize(
    ("seen", "shown"),
    [
        (("bubblewrap", "reviewed", "trusted"), "trusted"),
        (("bubblewrap", "reviewed", "reviewed"), "reviewed"),
        (("bubblewrap", "bubblewrap", "bubblewrap"), "bubblewrap"),
        (("bubblewrap", "", "bubblewrap"), ""),
        (("", "trusted", ""), "trusted"),
        (("", "", ""), ""),
    ],
)
def test_isolation_is_the_weakest_too_and_trust_always_shows(result: Make, seen: tuple[str, ...], shown: str) -> None:
    results, board = toy(result)
    results = [r.model_copy(update={"isolation": seen[r.seed]}) for r in results]
    nowhere = {"status": "skipped", "metrics": {}, "isolation": "trusted"}
    results = [r.model_copy(update=nowhere) if (r.attack, r.defense) == ("c", "p") else r for r in results]
    for table in (defense_table(results, board), attack_table(results, board)):
        assert set(table.isolation) == {shown}
    assert list(ISOLATION) == ["trusted", "", "reviewed", "bubblewrap"]
    assert list(TRUST) == ["self-reported", "reproduced", "official"]


def test_a_strict_board_ranks_only_what_was_reproduced(result: Make) -> None:
    results, board = toy(result)
    results = trusted(results, "reproduced")
    results = trusted(results, "self-reported", attack="b", defense="q", seed=1)
    table = defense_table(results, board, "reproduced")
    rows = by(table, "defense")
    assert {d: r.reason for d, r in rows.items()} == {"p": "", "q": "only self-reported", "r": ""}
    assert (rows["p"]["rank"], rows["r"]["rank"]) == (1, 2)
    assert pd.isna(rows["q"]["rank"])
    assert rows["q"].worst_auc == pytest.approx(0.68), "shown, not ranked"
    assert rows["q"].trust == "self-reported"
    attacks = by(attack_table(results, board, least="reproduced"), "attack")
    assert {a: r.reason for a, r in attacks.items()} == {"a": "", "b": "only self-reported", "c": ""}
    assert by(attack_table(results, board, least="official"), "attack")["a"].reason == "only reproduced"
    missing = [r for r in results if (r.attack, r.defense, r.seed) != ("b", "q", 1)]
    assert by(defense_table(missing, board, "reproduced"), "defense")["q"].reason == "b missing (seed 1)"


def test_a_self_reported_row_moves_nothing_on_a_strict_board(result: Make) -> None:
    """Neither an attack that beats all, nor a baseline of another accuracy, nor a handful of samples."""
    results, board = toy(result)
    clean = trusted(results, "reproduced")
    alien = [
        result("membership", "alien", d, s, metrics={"auc": 0.99, "nonmembers": 20.0}) for d in AUCS for s in range(3)
    ]
    columns = [
        "defense",
        "rank",
        "rank_low",
        "rank_high",
        "better_than",
        "reason",
        "trust",
        "worst_auc",
        "worst_auc_attack",
    ]
    before = defense_table(clean, board, "reproduced")
    after = defense_table([*clean, *alien], board, "reproduced")
    pd.testing.assert_frame_equal(before[columns], after[columns])
    assert after.attrs == before.attrs
    assert defense_table([*clean, *alien], board).best_known_auc.min() > 0.9, "on one's own board it is seen"
    other = [
        r.model_copy(update={"metrics": {"test_accuracy": 2.0}, "trust": "self-reported"})
        if (r.task, r.defense) == ("utility", "r") else r for r in clean
    ]  # fmt: skip
    reasons = by(defense_table(other, board, "reproduced"), "defense")
    assert reasons["r"].reason == "only self-reported"
    assert reasons["p"].reason == "no test accuracy of the baseline r"


def test_a_metric_cannot_take_the_place_of_a_fact(result: Make) -> None:
    row = result("membership", "a", "p", 0, metrics={"auc": 0.6, "trust": 9.0, "attack": 9.0}, cost={"isolation": 9.0})
    frame = scenarios([row])
    assert (frame.trust[0], frame.attack[0], frame.isolation[0]) == ("self-reported", "a", "")


def test_no_results_make_empty_tables() -> None:
    board = Board((), (), (0,), "r", 0.5)
    assert len(defense_table([], board)) == len(attack_table([], board)) == 0


def test_rank_by_knows_two_metrics() -> None:
    with pytest.raises(ValueError, match="accuracy"):
        Board((), (), (0,), "r", 0.5, ("accuracy",))


def test_one_seed_bounds_no_epsilon(result: Make) -> None:
    """The attack would be chosen on the very canaries that the bound is from (RULES 30)."""
    results, board = toy(result)
    results = [
        r.model_copy(update={"metrics": r.metrics | {"epsilon_lower": 0.4}}) if r.task == "membership" else r
        for r in results
    ]
    assert list(defense_table(results, board).epsilon_lower) == pytest.approx([0.4] * 3)
    one = [r for r in results if r.seed == 0]
    assert defense_table(one, replace(board, seeds=(0,))).epsilon_lower.isna().all()


def test_epsilon_is_printed_only_with_all_that_it_needs() -> None:
    whole = {"epsilon": "7.9", "delta": "1e-5", "accountant": "RDP", "adjacency": "add-remove", "sampling": "Poisson"}
    assert epsilon_text(whole) == "7.9 (δ 1e-5, add-remove, RDP)"
    assert {epsilon_text(whole | {"epsilon": e}) for e in ("101", "inf", "nan", "-1")} == {"no meaningful guarantee"}
    lacking = epsilon_text(whole | {"sampling": "shuffled"}), epsilon_text(whole | {"delta": ""})
    assert lacking == ("not valid: needs delta below 1/n, accountant, adjacency and Poisson sampling",) * 2
    assert epsilon_text({"epsilon": "not valid for the cascade"}) == "not valid for the cascade"
    assert epsilon_text({}) == ""
    assert epsilon_text(whole | {"tuned": "20 trials"}).startswith("not valid: hyperparameters were selected on"), (
        "RULES 29"
    )


def test_metrics_that_no_row_has_are_no_columns() -> None:
    table = pd.DataFrame({"agreement": [np.nan], "stolen_accuracy": [0.5], "agreement_on_errors": [np.nan]})
    assert measured(table, "stealing") == ["agreement", "stolen_accuracy"]
