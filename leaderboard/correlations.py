"""How the kinds of attack go together over defenses: Spearman's rank correlations with intervals. Pure functions: no app, no files.

Source: Liu et al. 2022 (ML-DOCTOR), sections 6.2 to 6.4, figures 8 and 10, over data sets and networks: attacks against each other, and
against overfitting and the data's complexity. Here a point is a defense on one data set and network.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.metrics import TASK_METRICS
from leaderboard.comparison import Floats
from leaderboard.kinds import excesses
from leaderboard.ranking import Board

MEASURES = {
    **dict.fromkeys(TASK_METRICS, "excess"),
    "overfitting": "train minus test accuracy",
    "classes": "number of classes",
}
"""What is correlated, and what it is; the kinds of attack first."""
POINT = ["dataset", "network", "defense"]
"""What a point is: boards of the same data and network share their points, for their targets are no new ones."""
LEAST = 8
"""With fewer points there is no correlation."""
DRAWS = 1000
"""Draws of the bootstrap."""


class Correlation(NamedTuple):
    """Spearman's rho over so many points with its 95 % interval; NaN where `note` says why."""

    first: str
    second: str
    points: int
    note: str = ""
    rho: float = np.nan
    low: float = np.nan
    high: float = np.nan


def measures(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    """One row a defense and seed of a board: dataset, network, defense, seed and the columns of MEASURES; NaN for what there is not.

    frame: `ranking.scenarios`.
    """
    utility = frame[(frame.task == "utility") & (frame.status == "ok")]
    gaps = utility[["defense", "seed"]].assign(overfitting=utility.train_accuracy - utility.test_accuracy)
    table = excesses(frame, board).merge(gaps, on=["defense", "seed"], how="left")
    first = frame.result.iloc[0]
    table = table.assign(dataset=first.dataset, network=first.architecture, classes=_classes(frame))
    return table.reindex(columns=[*POINT, "seed", *MEASURES])


def _classes(frame: pd.DataFrame) -> float:
    """The number of classes, as a record of a membership attack holds it; NaN where none does, as in older records."""
    rows = frame[(frame.task == "membership") & (frame.status == "ok") & frame.class_auc.notna()]
    return float(len(rows.result.iloc[0].values["class_auc"])) if len(rows) else np.nan


def correlations(points: pd.DataFrame, rng: np.random.Generator) -> list[Correlation]:
    """Every pair of measures that some row has. points: rows of `measures`, of all boards; rng: of the bootstrap."""
    there = [m for m in MEASURES if points[m].notna().any()]
    pairs = combinations(there, 2)
    return [correlation(points, a, b, rng) for a, b in pairs if (a, b) != ("overfitting", "classes")]


def correlation(points: pd.DataFrame, first: str, second: str, rng: np.random.Generator) -> Correlation:
    """Spearman's rank correlation of two measures over the points that have both, each the mean over its seeds.

    The interval is the bootstrap's 2.5 and 97.5 % quantiles. A draw takes seeds with replacement, for all defenses of a data set and
    network alike because they share their samples, and independently points with replacement (Owen 2007, the pigeonhole bootstrap).
    """
    rows = points.dropna(subset=[first, second])
    rows = rows.groupby([*POINT, "seed"], as_index=False)[[first, second]].mean()
    names = rows[POINT].drop_duplicates()
    if len(names) < LEAST:
        return Correlation(first, second, len(names), f"fewer than {LEAST} points")
    seeds = sorted(rows.seed.unique())
    wide = [
        rows.pivot(index=POINT, columns="seed", values=m).reindex(columns=seeds).to_numpy(float)
        for m in (first, second)
    ]
    index = rows.pivot(index=POINT, columns="seed", values=first).index.to_frame(index=False)
    means = [np.nanmean(values, 1) for values in wide]
    if any(np.ptp(mean) < 1e-9 for mean in means):
        flat = next(m for m, mean in zip((first, second), means, strict=True) if np.ptp(mean) < 1e-9)
        return Correlation(first, second, len(names), f"{flat} is the same at all points")
    groups = index.groupby(POINT[:2]).ngroup().to_numpy()
    weights = np.zeros((DRAWS, len(index), len(seeds)))
    for group in np.unique(groups):
        mine = groups == group
        has = np.isfinite(wide[0][mine]).any(0)
        drawn = np.zeros((DRAWS, len(seeds)))
        drawn[:, has] = rng.multinomial(has.sum(), np.full(has.sum(), 1 / has.sum()), DRAWS)
        weights[:, mine] = drawn[:, None]
    taken = rng.integers(len(index), size=(DRAWS, len(index)))
    draws = [np.take_along_axis(_means(values, weights), taken, 1) for values in wide]
    rhos = spearman(*draws)
    low, high = np.nanquantile(rhos, [0.025, 0.975]) if np.isfinite(rhos).any() else (np.nan, np.nan)
    rho = float(spearman(means[0][None], means[1][None])[0])
    return Correlation(first, second, len(names), "", rho, float(low), float(high))


def _means(values: Floats, weights: Floats) -> Floats:
    """The means (draws, points) of values (points, seeds) with how often a draw took each seed (draws, points, seeds); NaN without any."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = (weights * np.where(finite, values, 0)).sum(-1) / (weights * finite).sum(-1)
    return mean


def spearman(first: Floats, second: Floats) -> Floats:
    """Spearman's rho (n,) of the rows of two arrays (n, points): Pearson's r of ranks, equal values sharing their mean rank.

    Points that are NaN in either are left out; NaN where nothing varies.
    """
    both = np.isfinite(first) & np.isfinite(second)
    ranks = [pd.DataFrame(np.where(both, values, np.nan)).rank(axis=1).to_numpy() for values in (first, second)]
    off = [np.where(both, r - np.nanmean(np.where(both, r, np.nan), 1, keepdims=True), 0) for r in ranks]
    with np.errstate(invalid="ignore", divide="ignore"):
        rho: Floats = (off[0] * off[1]).sum(1) / np.sqrt((off[0] ** 2).sum(1) * (off[1] ** 2).sum(1))
    return rho


def pooled(by_board: Mapping[str, tuple[pd.DataFrame, Board]]) -> pd.DataFrame:
    """The rows of `measures` of these boards, by name, with the column protocol."""
    parts = [measures(*board).assign(protocol=name) for name, board in by_board.items()]
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*POINT, "seed", *MEASURES, "protocol"])
    )
