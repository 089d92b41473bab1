"""Two entries side by side: their scores on the seeds and opponents that both have, and the paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from benchmark.metrics import METRICS, TASK_METRICS
from leaderboard.comparison import Floats, either_sign, estimate, leave_one_out, nanmean, paired_difference
from leaderboard.ranking import AUC, TPR, WORST, with_defaults

Side = Literal["defense", "attack"]

UTILITY = (
    "test_accuracy",
    "train_accuracy",
    "ece",
    "robust_accuracy",
    "certified_accuracy",
    "js_entropy",
    "js_cross_entropy",
    "sensitivity",
)
WORST_CASE, MEAN = "worst case", "mean"
COLUMNS = ["task", "metric", "against", "first", "second", "difference", "low", "high", "seeds", "verdict"]


def differences(
    frame: pd.DataFrame, side: Side, first: str, second: str, seeds: Sequence[int], pool: Sequence[str]
) -> pd.DataFrame:
    """One row a metric and opponent that both entries met: both means, first - second and its 95 % t-interval.

    frame: `ranking.scenarios`. pool: the opponents of the summary rows, which come first: for two defenses their worst
    cases, chosen as in the ranking, and their means; for two attacks their means. For defenses an AUC has the sign that
    does better on the other seeds (RULES 16).
    """
    other = "attack" if side == "defense" else "defense"
    frame = with_defaults(frame)
    known = frame[(frame.status == "ok") & frame.seed.isin(seeds)]
    first_rows, second_rows = (known[known[side] == name] for name in (first, second))
    rows: list[dict[str, object]] = []
    compared = ({"utility": UTILITY} if side == "defense" else {}) | TASK_METRICS
    for task, metrics in compared.items():
        a, b = (entry[entry.task == task] for entry in (first_rows, second_rows))
        names = sorted(set(a[other]) & set(b[other]))
        common = [n for n in names if n in pool]
        for metric in metrics:
            if side == "defense" and task == "membership" and metric in WORST:
                pool_attacks = _complete_attacks(a, b, metric, common, seeds)
                worst = [worst_by_seed(entry, metric, pool_attacks, seeds) for entry in (a, b)]
                rows.append(_row(task, metric, f"{WORST_CASE} of {len(pool_attacks)}", *worst))
            both_values = [values_by_seed(entry, other, metric, names, seeds) for entry in (a, b)]
            if side == "defense" and metric == AUC:
                both_values = [either_sign(values) for values in both_values]
            if len(common) > 1:
                chosen = [names.index(n) for n in common]
                rows.append(_row(task, metric, f"{MEAN} of {len(common)}", *(values[chosen] for values in both_values)))
            rows += [_row(task, metric, n, x, y) for n, x, y in zip(names, *both_values, strict=True)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table[table.difference.notna()].reset_index(drop=True)


def worst_by_seed(mine: pd.DataFrame, metric: str, attacks: Sequence[str], seeds: Sequence[int]) -> Floats:
    """A defense's worst case on each seed (s,) over attacks that ran on every seed, as in `ranking`.

    The attack and its sign are chosen on the other seeds (RULES 16, 17); mine: its membership scenarios with status ok.
    """
    values = values_by_seed(mine, "attack", metric, attacks, seeds)
    reverse = 1 - values if metric == AUC else values_by_seed(mine, "attack", f"{TPR}_reversed", attacks, seeds)
    return leave_one_out(np.concatenate([values, reverse[np.isfinite(reverse).all(1)]]))[0]


def _complete_attacks(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, attacks: Sequence[str], seeds: Sequence[int]
) -> list[str]:
    """The attacks that have the metric for both defenses on every seed."""
    values = np.array([values_by_seed(entry, "attack", metric, attacks, seeds) for entry in (a, b)])
    return [n for n, whole in zip(attacks, np.isfinite(values).all((0, 2)).tolist(), strict=True) if whole]


def values_by_seed(mine: pd.DataFrame, other: str, metric: str, names: Sequence[str], seeds: Sequence[int]) -> Floats:
    """A metric's values (names, seeds) of one entry in one task; NaN where there is none.

    mine: the entry's scenarios; other: the column that holds the opponents' `names`.
    """
    wide = mine.pivot(index=other, columns="seed", values=metric)
    values: Floats = wide.reindex(index=list(names), columns=list(seeds)).to_numpy(float)
    return values


def _row(task: str, metric: str, against: str, first: Floats, second: Floats) -> dict[str, object]:
    """A row for values (targets, seeds) or (seeds,); what one of the two lacks (NaN) counts for neither."""
    a, b = np.atleast_2d(first), np.atleast_2d(second)
    both = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(both, a, np.nan), np.where(both, b, np.nan)
    means = [estimate(nanmean(values, axis=0)).mean for values in (a, b)]
    # Records hold 6 digits: a difference beyond the 9th decimal is rounding of the arithmetic.
    numbers = [round(number, 9) for number in paired_difference(a, b)]
    row = [task, metric, against, *means, *numbers, int(both.any(0).sum()), verdict(metric, *numbers)]
    return dict(zip(COLUMNS, row, strict=True))


def verdict(metric: str, difference: float, low: float, high: float) -> str:
    """In words, what the 95 % interval (low, high) of first - second shows."""
    if not np.isfinite(low):
        return "one seed: no interval"
    if low == high == 0:
        return "equal"
    if low <= 0 <= high:
        return "not told apart"
    leaks = METRICS[metric].leaks
    if leaks == "none":
        return "first is higher" if difference > 0 else "second is higher"
    return "first leaks more" if (difference > 0) == (leaks == "up") else "second leaks more"
