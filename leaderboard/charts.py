"""The figures of the app's main pages, as Altair charts, in the colour-blind safe palette of Okabe and Ito."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from benchmark.result import Result
from benchmark.text import name_parts
from leaderboard.ranking import AUC
from leaderboard.texts import short_names

BLUE, ORANGE, GREY, VERMILLION, DARK = "#3a8fcf", "#d98a00", "#8a8f98", "#d55e00", "#1b2430"
STUDIES = ["#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a7a00"]
RATES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
KINDS = {"ranked": BLUE, "not ranked": GREY, "claims differential privacy (reference)": VERMILLION}
"""Kinds of points on the privacy-utility chart with their colours. The last one is the reference for all defenses."""
HEIGHT, FITTED_HEIGHT, NAME_HEIGHT = 460, 460, 13
"""Heights in pixels: the plots of the trade-off and of the model risks, and a line of text in them."""
AXIS_HEIGHT, LEGEND_HEIGHT = 81, 22
"""Heights in pixels: axis and title below a plot, and a line of its legend. Streamlit's figure height includes both."""


def tradeoff(points: pd.DataFrame, label: str, metric: str, lines: Mapping[str, float]) -> alt.LayerChart:
    """Leakage over test accuracy with 95 % intervals, the Pareto front, and the curves of Optuna's studies.

    points: `views.tradeoff.points`, one row a defense of the board or a trial on a study's front. Columns: defense,
    kind (of KINDS, or a study's name), curve (points of the same curve are joined in the order of `place`; "": none),
    front (bool), accuracy, accuracy_low, accuracy_high, leakage, leakage_low, leakage_high, decided (the deciding
    attack), reason (why not ranked). label, metric: of the leakage. lines: leakage of reference lines by name, and
    under "floor" the accuracy of the utility floor.
    """
    own = points.kind.isin(list(KINDS))
    lowest = min(0.46, float(points.leakage.min()) - 0.02) if metric == AUC else 0.004
    data = points.assign(
        name=points.defense.map(short_names(points.defense[own])),
        **{c: points[c].clip(lower=lowest) for c in ("leakage", "leakage_low", "leakage_high")},
    )
    highest = float(np.nanmax(data[["leakage", "leakage_high"]].to_numpy(float)))
    limits = [lowest, min(1.0, highest + 0.03 if metric == AUC else highest * 1.4)]
    across = alt.Scale(zero=False, padding=40)
    scale = alt.Scale(type="linear" if metric == AUC else "log", domain=limits, nice=False)
    x = alt.X("accuracy:Q", title="Test accuracy", scale=across)
    ticks = alt.Axis() if metric == AUC else alt.Axis(values=RATES, format="~g")
    y = alt.Y("leakage:Q", title=label, scale=scale, axis=ticks)
    studies = sorted(points.kind[~own].unique())
    kinds = [k for k in KINDS if (points.kind == k).any()]
    colours = [KINDS[k] for k in kinds] + [STUDIES[i % len(STUDIES)] for i in range(len(studies))]
    shapes = ["diamond" if k == [*KINDS][-1] else "circle" for k in kinds] + ["triangle-up"] * len(studies)
    legend = alt.Legend(orient="bottom", columns=1, labelLimit=600, symbolOpacity=1, symbolStrokeWidth=1.5)
    domain = kinds + studies
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(domain=domain, range=colours), legend=legend)
    shape = alt.Shape("kind:N", title=None, scale=alt.Scale(domain=domain, range=shapes), legend=legend)
    tooltip = [
        alt.Tooltip("defense:N"),
        alt.Tooltip("kind:N"),
        alt.Tooltip("leakage:Q", title=label, format=".3f"),
        alt.Tooltip("decided:N", title="decided by"),
        alt.Tooltip("accuracy:Q", title="test accuracy", format=".3f"),
        alt.Tooltip("reason:N", title="why not ranked"),
    ]
    bars = alt.Chart(data.dropna(subset=["leakage_low", "accuracy_low"])).mark_rule(strokeWidth=1.5, opacity=0.45)
    front = data[data.front].sort_values("accuracy")
    layers: list[alt.Chart | alt.LayerChart] = [
        _reference(name, "x" if name == "floor" else "y", value, across if name == "floor" else scale)
        for name, value in lines.items()
        if np.isfinite(value)
    ]
    layers += [
        # At a wanted accuracy the best choice is the least leaking point at least as accurate: steps, not slopes.
        alt.Chart(front).mark_line(color=GREY, strokeWidth=2, interpolate="step-before").encode(x=x, y=y),
        alt.Chart(data[data.curve != ""]).mark_line(strokeWidth=1.5, strokeDash=[5, 3])
        .encode(x=x, y=y, detail="curve:N", color=colour, order="place:Q"),
        bars.encode(x=x, y=alt.Y("leakage_low:Q", scale=scale, title=label), y2="leakage_high:Q", color=colour),
        bars.encode(x=alt.X("accuracy_low:Q", scale=across, title="Test accuracy"), x2="accuracy_high:Q", y=y, color=colour),
        alt.Chart(data[own]).mark_point(size=95, filled=True, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip),
    ]  # fmt: skip
    if studies:  # to assistive technologies an empty layer would be a picture without a name
        layers.append(
            alt.Chart(data[~own]).mark_point(size=55, filled=False, opacity=1)
            .encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip)
        )  # fmt: skip
    # Names stand left of the less accurate half of the points and right of the others, and never overlap.
    side = data[own].accuracy > data[own].accuracy.median()
    there, back = (np.positive, np.positive) if metric == AUC else (np.log, np.exp)
    low, high = there(limits)
    heights = (there(data.leakage[own].to_numpy(float)) - low) / (high - low) * HEIGHT
    data.loc[own, "named"] = back(low + spread(heights, NAME_HEIGHT) / HEIGHT * (high - low))
    for right, align, dx in ((True, "left", 9), (False, "right", -9)):
        words = alt.Chart(data[own][side == right]).mark_text(align=align, dx=dx, dy=-9, fontSize=12, limit=220)
        layers.append(words.encode(x=x, y=alt.Y("named:Q", scale=scale, title=label), text="name:N", color=colour))
    return alt.layer(*layers).properties(height=HEIGHT + AXIS_HEIGHT + LEGEND_HEIGHT * len(domain))


def spread(heights: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """The heights (n,) that are at least `least` apart in the same order and closest to these in squared distance.

    By isotonic regression (pool-adjacent-violators): crowded heights form a block around their mean.
    """
    order = np.argsort(heights, kind="stable")
    steps = least * np.arange(len(heights))
    moved = np.empty(len(heights))
    moved[order] = isotonic_regression(heights[order] - steps).x + steps if len(heights) else []
    return moved


def _reference(name: str, axis: str, value: float, scale: alt.Scale) -> alt.LayerChart:
    """A line across the chart at this value, with its name; axis "x" draws it vertically."""
    text = f"utility floor {value:.2f}" if axis == "x" else f"{name} {value:.3f}"
    base = alt.Chart(pd.DataFrame({"value": [value], "text": [text]}))
    line = base.mark_rule(color=ORANGE, strokeDash=[2, 3] if axis == "x" else [6, 4], strokeWidth=1.5)
    if axis == "y":
        words = base.mark_text(color=ORANGE, align="left", baseline="bottom", dx=4, dy=-3)
        y = alt.Y("value:Q", scale=scale)
        return line.encode(y=y) + words.encode(y=y, x=alt.value(0), text="text:N")
    words = base.mark_text(color=ORANGE, align="left", baseline="top", dx=4)
    x = alt.X("value:Q", scale=scale)
    return line.encode(x=x) + words.encode(x=x, y=alt.value(4), text="text:N")


def roc(results: Sequence[Result]) -> alt.LayerChart:
    """The ROC curve on two logarithmic axes, from the smallest rate that the samples resolve; chance is dashed.

    Several seeds: the mean TPR at each FPR, and a band from the lowest seed to the highest. One seed: its curve with
    the record's bootstrap intervals of TPRs. Raises ValueError where no result has a curve.
    """
    curves = [(np.array(r.roc[0]), np.array(r.roc[1])) for r in results if r.roc is not None]
    if not curves:
        raise ValueError("expected a result with a ROC curve, given none")
    smallest = 1 / max(min(r.metrics.get("nonmembers", 1000.0) for r in results), 10.0)
    rates = np.unique(np.concatenate([*(fpr for fpr, _ in curves), [smallest]]))
    rates = rates[rates >= smallest * (1 - 1e-9)]
    # No interpolation: the TPR at a rate is that of the last corner whose FPR does not exceed it (RULES 15).
    tprs = np.array([tpr[np.searchsorted(fpr, rates + 1e-9, side="right") - 1] for fpr, tpr in curves])
    drawn = pd.DataFrame({"FPR": rates, "TPR": tprs.mean(0), "low": tprs.min(0), "high": tprs.max(0)})
    drawn = drawn.clip(lower=smallest)
    scale = alt.Scale(type="log", domain=[smallest, 1], nice=False)
    axis = alt.Axis(values=[r for r in RATES if r >= smallest], format="~g")
    x = alt.X("FPR:Q", scale=scale, title="False positive rate", axis=axis)
    y = alt.Y("TPR:Q", scale=scale, title="True positive rate", axis=axis)
    chance = alt.Chart(pd.DataFrame({"FPR": [smallest, 1], "TPR": [smallest, 1]}))
    shown = [alt.Tooltip(c, format=".4f") for c in ("FPR:Q", "TPR:Q", "low:Q", "high:Q")]
    line = alt.Chart(drawn).mark_line(color=BLUE, interpolate="step-after", strokeWidth=2.5)
    layers: list[alt.Chart] = [chance.mark_line(color=GREY, strokeDash=[6, 4]).encode(x=x, y=y)]
    if len(curves) > 1:
        band = alt.Chart(drawn).mark_area(color=BLUE, opacity=0.22, interpolate="step-after")
        layers.append(band.encode(x=x, y=alt.Y("low:Q", scale=scale, title="True positive rate"), y2="high:Q"))
    layers.append(line.encode(x=x, y=y, tooltip=shown))
    if len(results) == 1 and (bars := _tpr_intervals(results[0], smallest)) is not None:
        rule = alt.Chart(bars).mark_errorbar(color=BLUE, ticks=True, thickness=2)
        layers.append(rule.encode(x=x, y=alt.Y("low:Q", scale=scale, title="True positive rate"), y2="high:Q"))
    return alt.layer(*layers).properties(height=400)


def _tpr_intervals(result: Result, smallest: float) -> pd.DataFrame | None:
    """The record's bootstrap intervals of TPRs, columns FPR, low and high; None without any."""
    rows = [
        {"FPR": float(match[1]), "low": max(low, smallest), "high": max(high, smallest)}
        for name, (low, high) in result.intervals.items()
        if (match := re.fullmatch(r"tpr_at_fpr_([\d.]+)", name)) and float(match[1]) >= smallest
    ]
    return pd.DataFrame(rows) if rows else None


def histogram(edges: Sequence[float], members: Sequence[float], nonmembers: Sequence[float]) -> alt.Chart:
    """Histograms of the scores of members and non-members: edges (k + 1) and counts (k), drawn as shares."""
    parts = [
        pd.DataFrame({"left": edges[:-1], "right": edges[1:], "share": np.array(c) / max(1.0, sum(c)), "who": who})
        for who, c in (("members", members), ("non-members", nonmembers))
    ]
    colour = alt.Scale(domain=["members", "non-members"], range=[VERMILLION, BLUE])
    return (
        alt.Chart(pd.concat(parts))
        .mark_bar(opacity=0.5, binSpacing=0)
        .encode(
            x=alt.X("left:Q", title="Score", bin="binned"),
            x2="right:Q",
            y=alt.Y("share:Q", title="Share", stack=None, axis=alt.Axis(format="%")),
            color=alt.Color("who:N", title=None, scale=colour, legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("who:N", title=" "),
                alt.Tooltip("share:Q", format=".1%"),
                alt.Tooltip("left:Q", format=".4g"),
                alt.Tooltip("right:Q", format=".4g"),
            ],
        )
        .properties(height=320)
    )


def fitted(
    points: pd.DataFrame, x_label: str, y_label: str, lines: Mapping[str, tuple[float, float]], chance: float
) -> alt.LayerChart:
    """Attack success over a measure of risk, one point a defense and seed, with straight lines.

    points: columns defense, seed, risk, success. lines: slope and intercept by name; the first is the fit, the others
    are dashed references. chance: the success of a random guess.
    """
    ends = np.array([min(0.0, float(points.risk.min())), float(points.risk.max()) * 1.05 or 0.01])
    drawn = pd.concat(
        [pd.DataFrame({"risk": ends, "success": a * ends + b, "line": name}) for name, (a, b) in lines.items()]
        or [pd.DataFrame({"risk": [], "success": [], "line": []})]
    )
    names = list(lines)
    legend = alt.Legend(orient="bottom", columns=1, labelLimit=500, symbolType="stroke", symbolSize=500)
    scales = [alt.Scale(domain=names, range=r[: len(names)]) for r in ([BLUE, GREY], [[1, 0], [6, 4]])]
    colour = alt.Color("line:N", title=None, scale=scales[0], legend=legend)
    dash = alt.StrokeDash("line:N", title=None, scale=scales[1], legend=legend)
    seen = np.concatenate([points.success, drawn.success, [chance]]).astype(float)
    low, high = np.nanmin(seen) - 0.01, np.nanmax(seen) + 0.01
    scale = alt.Scale(domain=[low, high], nice=False)
    x = alt.X("risk:Q", title=x_label, scale=alt.Scale(nice=False, padding=60))
    y = alt.Y("success:Q", title=y_label, scale=scale)
    middle = points.groupby("defense", as_index=False)[["risk", "success"]].mean()
    middle["name"] = middle.defense.map(short_names(middle.defense))
    # Names stand left of the less risky half of the points and right of the others, and never overlap.
    heights = spread((middle.success.to_numpy(float) - low) / (high - low) * FITTED_HEIGHT, NAME_HEIGHT)
    heights -= max(0.0, heights.max(initial=0.0) - FITTED_HEIGHT)  # names that crowd at the top stay inside the plot
    middle["named"] = low + heights / FITTED_HEIGHT * (high - low)
    right = middle.risk > middle.risk.median()
    words = [(middle[right], "left", 9), (middle[~right], "right", -9)]
    guess = alt.Chart(pd.DataFrame({"success": [chance]})).mark_rule(color=ORANGE, strokeDash=[2, 3])
    tooltip = [
        alt.Tooltip("defense:N"),
        alt.Tooltip("seed:O"),
        alt.Tooltip("risk:Q", title=x_label, format=".4f"),
        alt.Tooltip("success:Q", title=y_label, format=".3f"),
    ]
    return alt.layer(
        guess.encode(y=y),
        alt.Chart(drawn).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash),
        alt.Chart(points).mark_circle(size=70, color=VERMILLION, opacity=0.75).encode(x=x, y=y, tooltip=tooltip),
        *(
            alt.Chart(some).mark_text(align=align, dx=dx, fontSize=11, color=GREY, limit=170)
            .encode(x=x, y=alt.Y("named:Q", scale=scale, title=y_label), text="name:N")
            for some, align, dx in words
        ),
    ).properties(height=FITTED_HEIGHT + AXIS_HEIGHT + LEGEND_HEIGHT * len(names))  # fmt: skip


def budget(table: pd.DataFrame) -> alt.LayerChart | None:
    """Mean AUC of attacks over their number of queries to a target; None where no attack ran with two budgets.

    table: `ranking.attack_table`. Variants of an attack that differ only in their budget share a curve.
    """
    rows = table[table[AUC].notna() & (table.queries > 0)]
    rows = rows.assign(curve=rows.attack.map(without_budget))
    if not rows.curve.duplicated().any():
        return None
    y = alt.Y(f"{AUC}:Q", title="AUC", scale=alt.Scale(zero=False))
    base = alt.Chart(rows).encode(
        x=alt.X("queries:Q", title="Queries to a target", scale=alt.Scale(type="log", nice=False, padding=20)),
        color=alt.Color(
            "curve:N", title=None, scale=alt.Scale(range=[BLUE, *STUDIES, VERMILLION]),
            legend=alt.Legend(orient="bottom", columns=2),
        ),
        tooltip=["attack:N", alt.Tooltip("queries:Q", format=","), alt.Tooltip(f"{AUC}:Q", format=".3f")],
    )  # fmt: skip
    bars = base.mark_rule().encode(
        y=alt.Y(f"{AUC}_low:Q", title="AUC", scale=alt.Scale(zero=False)), y2=f"{AUC}_high:Q"
    )
    return alt.layer(bars, base.mark_line(point=True).encode(y=y)).properties(height=340)


def without_budget(name: str) -> str:
    """An attack's name without hyperparameters that set how much it asks: a[norm=linf,queries=9] -> a[norm=linf]."""
    id, given = name_parts(name)[0]
    kept = [p for p in given if p.partition("=")[0] not in ("queries", "copies")]
    return f"{id}[{','.join(kept)}]" if kept else id
