"""Risk without an attack: measures of a model, and lines from a measure to the success of an attack, with the error of what they predict.

Sources: He et al. 2022 (MEMBERSHIP-DOCTOR), section 4.4 and figure 9: the JS distance, and one line for all data and networks;
Song et al. 2019: the adversarial train minus test accuracy of robust networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

COLUMNS = ["defense", "dataset", "network", "seed", "js", "null", "overfitting", "adversarial", "success"]
GAPS = {
    "overfitting": ("train_accuracy", "test_accuracy"),
    "adversarial": ("robust_train_accuracy", "robust_accuracy"),
}
"""Measures that are a difference of two metrics of a target, the first minus the second."""


class Line(NamedTuple):
    """success = slope * measure + intercept, and Pearson's r."""

    slope: float
    intercept: float
    r: float


def line(x: pd.Series, y: pd.Series) -> Line | None:
    """The least-squares line; None with under 3 points or no variation."""
    if len(x) < 3 or np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return Line(float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1]))


def risks(scenarios: pd.DataFrame, measure: str, attack: str, success: str) -> pd.DataFrame:
    """One row for each defense and seed on which the attack was scored; NaN for what a record lacks. Columns: COLUMNS.

    scenarios: `ranking.scenarios`. measure: a JS distance, which becomes `js`, with its 95 % quantile under permuted labels
    as `null`; success: a metric of the attack.
    """
    utility = scenarios[(scenarios.task == "utility") & (scenarios.status == "ok")]
    rows = [
        {"defense": r.defense, "dataset": r.dataset, "network": r.architecture, "seed": r.seed}
        | {"js": r.metrics.get(measure, np.nan), "null": r.metrics.get(f"{measure}_null", np.nan)}
        | {n: r.metrics.get(a, np.nan) - r.metrics.get(b, np.nan) for n, (a, b) in GAPS.items()}
        for r in utility.result
    ]
    known = pd.DataFrame(rows, columns=COLUMNS[:-1])
    mine = scenarios[(scenarios.task == "membership") & (scenarios.status == "ok") & (scenarios.attack == attack)]
    reached = mine[["defense", "seed", success]].rename(columns={success: "success"})
    return known.merge(reached, on=["defense", "seed"]).sort_values(["defense", "seed"], ignore_index=True)


def pooled(by_protocol: Mapping[str, pd.DataFrame], measure: str = "js") -> pd.DataFrame:
    """One row a defense of a protocol, means over its seeds: columns protocol, dataset, network, defense, risk, success, predicted.

    by_protocol: tables of `risks`. predicted: what the line of all other data sets and networks says of a row; of all
    other defenses, where there is one data set and network alone; NaN where they give no line.
    """
    names = ["protocol", "dataset", "network", "defense"]
    rows = [table.assign(protocol=name, risk=table[measure]) for name, table in by_protocol.items()]
    points = pd.concat(rows or [pd.DataFrame(columns=[*names, "risk", "success"])])[[*names, "risk", "success"]]
    points = points.dropna(subset=["risk", "success"]).astype({"risk": float, "success": float})
    points = points.groupby(names, as_index=False).mean()
    return points.assign(predicted=_left_out(points))


def left_out(points: pd.DataFrame) -> list[str]:
    """The columns of `pooled` whose values a row's prediction has not seen."""
    groups = points[["dataset", "network"]].drop_duplicates()
    return ["dataset", "network"] if len(groups) > 1 else ["defense"]


def _left_out(points: pd.DataFrame) -> pd.Series:
    predicted = pd.Series(np.nan, points.index)
    for _, rows in points.groupby(left_out(points)).groups.items():
        others = points.drop(rows)
        if fit := line(others.risk, others.success):
            predicted[rows] = fit.slope * points.risk[rows] + fit.intercept
    return predicted


def error(predicted: pd.Series, success: pd.Series) -> float:
    """Root mean squared error of what was predicted; NaN where nothing was."""
    difference = (predicted - success).dropna()
    return float(np.sqrt((difference**2).mean())) if len(difference) else float("nan")
