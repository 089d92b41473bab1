"""The figures of the app, as Altair charts. Colours are Okabe and Ito's: told apart by everybody."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from benchmark.metrics import METRICS
from benchmark.result import Result
from leaderboard.ranking import AUC

BLUE, ORANGE, GREY = "#3a8fcf", "#d98a00", "#8a8f98"
RATES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]


def leakage_against_accuracy(table: pd.DataFrame, metric: str, floor: float) -> alt.LayerChart:
    """Worst-case leakage over test accuracy with 95 % intervals over seeds, one point a defense.

    table: `ranking.defense_table`. The dashed line is the null worst case: what as many attacks reach on
    permuted labels (95 % quantile, averaged over the ranked defenses). The dotted line is the utility floor;
    what lies far below it is not drawn.
    """
    worst, label = f"worst_{metric}", f"Worst-case {METRICS[metric].label}"
    lowest = 0.46 if metric == AUC else 0.004
    data = pd.DataFrame({
        "defense": table.defense,
        "name": table.defense.str.replace(r"\[[^\]]*\]", "", regex=True),
        "state": table.reason.map(lambda reason: "not ranked" if reason else "ranked"),
        "decided": table[f"{worst}_attack"],
        "leakage": table[worst],
        "low": table[f"{worst}_low"].clip(lower=lowest),
        "high": table[f"{worst}_high"].clip(lower=lowest),
        "accuracy": table.test_accuracy,
        "left": table.test_accuracy_low,
        "right": table.test_accuracy_high,
        "trust": table.trust,
        "isolation": table.isolation,
    }).dropna(subset=["leakage", "accuracy"])  # fmt: skip
    if np.isfinite(floor):  # a collapsed model would squeeze the others into a corner
        data = data[data.accuracy > 0.9 * floor]
    highest = float(np.nanmax(data[["leakage", "high"]].to_numpy(float))) if len(data) else 1.0
    limits = [lowest, min(1.0, highest * 1.4) if metric != AUC else min(1.0, highest + 0.03)]
    x = alt.X("accuracy:Q", title="Test accuracy", scale=alt.Scale(zero=False, padding=40))
    scale = alt.Scale(type="linear" if metric == AUC else "log", domain=limits, nice=False)
    y = alt.Y(
        "leakage:Q", title=label, scale=scale, axis=alt.Axis(values=RATES, format="~g") if metric != AUC else alt.Axis()
    )
    states = alt.Scale(domain=["ranked", "not ranked"], range=[BLUE, GREY])
    base = alt.Chart(data).encode(
        color=alt.Color("state:N", title=None, scale=states, legend=alt.Legend(orient="top", symbolOpacity=1))
    )
    whole = alt.Chart(data.dropna()).encode(color=alt.Color("state:N", scale=states))
    tooltip = [
        alt.Tooltip("defense:N"),
        alt.Tooltip("leakage:Q", title=label, format=".3f"),
        alt.Tooltip("decided:N", title="decided by"),
        alt.Tooltip("accuracy:Q", title="test accuracy", format=".3f"),
        alt.Tooltip("trust:N"),
        alt.Tooltip("isolation:N"),
    ]
    layers: list[alt.Chart | alt.LayerChart] = [
        whole.mark_rule(strokeWidth=1.5, opacity=0.5).encode(
            x=x, y=alt.Y("low:Q", scale=scale, title=label), y2="high:Q"
        ),
        whole.mark_rule(strokeWidth=1.5, opacity=0.5).encode(
            x=alt.X("left:Q", title="Test accuracy"), x2="right:Q", y=y
        ),
        base.mark_circle(size=90, opacity=1).encode(x=x, y=y, tooltip=tooltip),
    ]
    # Neighbours in leakage have their names on different sides, so that fewer of them overlap.
    order = data.leakage.rank(method="first") % 2
    for side, align, dx in ((0, "left", 9), (1, "right", -9)):
        names = alt.Chart(data[order == side]).mark_text(align=align, dx=dx, dy=-9, fontSize=12)
        layers.append(names.encode(x=x, y=y, text="name:N", color=alt.Color("state:N", scale=states)))
    null = table.loc[table.reason == "", f"{worst}_null_95"].mean()
    if np.isfinite(null):
        layers.insert(0, _reference(f"null worst case {null:.3f}", "y", null, [6, 4], scale))
    if np.isfinite(floor):
        layers.insert(
            0, _reference(f"utility floor {floor:.2f}", "x", floor, [2, 3], alt.Scale(zero=False, padding=40))
        )
    return alt.layer(*layers).properties(height=440)


def _reference(text: str, axis: str, value: float, dash: Sequence[int], scale: alt.Scale) -> alt.LayerChart:
    """A line across the chart with its name."""
    base = alt.Chart(pd.DataFrame({"value": [value], "text": [text]}))
    line, words = base.mark_rule(color=ORANGE, strokeDash=list(dash), strokeWidth=1.5), base.mark_text
    if axis == "y":
        name = words(color=ORANGE, align="left", baseline="bottom", dx=4, dy=-3)
        y = alt.Y("value:Q", scale=scale)
        return line.encode(y=y) + name.encode(y=y, x=alt.value(0), text="text:N")
    name = words(color=ORANGE, align="left", baseline="top", dx=4)
    x = alt.X("value:Q", scale=scale)
    return line.encode(x=x) + name.encode(x=x, y=alt.value(4), text="text:N")


def roc(result: Result) -> alt.LayerChart:
    """The ROC curve on two logarithmic axes, from the smallest rate that the samples resolve; chance is dashed."""
    if result.roc is None:
        raise ValueError("this result holds no ROC curve")
    smallest = 1 / max(result.metrics.get("nonmembers", 1000.0), 10.0)
    curve = pd.DataFrame({"FPR": result.roc[0], "TPR": result.roc[1]}).clip(lower=smallest).drop_duplicates()
    scale = alt.Scale(type="log", domain=[smallest, 1])
    x = alt.X("FPR:Q", scale=scale, title="False positive rate", axis=alt.Axis(values=RATES, format="~g"))
    y = alt.Y("TPR:Q", scale=scale, title="True positive rate", axis=alt.Axis(values=RATES, format="~g"))
    chance = alt.Chart(pd.DataFrame({"FPR": [smallest, 1], "TPR": [smallest, 1]}))
    line = alt.Chart(curve).mark_line(color=BLUE, interpolate="step-after", strokeWidth=2.5)
    return (
        chance.mark_line(color=GREY, strokeDash=[6, 4]).encode(x=x, y=y)
        + line.encode(x=x, y=y, tooltip=[alt.Tooltip("FPR:Q", format=".4f"), alt.Tooltip("TPR:Q", format=".4f")])
    ).properties(height=420)
