"""The page Model risks: Jensen-Shannon distances and overfitting of targets, against the success of attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
import yaml

from benchmark.metrics import METRICS
from leaderboard import charts
from leaderboard.ranking import AUC
from leaderboard.views import axes, chosen, download, empty, frame, number

ACCURACY = "balanced_accuracy"
MEASURES = {"js_entropy": "Entropy", "js_cross_entropy": "Cross-entropy"}
PAPER = Path(__file__).parents[1] / "risks.yaml"
"""He et al. 2022, figure 9: for each distance the attack, and slope and intercept of its accuracy over the distance."""
HELP = (
    "Jensen–Shannon distance (natural logarithm, 20 pooled bins) between the histograms of the served target's "
    "entropy, or cross-entropy, on members and on non-members"
)


def show() -> None:
    """Draw the page."""
    protocol, results = chosen()
    scored = frame(results)
    mine = scored[(scored.task == "membership") & (scored.status == "ok")]
    attacks = sorted(mine.attack.unique())
    st.title("Model risks", anchor=False)
    st.text(axes(results))
    if not attacks:
        empty("No membership attack was scored yet", "A risk is held against the success of an attack.",
              f"leakboard run --protocol {protocol}")  # fmt: skip
    left, middle, right, csv = st.columns([2, 2, 2, 1], vertical_alignment="bottom")
    measure = str(left.segmented_control(
        "JS distance of the", list(MEASURES), format_func=MEASURES.get, default="js_entropy", required=True, key="js",
        bind="query-params", help=HELP,
    ))  # fmt: skip
    line = yaml.safe_load(PAPER.read_text("utf-8"))[measure]
    theirs, slope, intercept = line["attack"], line["slope"], line["intercept"]
    # The widget's key has the measure in it, because each measure has its own default attack.
    attack = str(middle.selectbox(
        "Attack", attacks, index=attacks.index(theirs) if theirs in attacks else 0, key=f"{measure}_attack",
        bind="query-params",
    ))  # fmt: skip
    success = str(right.segmented_control(
        "Success", [ACCURACY, AUC], format_func=lambda m: METRICS[m].label, default=ACCURACY, required=True,
        key="success", bind="query-params", help=f"{METRICS[ACCURACY].help} {METRICS[AUC].help}",
    ))  # fmt: skip
    points = risks(scored, measure, attack, success)
    with csv:
        download(points, f"{protocol}-risks")
    js, gap = points.dropna(subset=["js", "success"]), points.dropna(subset=["overfitting", "success"])
    if gap.empty:
        st.text(f"{attack} has no {METRICS[success].label}: choose another attack, or AUC.")
        st.stop()
    first, second = st.columns(2, gap="large")
    with first:
        st.subheader(f"JS distance of the {MEASURES[measure].lower()}", anchor=False)
        if js.empty:
            st.text("The records hold no JS distance: they were made by an earlier version. Score them again:")
            st.code(f"leakboard run --protocol {protocol}", language=None)
        else:
            # The paper's line is fitted to this attack's accuracy, so it is drawn for nothing else.
            same = attack == theirs and success == ACCURACY
            reference = {f"He et al., figure 9: {slope:.3f} d + {intercept:.3f}": (slope, intercept)} if same else {}
            _fit(js.assign(risk=js.js), "JS distance", "d", attack, success, reference)
            st.text(f"Under permuted labels the distance stays below {js.null.mean():.3f} (95 %).")
    with second:
        st.subheader("Overfitting", anchor=False)
        _fit(gap.assign(risk=gap.overfitting), "Train accuracy − test accuracy", "g", attack, success, {})
    column = st.column_config
    config: dict[str, Any] = {
        "defense": column.TextColumn("Defense", pinned=True, width="medium"),
        "seed": column.NumberColumn("Seed", width="small"),
        "js": column.NumberColumn("JS distance", format="%.3f", help=HELP),
        "null": column.NumberColumn("Null 95 %", format="%.3f", help="95 % quantile of the distance under permuted labels"),
        "overfitting": column.NumberColumn("Overfitting", format="%.3f", help="Train accuracy − test accuracy"),
        "success": number(success),
    }  # fmt: skip
    st.dataframe(points, hide_index=True, width="stretch", column_config=config, placeholder="–", key="risks")


def risks(scenarios: pd.DataFrame, measure: str, attack: str, success: str) -> pd.DataFrame:
    """One row for each defense and seed on which the attack was scored; NaN for what a record lacks.

    scenarios: `ranking.scenarios`. measure: the distance; success: a metric of the attack. Columns: defense, seed, js
    (the distance), null (its 95 % quantile under permuted labels), overfitting, success.
    """
    utility = scenarios[(scenarios.task == "utility") & (scenarios.status == "ok")]
    rows = [
        {
            "defense": r.defense,
            "seed": r.seed,
            "js": r.metrics.get(measure, np.nan),
            "null": r.metrics.get(f"{measure}_null", np.nan),
            "overfitting": r.metrics.get("train_accuracy", np.nan) - r.metrics.get("test_accuracy", np.nan),
        }
        for r in utility.result
    ]
    known = pd.DataFrame(rows, columns=["defense", "seed", "js", "null", "overfitting"])
    mine = scenarios[(scenarios.task == "membership") & (scenarios.status == "ok") & (scenarios.attack == attack)]
    reached = mine[["defense", "seed", success]].rename(columns={success: "success"})
    return known.merge(reached, on=["defense", "seed"]).sort_values(["defense", "seed"], ignore_index=True)


def line(x: pd.Series, y: pd.Series) -> tuple[float, float, float] | None:
    """Slope, intercept and Pearson's r of the least-squares line; None with under 3 points or no variation."""
    if len(x) < 3 or np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1])


def _fit(
    points: pd.DataFrame, title: str, symbol: str, attack: str, success: str, reference: dict[str, tuple[float, float]]
) -> None:
    """Draw the points with their fitted line, and below it the equation and r."""
    fit = line(points.risk, points.success)
    lines: dict[str, tuple[float, float]] = {}
    if fit:
        equation = f"{fit[0]:.3f} {symbol} {'+' if fit[1] >= 0 else '−'} {abs(fit[1]):.3f}"
        lines = {f"here: {equation}": fit[:2]}
    label = f"{METRICS[success].label} of {attack}"
    st.altair_chart(
        charts.fitted(points, title, label, lines | reference if lines else {}, 0.5),
        width="stretch",
        key=f"fit-{symbol}",
    )
    text = f"Fitted line: {equation}; r = {fit[2]:.2f}" if fit else "No line: the points don't differ"
    st.text(f"{text}; {len(points)} points, one a defense and seed. Dotted: chance.")
