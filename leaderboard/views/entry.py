"""One entry: its card, all its scenarios, and a ROC curve."""

from __future__ import annotations

import os
import re
from typing import Any

import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS
from benchmark.result import Result
from benchmark.text import plain, plain_log
from leaderboard import charts, tables
from leaderboard.ranking import AUC, ISOLATION, TASK_METRICS, TPR
from leaderboard.views import TRUST_COLUMNS, chosen, isolation, literal, number, rank_interval, ranked

DOC = 4000
"""The most characters that are shown of a submission's own description."""


def show() -> None:
    """The page. What a card or a record says is shown as text: never as Markdown or HTML."""
    protocol, results = chosen()
    attacks, defenses = ({getattr(r, kind) for r in results} - {""} for kind in ("attack", "defense"))
    names = sorted(defenses) + sorted(attacks - defenses)
    st.title("Entry", anchor=False)
    name = st.selectbox("Attack or defense", names, key="entry", bind="query-params")
    mine = [r for r in results if name in (r.attack, r.defense)]
    _standing(ranked(protocol, results)[1], str(name))
    left, right = st.columns([2, 3], gap="large")
    with left:
        _cards(str(name))
    with right:
        _roc(mine, str(name))
    st.subheader(f"Its {len(mine)} scenarios", anchor=False)
    _scenarios(mine)
    _logs(mine)


def _standing(found: dict[str, pd.DataFrame], name: str) -> None:
    """Where the entry stands on the board, or why it has no rank."""
    for title, table in found.items():
        kind = "defense" if title == "defenses" else "attack"
        for _, row in table[table[kind] == name].iterrows():
            metric = table.attrs["metric"]
            leakage = f"worst_{metric}" if kind == "defense" else metric
            shown = {"Rank": rank_interval(row.to_frame().T).iloc[0] or "–", "Tie group": row.tie or "–"}
            shown[f"{'Worst ' if kind == 'defense' else ''}{METRICS[metric].label}"] = f"{row[leakage]:.3f}"
            shown |= (
                {"Test accuracy": f"{row.test_accuracy:.3f}"} if kind == "defense" else {"Track": literal(row.track)}
            )
            for place, (label, value) in zip(st.columns(len(shown)), shown.items(), strict=True):
                place.metric(label, value, border=True)
            if row.reason:
                st.text(f"Not ranked: {row.reason}")
            st.text(f"Trust: {row.trust}. Where it ran: {ISOLATION[row.isolation]}.")


def ids(name: str) -> list[str]:
    """The submissions of a canonical name: a+b[n=10] -> a, b."""
    return re.sub(r"\[[^]]*\]", "", name).split("+")


def _cards(name: str) -> None:
    known = tables.cards()
    for part in ids(name):
        if part not in known:
            st.text(f"{part}: there is no submission of this name.")
        for entry in known.get(part, []):
            with st.container(border=True):
                _card(entry)


def _card(entry: Any) -> None:
    """A card as plain text. `st.text` draws in a fixed width; it never reads Markdown."""
    if entry.card is None:
        st.text(plain(f"{entry.id}: {entry.error}"))
        return
    year = f" ({entry.card.year})" if entry.card.year else ""
    lines = entry.card.title, f"{plain(', '.join(entry.card.authors))}{year}", entry.card.reference
    st.text("\n".join(map(plain, lines)))
    if entry.doc:
        st.text(plain_log(entry.doc.strip()[:DOC]))


def _roc(mine: list[Result], name: str) -> None:
    curves = {_title(r, name): r for r in mine if r.status == "ok" and r.roc is not None}
    if not curves:
        st.text("No ROC curve: this entry has no scored membership scenario.")
        return
    best = max(curves, key=lambda title: curves[title].metrics.get(AUC, 0.0))
    titles = sorted(curves)
    picked = st.selectbox("ROC curve of", titles, index=titles.index(best), key="scenario", bind="query-params")
    result = curves[str(picked)]
    st.altair_chart(charts.roc(result), width="stretch")
    parts = [
        f"{METRICS[m].label} {result.metrics[m]:.3f}{_bounds(result, m)}" for m in (AUC, TPR) if m in result.metrics
    ]
    st.text("; ".join(parts) + ". The dashed line is chance.")


def _bounds(result: Result, metric: str) -> str:
    low_high = result.intervals.get(metric)
    return f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""


def _title(r: Result, name: str) -> str:
    return f"{r.attack if r.defense == name else r.defense}, seed {r.seed}"


def _scenarios(mine: list[Result]) -> None:
    names = [m for metrics in TASK_METRICS.values() for m in metrics]
    names += ["test_accuracy", "train_accuracy", "robust_accuracy", "certified_accuracy", "ece"]
    order = ["utility", *TASK_METRICS]
    base = os.environ.get("LEAKBOARD_MLFLOW_UI", "http://127.0.0.1:5000").rstrip("/")
    rows = [
        {c: getattr(r, c) for c in ("task", "attack", "defense", "seed", "status")}
        | {m: r.metrics.get(m) for m in names}
        | {"seconds": r.cost.get("seconds"), "trust": r.trust, "isolation": isolation(r.isolation)}
        | {"finished": pd.to_datetime(r.finished, unit="s", errors="coerce")}
        | {"reason": r.reason, "run": _run(base, r)}
        for r in sorted(mine, key=lambda r: (order.index(r.task), r.attack, r.defense, r.seed))
    ]
    config: dict[str, Any] = (
        {m: number(m) for m in names}
        | TRUST_COLUMNS
        | {
            "seconds": st.column_config.NumberColumn(format="%.1f"),
            "finished": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", help="UTC"),
            "run": st.column_config.LinkColumn("MLflow", display_text="run"),
        }
    )
    table = pd.DataFrame(rows).replace("", None).dropna(axis="columns", how="all")
    st.dataframe(
        table, hide_index=True, width="stretch", height=420, placeholder="–", column_config=config, key="scenarios"
    )


def _logs(mine: list[Result]) -> None:
    """The last lines of a failed scenario's output."""
    logs = {f"{r.attack or 'utility'} on {r.defense}, seed {r.seed}: {r.status}": r.log for r in mine if r.log}
    if logs:
        st.subheader("What failed scenarios printed", anchor=False)
        picked = st.selectbox("Log of", sorted(logs), key="log", bind="query-params")
        with st.container(border=True, height=400):
            st.text(logs[str(picked)])


def _run(base: str, result: Result) -> str:
    """The address of a scenario's run in MLflow's own pages; "" where the record names none."""
    run, experiment = (result.provenance.get(k, "") for k in ("run_id", "experiment_id"))
    whole = re.fullmatch(r"\w+", run) and re.fullmatch(r"\w+", experiment)
    return f"{base}/#/experiments/{experiment}/runs/{run}" if whole else ""
