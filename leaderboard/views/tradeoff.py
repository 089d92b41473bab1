"""The page Privacy–utility: leakage over test accuracy, the Pareto front, and the fronts of Optuna's studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from benchmark import places
from benchmark.metrics import METRICS
from benchmark.run import studies
from benchmark.text import base_name
from leaderboard import charts
from leaderboard.comparison import either_sign, estimate
from leaderboard.pairs import values_by_seed
from leaderboard.ranking import AUC, CLAIM_COLUMNS, TPR, WORST, Board, with_defaults
from leaderboard.texts import digits, interval
from leaderboard.views import (
    advise_on_trust,
    axes,
    chosen,
    download,
    empty,
    frame,
    least_trust,
    note_columns,
    number,
    ranked,
)

SUMMARIES = {"worst": "Worst case", "mean": "Mean", "attack": "One attack"}
RANKED, UNRANKED, REFERENCE = charts.KINDS
COLUMNS = ("defense", "kind", "curve", "place", "front", "accuracy", "accuracy_low", "accuracy_high",
           "leakage", "leakage_low", "leakage_high", "decided", "epsilon", *CLAIM_COLUMNS, "reason")  # fmt: skip


def show() -> None:
    """Draw the page."""
    protocol, results = chosen()
    board, tables = ranked(protocol, results)
    table = tables["defenses"]
    pool, first = table.attrs["pool"], table.attrs["metric"]
    st.title("Privacy–utility", anchor=False)
    st.text(axes(results))
    nothing = not (table.reason == "").any()
    if nothing and least_trust() != "self-reported":
        advise_on_trust(protocol, results)
        st.stop()
    if nothing:
        empty("Nothing is ranked yet", "A leakage needs the attacks that the protocol requires.",
              f"leakboard run --protocol {protocol}")  # fmt: skip
    left, middle, right, csv = st.columns([3, 2, 3, 1], vertical_alignment="bottom")
    summary = left.segmented_control(
        "Leakage", list(SUMMARIES), format_func=SUMMARIES.get, default="worst", required=True, key="leakage",
        bind="query-params",
    )  # fmt: skip
    metric = middle.segmented_control(
        "Metric", list(WORST), format_func=lambda m: METRICS[m].label, default=first, required=True, key="metric",
        bind="query-params", help=f"{METRICS[TPR].label}: {METRICS[TPR].help} {METRICS[AUC].label}: {METRICS[AUC].help}",
    )  # fmt: skip
    attack = ""
    if summary == "attack":
        attack = str(right.selectbox("Attack", pool, key="against", bind="query-params"))
    of_board = points(frame(results), table, board, str(metric), str(summary), attack)
    of_studies, note = _studies(protocol, str(metric), str(summary), attack, len(pool))
    shown = pd.concat([of_board, of_studies], ignore_index=True) if len(of_studies) else of_board
    if of_board.empty:
        st.text(f"No defense has a {METRICS[str(metric)].label} and a test accuracy: too few samples for it.")
        st.stop()
    with csv:
        download(shown, f"{protocol}-tradeoff")
    label = f"{attack or SUMMARIES[str(summary)]}: {METRICS[str(metric)].label}"
    floor = board.utility_floor * table.loc[table.defense == board.baseline, "test_accuracy"].max()
    lines = {"floor": float(floor)}
    if summary == "worst":
        lines["null worst case"] = float(table.loc[table.reason == "", f"worst_{metric}_null_95"].mean())
    # A model of very low accuracy would squeeze the others into a corner.
    drawn = shown[shown.accuracy > 0.9 * floor] if np.isfinite(floor) else shown
    st.altair_chart(charts.tradeoff(drawn, label, str(metric), lines, board.baseline), width="stretch")
    st.text(
        "Down and to the right is better. Bars: 95 % t-intervals over seeds. Grey steps: the Pareto front of what is "
        "ranked."
        + (" Below the dashed line the attacks can't tell from chance." if summary == "worst" else "")
        + (f" Utility floor: a test accuracy of {floor:.2f}." if np.isfinite(floor) else "")
        + (f" {note}" if note else "")
    )
    if not (of_board.kind == REFERENCE).any():
        st.text("No defense with a claim of differential privacy is scored here: the reference is missing.")
    _table(shown, str(metric), label)


def points(
    frame: pd.DataFrame, table: pd.DataFrame, board: Board, metric: str, summary: str, attack: str
) -> pd.DataFrame:
    """One row for each defense that has accuracy and leakage; COLUMNS as in `charts.tradeoff`.

    frame: `ranking.scenarios`; table: `ranking.defense_table`. summary: "worst" or "mean" over the table's pool of
    attacks, or "attack", for the one named.
    """
    rows = table[["defense", "reason", "epsilon", *CLAIM_COLUMNS]].copy()
    rows["kind"] = np.where(table.reason == "", RANKED, UNRANKED)
    epsilon = _epsilons(frame)
    rows.loc[table.epsilon.astype(str).str.match(r"\d"), "kind"] = REFERENCE  # else the text says why epsilon is void
    for side in ("", "_low", "_high"):
        rows[f"accuracy{side}"] = table[f"test_accuracy{side}"]
    if summary == "worst":
        for side in ("", "_low", "_high"):
            rows[f"leakage{side}"] = table[f"worst_{metric}{side}"]
        rows["decided"] = table[f"worst_{metric}_attack"]
    else:
        attacks = [attack] if summary == "attack" else table.attrs["pool"]
        leakage = _mean_over(with_defaults(frame), metric, attacks, board.seeds).reindex(table.defense)
        rows[["leakage", "leakage_low", "leakage_high"]] = leakage.to_numpy(float)
        rows["decided"] = attack or f"mean of {len(attacks)} attacks"
    rows["front"] = False
    on_board = (rows.reason == "") & rows.leakage.notna()
    rows.loc[on_board, "front"] = front(rows.accuracy[on_board], rows.leakage[on_board])
    rows["place"] = rows.defense.map(epsilon)
    base = rows.defense.map(lambda name: base_name(name))
    several = base.map(base[rows.kind == REFERENCE].value_counts()) > 1
    rows["curve"] = np.where((rows.kind == REFERENCE) & several & rows.place.notna(), base, "")
    return rows.dropna(subset=["leakage", "accuracy"])[list(COLUMNS)].reset_index(drop=True)


def _mean_over(frame: pd.DataFrame, metric: str, attacks: list[str], seeds: tuple[int, ...]) -> pd.DataFrame:
    """By defense the mean over attacks and seeds with its 95 % t-interval over seeds; only where no result is missing.

    An AUC has the sign that does better on the other seeds (RULES 16), as in the worst case and in a study's trials.
    """
    scored = frame[(frame.task == "membership") & (frame.status == "ok")]
    means = {}
    for name, rows in scored.groupby("defense", observed=True):
        values = values_by_seed(rows, "attack", metric, attacks, seeds)
        if np.isfinite(values).all():
            means[name] = estimate((either_sign(values) if metric == AUC else values).mean(0))
    return pd.DataFrame.from_dict(means, orient="index", columns=["mean", "low", "high"])


def _epsilons(frame: pd.DataFrame) -> dict[str, float]:
    """The epsilon that each defense claims, where it is a number. It orders the settings of one defense on a curve."""
    epsilons: dict[str, float] = {}
    for r in frame[frame.task == "utility"].result:
        try:
            epsilons[r.defense] = float(r.claims["epsilon"])
        except (KeyError, ValueError):
            continue
    return epsilons


def front(accuracy: pd.Series, leakage: pd.Series) -> pd.Series:
    """Which points are on the Pareto front: no other is as good in accuracy and leakage and better in one of them."""
    order = np.lexsort((leakage.to_numpy(float), -accuracy.to_numpy(float)))
    falling = leakage.to_numpy(float)[order]
    lowest_before = np.concatenate([[np.inf], np.minimum.accumulate(falling)[:-1]]) if len(order) else falling
    kept = np.zeros(len(order), bool)
    kept[order] = falling < lowest_before
    return pd.Series(kept, index=accuracy.index)


@st.cache_data(ttl=10, max_entries=8, show_spinner=False)  # type: ignore[untyped-decorator]
def _read(url: str, folder: Path, protocol: str) -> tuple[list[studies.Study], str]:
    """One's own studies together with the published ones, and a text on what can't be read."""
    all_studies: list[studies.Study] = []
    problems = []
    for read in (lambda: studies.published(folder, protocol), lambda: studies.read(url, protocol)):
        try:
            all_studies += read()
        except (ConnectionError, ValueError) as error:
            problems.append(f"{error}.")
    return studies.together(all_studies), " ".join(problems)


def _studies(protocol: str, metric: str, summary: str, attack: str, pool: int) -> tuple[pd.DataFrame, str]:
    """The fronts of the protocol's studies as rows of COLUMNS, and a note for below the chart.

    pool: the number of attacks in the board's pool.
    """
    all_studies, note = _read(studies.address(), places.board(protocol), protocol)
    rows: list[pd.DataFrame] = []
    other_metric = 0
    pool_sizes: set[int] = set()
    for study in all_studies:
        if study.leakage != metric:
            other_metric += 1
            continue
        values = {
            "worst": [t.leakage for t in study.trials],
            "mean": [np.mean(list(t.by_attack.values() or [np.nan])) for t in study.trials],
            "attack": [t.by_attack.get(attack, np.nan) for t in study.trials],
        }[summary]
        points_of_study = pd.DataFrame({
            "defense": [t.defense for t in study.trials], "accuracy": [t.accuracy for t in study.trials],
            "leakage": np.array(values, float), "decided": [t.decides if summary == "worst" else "" for t in study.trials],
        }).dropna(subset=["accuracy", "leakage"])  # fmt: skip
        best = (
            points_of_study[front(points_of_study.accuracy, points_of_study.leakage)]
            .drop_duplicates("defense")
            .sort_values("accuracy")
        )
        kind = (
            f"study of {study.defense} ({study.name.rsplit(' ', 1)[-1]}): {len(study.trials)} trials, "
            f"{'mean' if summary == 'mean' else 'worst'} of {len(study.attacks)} attacks"
        )
        if summary == "attack":
            kind = kind.rpartition(",")[0]
        pool_sizes |= {len(study.attacks)} if len(best) else set()
        place = np.arange(len(best), dtype=float)
        rows.append(best.assign(kind=kind, curve=kind, place=place, front=False, reason="tuning split"))
    if pool_sizes:
        met = " or ".join(map(str, sorted(pool_sizes)))
        less = ": what they leak here is less than what they leak there" if max(pool_sizes) < pool else ""
        note += (
            " Triangles: points of the fronts of Optuna's studies, on tuning splits that no rank uses, against "
            f"{met} attacks (the board's worst case: {pool}){less}. Pruned trials don't count."
        )
    if other_metric:
        note += f" {other_metric} more {'study measures' if other_metric == 1 else 'studies measure'} the other metric: choose it above."
    points_of_study = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return points_of_study.reindex(columns=list(COLUMNS)), note.strip()


def _table(shown: pd.DataFrame, metric: str, label: str) -> None:
    """A table of the points."""
    left, right = digits(shown, "accuracy"), digits(shown, "leakage")
    column = st.column_config
    config: dict[str, Any] = {
        "defense": column.TextColumn("Defense", pinned=True, width="medium"),
        "kind": column.TextColumn("Kind", help="Ranked points and those that are not are scored on the board's seeds"),
        "front": column.CheckboxColumn("Front", width="small", help="No ranked defense is better on both sides"),
        "accuracy": number("test_accuracy", digits=left),
        "accuracy_ci": column.TextColumn("Accuracy, 95 %", help="t-interval over seeds"),
        "leakage": number(metric, label, digits=right),
        "leakage_ci": column.TextColumn("Leakage, 95 %", help="t-interval over seeds"),
        "decided": column.TextColumn("Decided by", help="The attack, or what was averaged"),
        **note_columns(shown),
        "reason": column.TextColumn("Why not ranked"),
    }
    intervals = {f"{c}_ci": interval(shown, c, d) for c, d in (("accuracy", left), ("leakage", right))}
    st.dataframe(
        shown.assign(**intervals).sort_values(["front", "accuracy"], ascending=False), hide_index=True, width="stretch",
        height="content", column_order=list(config), column_config=config, placeholder="–", key="points",
    )  # fmt: skip
