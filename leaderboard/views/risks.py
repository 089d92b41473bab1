"""The page Model risks: Jensen-Shannon distances and gaps of targets, against the success of attacks; what they predict; and how
the kinds of attack go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
import yaml

from benchmark.metrics import METRICS
from leaderboard import charts, tables
from leaderboard.correlations import LEAST, correlations
from leaderboard.correlations import MEASURES as RELATED
from leaderboard.correlations import pooled as related
from leaderboard.ranking import AUC, scenarios
from leaderboard.risks import error, left_out, line, pooled, risks
from leaderboard.views import axes, chosen, download, editions, empty, frame, number
from leaderboard.views.papers import newest_of

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
    robust = points.dropna(subset=["adversarial", "success"])
    if len(robust):
        with st.columns(2, gap="large")[0]:
            st.subheader("Overfitting of robustness", anchor=False)
            title = "Robust train accuracy − robust test accuracy"
            _fit(robust.assign(risk=robust.adversarial), title, "g", attack, success, {})
            st.text("Defenses that aim at robustness alone (Song et al. 2019), under PGD, each at its own radius.")
    column = st.column_config
    config: dict[str, Any] = {
        "defense": column.TextColumn("Defense", pinned=True, width="medium"),
        "seed": column.NumberColumn("Seed", width="small"),
        "js": column.NumberColumn("JS distance", format="%.3f", help=HELP),
        "null": column.NumberColumn("Null 95 %", format="%.3f", help="95 % quantile of the distance under permuted labels"),
        "dataset": None,
        "network": None,
        "overfitting": column.NumberColumn("Overfitting", format="%.3f", help="Train accuracy − test accuracy"),
        "adversarial": column.NumberColumn("Robust", format="%.3f", help="Robust train accuracy − robust test accuracy"),
        "success": number(success),
    }  # fmt: skip
    st.dataframe(points, hide_index=True, width="stretch", column_config=config, placeholder="–", key="risks")
    if st.toggle(
        "All boards",
        key="all",
        bind="query-params",
        help="The line of all data sets and networks, and how well it predicts one that it has not seen",
    ):
        _all_boards(measure, attack, success, (slope, intercept) if attack == theirs and success == ACCURACY else None)
    if st.toggle(
        "Kinds of attack against each other",
        key="kinds",
        bind="query-params",
        help="Rank correlations of the kinds of attack, overfitting and the number of classes, over the defenses of all boards",
    ):
        _kinds()


def _kinds() -> None:
    """How the kinds of attack go together over all boards: the correlations, and a plot of two measures."""
    st.subheader("Kinds of attack against each other", anchor=False)
    names = [name for name in tables.protocols() if not tables.plants_canaries(name)]
    newest = {name: next(iter(editions(name).values()), None) for name in names}
    points = related({name: (frame(rows), tables.board_of(name)) for name, rows in newest.items() if rows})
    found = pd.DataFrame(correlations(points, np.random.default_rng(0)))
    there = [m for m in RELATED if points[m].notna().any()]
    if found.empty:
        st.text("No board has two kinds of attack, or one beside its train and test accuracy.")
        return
    groups = points[["dataset", "network"]].drop_duplicates()
    st.text(
        f"Spearman's rank correlation over defenses, on {len(groups)} pairs of a data set and a network; a kind of attack by its excess (see "
        "Defenses). Intervals: 95 %, a bootstrap over seeds and defenses. Pairs of measures are not corrected for their number. With fewer than "
        f"{LEAST} points there is none. Liu et al. 2022 (figure 10) report r = −0.90 for membership and stealing, over data sets and networks "
        "without defenses; with few data sets here, defenses alone make the difference. Boards of canaries are left out."
    )
    column = st.column_config
    shown = found.assign(interval=[
        "" if pd.isna(low) else f"{low:+.2f} to {high:+.2f}" for low, high in zip(found.low, found.high, strict=True)
    ])  # fmt: skip
    st.dataframe(shown, hide_index=True, width="stretch", height="content", placeholder="–", key="correlations",
        column_order=["first", "second", "rho", "interval", "points", "note"], column_config={
            "first": column.TextColumn("Measure", pinned=True), "second": "And",
            "rho": column.NumberColumn("Spearman's ρ", format="%+.2f"), "interval": column.TextColumn("95 %", width=130),
            "points": column.NumberColumn("Points", help="Defenses on a data set and network that have both"),
            "note": column.TextColumn("Why there is none", width="large"),
        })  # fmt: skip
    download(found, "correlations")
    left, right = st.columns(2)
    usual = there.index("stealing") if "stealing" in there else len(there) - 1
    second = str(left.selectbox("Across", there, index=usual, key="across", bind="query-params"))
    first = str(right.selectbox("Upwards", there, key="upwards", bind="query-params"))
    mine = points.dropna(subset=[first, second]) if first != second else points[:0]
    if mine.empty:
        st.text("No row has both: choose two other measures.")
        return
    drawn = mine.assign(risk=mine[second].astype(float), success=mine[first].astype(float))
    across, upwards = (f"{name.capitalize()} ({RELATED[name]})" for name in (second, first))
    fit = line(drawn.risk, drawn.success)
    lines = {"least squares": fit[:2]} if fit else {}
    st.altair_chart(charts.fitted(drawn, across, upwards, lines, 0.0), width="stretch", key="related")
    st.text("A point is a defense and seed of a board. Dotted: 0, which of a kind of attack is its null row.")


def _all_boards(measure: str, attack: str, success: str, theirs: tuple[float, float] | None) -> None:
    """The rows of all boards with what the others' line predicts. theirs: slope and intercept of the paper's line, where it applies."""
    st.subheader("All boards", anchor=False)
    found = {name: scenarios(rows) for name, rows in newest_of(tables.protocols()).items() if rows}
    points = pooled({name: risks(table, measure, attack, success) for name, table in found.items()})
    if (fit := line(points.risk, points.success)) is None:
        st.text(f"No line: {len(points)} rows with {attack} and this distance, or they don't differ.")
        return
    groups = len(points[["dataset", "network"]].drop_duplicates())
    unseen = "its data set and network" if "dataset" in left_out(points) else "its defense"
    text = f"{len(points)} rows of {groups} data sets and networks: {fit.slope:.3f} d + {fit.intercept:.3f}; r = {fit.r:.2f}."
    text += f" Predicted without {unseen}, the error of a row is {error(points.predicted, points.success):.3f} (root mean square)"
    if theirs:
        text += f"; by He et al.'s line {error(theirs[0] * points.risk + theirs[1], points.success):.3f}"
    st.text(f"{text}.")
    column = st.column_config
    shown = points.assign(error=points.predicted - points.success)
    st.dataframe(shown, hide_index=True, width="stretch", placeholder="–", key="pooled", column_config={
        "protocol": "Protocol", "dataset": "Data", "network": "Network",
        "defense": column.TextColumn("Defense", width="medium"),
        "risk": column.NumberColumn("JS distance", format="%.3f", help=HELP), "success": number(success),
        "predicted": column.NumberColumn("Predicted", format="%.3f", help=f"By the line of the rows without {unseen}"),
        "error": column.NumberColumn("Error", format="%.3f", help="Predicted − measured"),
    })  # fmt: skip


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
