"""The worst case of each kind of attack: closed forms of the scale, an oracle in loops, and whose rows move whose."""

from __future__ import annotations

from collections import Counter
from statistics import mean, stdev

import numpy as np
import pandas as pd
import pytest

from benchmark.metrics import METRICS
from leaderboard import kinds
from leaderboard.kinds import ANY, BYPASSED, GUARDED, columns, excess_by_seed, excesses, kind_table, kinds_of, wide
from leaderboard.ranking import AUC, Board, defense_table
from tests.leaderboard.conftest import OF_KINDS, make_board, make_kinds, make_result

T_3 = 0.95 * (2 / (1 - 0.95**2)) ** 0.5
"""The 97.5 % quantile of t with two degrees of freedom, in closed form."""


# --- The scale --------------------------------------------------------------------------------------


def test_the_excess_is_the_share_of_the_way_from_the_null_row() -> None:
    """By hand: one attack, one null row, best 1: 0.9 from 0.8 is half of the way, 0.95 three quarters."""
    found, floor = excess_by_seed(np.array([[[0.9, 0.95]]]), np.array([[[0.8, 0.8]]]), 1.0)
    assert found[0] == pytest.approx([0.5, 0.75]) and floor[0] == pytest.approx([0.8, 0.8])


def test_the_room_is_the_mean_over_seeds() -> None:
    """Null rows of 0.99 and 0.61 leave 0.2 on average: +0.01 on the first seed is 5 %, and not all that was left."""
    found, _ = excess_by_seed(np.array([[[1.0, 0.65]]]), np.array([[[0.99, 0.61]]]), 1.0)
    assert found[0] == pytest.approx([0.05, 0.2])


def test_membership_is_twice_the_auc_minus_one() -> None:
    values = np.array([[[0.7, 0.6, 0.65]]])
    found, floor = excess_by_seed(values, np.empty((1, 0, 3)), 1.0, 0.5)
    assert found[0] == pytest.approx([0.4, 0.2, 0.3]) and (floor == 0.5).all()


def test_an_attack_below_its_null_row_has_an_excess_of_0() -> None:
    """The adversary plays the null row: on the seed where the attack would have won, too."""
    found, _ = excess_by_seed(np.array([[[0.1, 0.2, 0.95]]]), np.array([[[0.8, 0.9, 0.9]]]), 1.0)
    assert found.tolist() == [[0.0, 0.0, 0.0]]


def test_attack_and_null_row_are_chosen_on_the_other_seeds() -> None:
    """Noise alone: the best of many equals the null on average, where the largest on each seed would exceed it."""
    random = np.random.default_rng(0)
    values, nulls = random.normal(0.5, 0.05, (400, 20, 3)), random.normal(0.5, 0.05, (400, 5, 3))
    found, _ = excess_by_seed(values, nulls, 1.0)
    error = found.mean(-1).std() / np.sqrt(400)
    assert abs(found.mean()) < 4 * error
    assert ((values.max(1) - nulls.max(1)) / 0.5).mean() > 10 * error


@pytest.mark.parametrize(("null", "there"), [(1.0, False), (0.985, False), (0.97, True)])
def test_a_perfect_null_row_leaves_nothing_to_find(null: float, there: bool) -> None:
    found, _ = excess_by_seed(np.array([[[0.99, 0.99]]]), np.array([[[null, null]]]), 1.0)
    assert np.isfinite(found).all() == there


# --- The table --------------------------------------------------------------------------------------


def one_row(table: pd.DataFrame, defense: str, kind: str) -> pd.Series:
    found = table[(table.defense == defense) & (table.kind == kind)]
    assert len(found) == 1
    return found.iloc[0]


def test_membership_is_as_it_is_ranked() -> None:
    """To the bit: value, interval and deciding attack of the worst AUC."""
    results, board = make_kinds()
    ranked = defense_table(results, board).sort_values("defense", ignore_index=True)
    table = kind_table(results, board)
    mine = table[table.kind == "membership"].reset_index(drop=True)
    assert list(mine.defense) == list(ranked.defense)
    for name, theirs in (("value", ""), ("value_low", "_low"), ("value_high", "_high")):
        np.testing.assert_array_equal(mine[name], ranked[f"worst_auc{theirs}"])
    assert list(mine.attack) == list(ranked.worst_auc_attack) and list(mine.track) == list(ranked.worst_auc_track)
    np.testing.assert_allclose(mine.excess, 2 * ranked.worst_auc - 1, atol=1e-12)


@pytest.mark.parametrize("kind", OF_KINDS)
def test_the_other_kinds_are_what_loops_find(kind: str) -> None:
    results, board = make_kinds()
    attack, null, track, metric = OF_KINDS[kind]
    table, base = kind_table(results, board), []
    values = {(r.attack, r.defense, r.seed): r.metrics[metric] for r in results if r.task == kind and r.status == "ok"}
    for defense in ("undefended", *board.required_defenses):
        row = one_row(table, defense, kind)
        if (attack, defense, 0) not in values:
            assert row.reason == BYPASSED and row.bypassed == attack and np.isnan(row.excess) and np.isnan(row.value)
            continue
        ours, theirs = ([values[name, defense, seed] for seed in board.seeds] for name in (attack, null))
        room = 1 - mean(theirs)
        by_seed = []
        for s in range(3):
            others = [o for o in range(3) if o != s]
            better = mean(ours[o] for o in others) > mean(theirs[o] for o in others)
            by_seed.append(((ours if better else theirs)[s] - theirs[s]) / room)
        base = base or by_seed
        assert (row.metric, row.attack, row.null_attack, row.track) == (metric, attack, null, track)
        assert row["value"] == pytest.approx(mean(ours)) and row.null == pytest.approx(mean(theirs))
        half = T_3 * stdev(by_seed) / 3**0.5
        assert (row.excess, row.excess_low) == pytest.approx((mean(by_seed), mean(by_seed) - half))
        assert row.excess_high == pytest.approx(min(1, mean(by_seed) + half))
        if defense == "undefended":
            assert np.isnan(row.difference) and row.verdict == ""
            continue
        paired = [a - b for a, b in zip(by_seed, base, strict=True)]
        low, high = (mean(paired) + sign * T_3 * stdev(paired) / 3**0.5 for sign in (-1, 1))
        assert (row.difference, row.difference_low, row.difference_high) == pytest.approx((mean(paired), low, high))
        assert row.verdict == ("less" if high < 0 else "more" if low > 0 else "")


def test_the_worst_of_all_is_chosen_on_the_other_seeds_and_compared_over_the_kinds_of_both() -> None:
    results, board = make_kinds()
    table, by_seed = kind_table(results, board), excesses(results, board)
    names = ["membership", *OF_KINDS]
    assert kinds_of(table) == names and kinds.worst_name(table) == "worst of four"

    def worst(defense: str, over: list[str]) -> tuple[list[float], list[str]]:
        rows = by_seed[by_seed.defense == defense].sort_values("seed")[over].to_numpy()
        chosen = [int(np.delete(rows, s, 0).mean(0).argmax()) for s in range(3)]
        return [rows[s, c] for s, c in enumerate(chosen)], [over[c] for c in chosen]

    for defense in board.required_defenses:
        mine = one_row(table, defense, ANY)
        over = [n for n in names if by_seed[by_seed.defense == defense][n].notna().all()]
        assert over == (["membership", "stealing"] if "+" in defense else names) or defense == "hamp"
        values, decided = worst(defense, over)
        assert mine.excess == pytest.approx(mean(values)) and mine.kinds == len(over)
        assert mine.decided == Counter(decided).most_common(1)[0][0]
        if defense != "undefended":
            against, _ = worst("undefended", over)
            assert mine.difference == pytest.approx(mean(values) - mean(against))
    assert one_row(table, "selena", "membership").verdict == "less", "who hides members"
    assert one_row(table, "selena", "stealing").verdict == "more", "is stolen"


def test_an_entry_moves_its_own_row_alone() -> None:
    """Neither an attack that is not required nor a defense changes a number of the others; nor does what lacks a metric."""
    results, board = make_kinds()
    before = kind_table(results, board)
    strong = [
        make_result("stealing", "mine", d, s, metrics={"agreement": 1.0})
        for d in board.required_defenses
        for s in (0, 1, 2)
    ]
    new = [r.model_copy(update={"defense": "mine", "key": f"m{r.key}"}) for r in results if r.defense == "selena"]
    odd = [make_result("inversion", "invert", "old", s, metrics={"evaluator_accuracy": 0.9}) for s in (0, 1, 2)]
    after = kind_table([*results, *strong, *new, *odd], board)
    others = after[~after.defense.isin(["mine", "old"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, before, check_exact=True)


def test_older_rows_are_compared_by_the_metric_that_all_have() -> None:
    results, board = make_kinds()
    old = [
        r.model_copy(update={"metrics": {"evaluator_accuracy": r.metrics["both_evaluators"]}}) if r.task == "inversion" and r.metrics else r
        for r in results
    ]  # fmt: skip
    now, then = (kind_table(rows, board).set_index(["defense", "kind"]) for rows in (results, old))
    assert {then.metric[d, "inversion"] for d in board.required_defenses} == {"evaluator_accuracy"}
    np.testing.assert_array_equal(now.excess, then.excess)


def test_a_metric_that_falls_is_measured_from_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an error of 0.02 where the null row has 0.08, three quarters of the way to 0 are gone."""
    monkeypatch.setitem(kinds.SCALES, "inversion", ("mse_to_class_mean",))
    rows = [
        make_result("inversion", name, "undefended", s, null_row=name == "none", metrics={"mse_to_class_mean": value})
        for name, value in (("good", 0.02), ("bad", 0.06), ("none", 0.08))
        for s in (0, 1)
    ]
    board = Board(("good", "bad", "none"), ("undefended",), (0, 1), "undefended", 0.7)
    row = one_row(kind_table(rows, board), "undefended", "inversion")
    assert (row.attack, row["value"], row.null) == ("good", pytest.approx(0.02), pytest.approx(0.08))
    assert row.excess == pytest.approx(0.75) and METRICS["mse_to_class_mean"].leaks == "down"


def test_every_gap_says_why() -> None:
    def table(change: dict[str, object] | None, *without: tuple[str, int]) -> pd.Series:
        results, board = make_kinds()
        rows = [r for r in results if not (r.defense == "selena" and (r.attack, r.seed) in without)]
        if change is not None:
            hit = {"steal", "steal_null"}
            rows = [r.model_copy(update=change) if r.attack in hit and r.defense == "selena" else r for r in rows]
        return one_row(kind_table(rows, board), "selena", "stealing")

    assert table(None).reason == ""
    for row, reason in (
        (table(None, ("steal", 1)), "steal missing (seed 1)"),
        (table(None, ("steal_null", 2)), "steal_null missing (seed 2)"),
        (table(None, *[(a, s) for a in ("steal", "steal_null") for s in (0, 1, 2)]), "not scored"),
        (table({"status": "skipped", "reason": "not applicable", "metrics": {}}), "not applicable"),
        (table({"metrics": {"agreement": 1.0}}), "the null row alone has 1.000: it leaves nothing to find"),
    ):
        assert row.reason == reason and np.isnan(row.excess)
    results, board = make_kinds()
    alone = [r for r in results if r.attack != "steal_null"]
    required = tuple(a for a in board.required_attacks if a != "steal_null")
    row = one_row(kind_table(alone, Board(**(vars(board) | {"required_attacks": required}))), "selena", "stealing")
    assert row.reason == "no null row to compare with" and row["value"] > 0.8


def test_a_guard_is_told_by_the_judge_s_own_reason() -> None:
    from benchmark.judge.scenario import OUT_OF_MODEL

    assert OUT_OF_MODEL.startswith(GUARDED)


def test_one_seed_has_no_interval_and_takes_the_largest() -> None:
    results, board = make_kinds((0,))
    table = kind_table(results, board)
    there = table[table.excess.notna()]
    assert len(there) > 20 and there.excess_low.isna().all() and (table.verdict == "").all()
    values = excesses(results, board).set_index("defense")
    worst = table[table.kind == ANY].set_index("defense").excess
    np.testing.assert_array_equal(worst, values[["membership", *OF_KINDS]].max(axis=1).reindex(worst.index))


# --- What tables show -------------------------------------------------------------------------------


def test_a_board_of_one_kind_gets_no_columns() -> None:
    results, board = make_board()
    table = kind_table(results, board)
    assert kinds_of(table) == ["membership"] and columns(table) == []
    worst = table[table.kind == ANY].set_index("defense").excess
    assert worst["undefended"] == pytest.approx(one_row(table, "undefended", "membership").excess)
    assert set(table[table.bypassed != ""].bypassed) <= {"gradient"}, "what is not required is not told"


def test_what_is_shown_is_what_the_table_has() -> None:
    results, board = make_kinds()
    table = kind_table(results, board)
    shown, named = wide(table), columns(table)
    assert {c.name for c in named} <= {*shown} and named[0].label == "Worst of four"
    row = one_row(table, "selena", "stealing")
    assert shown.loc["selena", "excess_stealing"] == row.excess
    both = shown.loc["selena+diffence[n=10]"]
    assert both.decided.endswith(" (of 2)") and both.bypassed == "invert, attribute_mlp"
    assert both.excess_inversion_why == BYPASSED
    assert kinds.percent(row) == f"{100 * row.excess:.0f} % ({100 * row.excess_low:.0f} – {100 * row.excess_high:.0f})"


def test_no_result_no_row() -> None:
    table = kind_table([], make_kinds()[1])
    assert table.empty and kinds_of(table) == [] and columns(table) == [] and wide(table).empty


def test_a_random_guess_is_the_middle_of_the_metric() -> None:
    assert kinds.CHANCE == {AUC: (METRICS[AUC].low + METRICS[AUC].high) / 2}
