"""The figures of the app's main pages, as Altair charts, in the colour-blind safe palette of Okabe and Ito."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from benchmark.result import Result
from benchmark.text import name_parts
from leaderboard import labels
from leaderboard.ranking import AUC
from leaderboard.texts import short_names

BLUE, ORANGE, GREY, VERMILLION, DARK = "#3a8fcf", "#d98a00", "#8a8f98", "#d55e00", "#1b2430"
STUDIES = ["#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a7a00"]
RATES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
KINDS = {"ranked": BLUE, "not ranked": GREY, "claims differential privacy (reference)": VERMILLION}
"""Kinds of points on the privacy-utility chart with their colours. The last one is the reference for all defenses."""
HEIGHT, FITTED_HEIGHT = 460, 460
"""Heights in pixels: the plots of the trade-off and of the model risks."""
AXIS_HEIGHT, LEGEND_HEIGHT = 81, 22
"""Heights in pixels: axis and title below a plot, and a line of its legend. Streamlit's figure height includes both."""


def tradeoff(
    points: pd.DataFrame, label: str, metric: str, lines: Mapping[str, float], baseline: str = ""
) -> alt.LayerChart:
    """Leakage over test accuracy with 95 % intervals, the Pareto front, and the curves of Optuna's studies.

    points: `views.tradeoff.points`, one row a defense of the board or a trial on a study's front. Columns: defense,
    kind (of KINDS, or a study's name), curve (points of the same curve are joined in the order of `place`; "": none),
    front (bool), accuracy, accuracy_low, accuracy_high, leakage, leakage_low, leakage_high, decided (the deciding
    attack), reason (why not ranked). label, metric: of the leakage. lines: leakage of reference lines by name, and
    under "floor" the accuracy of the utility floor. baseline: a defense that is named first. Beside it the front, the
    reference and then the others have names as far as there is room (`labels.place`); all have theirs when pointed at.
    """
    own = points.kind.isin(list(KINDS))
    lowest = min(0.46, float(points.leakage.min()) - 0.02) if metric == AUC else 0.004
    data = points.assign(
        name=points.defense.map(short_names(points.defense[own])),
        **{c: points[c].clip(lower=lowest) for c in ("leakage", "leakage_low", "leakage_high")},
    )
    highest = float(np.nanmax(data[["leakage", "leakage_high"]].to_numpy(float)))
    limits = [lowest, min(1.0, highest + 0.03 if metric == AUC else highest * 1.4)]
    accuracies = data[["accuracy", "accuracy_low", "accuracy_high"]].to_numpy(float)
    edges = [float(np.nanmin(accuracies)), float(np.nanmax(accuracies))]
    room = max(0.01, 0.05 * (edges[1] - edges[0]))
    edges = [edges[0] - room, edges[1] + room]
    across = alt.Scale(domain=edges, nice=False)
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
        _reference(*_words(name, value), value, across if name == "floor" else scale)
        for name, value in lines.items()
        if np.isfinite(value) and (name != "floor" or edges[0] < value < edges[1])
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
    there = np.positive if metric == AUC else np.log

    def across_and_down(accuracy: float, leakage: float) -> tuple[float, float]:
        down = (there(limits[1]) - there(leakage)) / (there(limits[1]) - there(limits[0])) * HEIGHT
        return (accuracy - edges[0]) / (edges[1] - edges[0]), float(down)

    named = data.assign(
        first=data.defense == baseline, last=~data.kind.isin(list(KINDS)[:1]) & (data.kind != [*KINDS][-1])
    )
    named = named[own].sort_values(["first", "front", "last", "leakage"], ascending=[False, False, True, True])
    taken = [
        _box(*_words(name, value), *across_and_down(value, limits[1]))
        if name == "floor"
        else _box(*_words(name, value), *across_and_down(edges[0], value))
        for name, value in lines.items()
        if np.isfinite(value)
    ]
    places = labels.place(
        [across_and_down(a, v) for a, v in zip(data.accuracy, data.leakage, strict=True)],
        [(list(data.index).index(i), str(name)) for i, name in named.name.items()], HEIGHT, taken,
    )  # fmt: skip
    layers += _named(data, places, "name", x, y, color=colour)
    return alt.layer(*layers).properties(height=HEIGHT + AXIS_HEIGHT + LEGEND_HEIGHT * len(domain))


def _named(
    data: pd.DataFrame, places: Sequence[labels.Label], name: str, x: alt.X, y: alt.Y, **mark: Any
) -> list[alt.Chart]:
    """A layer of names for each side of the points on which some stand; name: the column with the names."""
    layers = []
    for side, (align, dx, dy) in labels.SIDES.items():
        some = [place.point for place in places if place.side == side]
        if some:
            words = alt.Chart(data.iloc[some]).mark_text(align=align, baseline="middle", dx=dx, dy=dy, fontSize=12)
            layers.append(words.encode(x=x, y=y, text=f"{name}:N", **mark))
    return layers


def _words(name: str, value: float) -> tuple[str, str]:
    """What a reference line is called, and which axis its value lies on."""
    return (f"utility floor {value:.2f}", "x") if name == "floor" else (f"{name} {value:.3f}", "y")


def _box(text: str, axis: str, across: float, down: float) -> labels.Box:
    """The box of a reference line's name in the narrowest plot; across and down: where the line meets an edge."""
    left, length = (across * labels.WIDTH + 4 if axis == "x" else 4.0), labels.LETTER * len(text)
    top = 4.0 if axis == "x" else down - 3 - labels.HEIGHT
    return labels.Box(left, top, left + length, top + labels.HEIGHT)


def _reference(text: str, axis: str, value: float, scale: alt.Scale) -> alt.LayerChart:
    """A line across the chart at this value, with its name; axis "x" draws it vertically."""
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


def by_class(points: pd.DataFrame) -> alt.LayerChart:
    """The AUC within each class: the mean over seeds, with a bar from the least to the largest.

    points: columns class, seed, auc.
    """
    base = alt.Chart(points).encode(x=alt.X("class:O", title="Class", axis=alt.Axis(labelAngle=0)))
    scale = alt.Scale(zero=False)
    bars = base.mark_rule(color=GREY).encode(y=alt.Y("min(auc):Q", title="AUC", scale=scale), y2="max(auc):Q")
    means = base.mark_point(color=BLUE, filled=True, opacity=1).encode(
        y=alt.Y("mean(auc):Q", title="AUC", scale=scale),
        tooltip=["class:O", *(alt.Tooltip(f"{of}(auc):Q", title=f"{of} AUC", format=".3f") for of in ("mean", "min", "max"))],
    )  # fmt: skip
    guess = (
        alt.Chart(pd.DataFrame({"auc": [0.5]}))
        .mark_rule(color=ORANGE, strokeDash=[2, 3])
        .encode(y=alt.Y("auc:Q", title="AUC", scale=scale))
    )
    return alt.layer(bars, means, guess).properties(height=240)


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
    risks = np.concatenate([points.risk, ends]).astype(float)
    left, right = float(risks.min()), float(risks.max())
    room = 0.06 * (right - left)
    left, right = left - room, right + room
    x = alt.X("risk:Q", title=x_label, scale=alt.Scale(domain=[left, right], nice=False))
    y = alt.Y("success:Q", title=y_label, scale=scale)
    # A name stands at the seed that is closest to the mean over seeds; the most risky defenses come first.
    points = points.reset_index(drop=True)
    drawn_at = pd.DataFrame({
        "across": (points.risk - left) / (right - left), "down": (high - points.success) / (high - low) * FITTED_HEIGHT
    })  # fmt: skip
    means = drawn_at.groupby(points.defense).transform("mean")
    off = ((drawn_at.across - means.across) * labels.WIDTH) ** 2 + (drawn_at.down - means.down) ** 2
    closest = off.groupby(points.defense).idxmin()
    points["name"] = points.defense.map(short_names(points.defense))
    order = points.loc[closest].sort_values("risk", ascending=False)
    places = labels.place(
        list(drawn_at.itertuples(index=False, name=None)), list(zip(order.index.tolist(), order["name"], strict=True)), FITTED_HEIGHT
    )  # fmt: skip
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
        *_named(points, places, "name", x, alt.Y("success:Q", scale=scale, title=y_label), color=alt.value(GREY)),
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
