"""The page of one entry: card, hyperparameters, cost, all its scenarios, a ROC curve, and its history."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.result import Result
from benchmark.text import plain, plain_log
from leaderboard import charts, tables
from leaderboard.ranking import AUC, ISOLATION, TPR, apart, rank_interval
from leaderboard.views import (
    TRUST_COLUMNS,
    Tables,
    chosen,
    download,
    editions,
    isolation,
    literal,
    note_columns,
    number,
    ranked,
    run_link,
    unknown,
)
from leaderboard.views.compare import parts

CLASS_AUC = "class_auc"
DOC = 4000
"""The most characters that are shown of a submission's own description."""


def show() -> None:
    """Draw the page. Texts of cards and records are shown as plain text, never as Markdown or HTML."""
    protocol, results = chosen()
    attacks, defenses = ({getattr(r, kind) for r in results} - {""} for kind in ("attack", "defense"))
    names = sorted(defenses) + sorted(attacks - defenses)
    st.title("Entry", anchor=False)
    unknown("entry", names)
    name = st.selectbox("Attack or defense", names, key="entry", bind="query-params")
    mine = [r for r in results if name in (r.attack, r.defense)]
    _standing(ranked(protocol, results)[1], str(name))
    left, right = st.columns([2, 3], gap="large")
    with left:
        _cards(str(name))
        _cost(mine, str(name))
    with right:
        _roc(mine, str(name))
        _by_class(mine, str(name))
    _scenarios(mine)
    _logs(mine)
    _history(protocol, str(name))


def _standing(ranked_tables: Tables, name: str) -> None:
    """Where the entry stands on the board, or why it has no rank."""
    for title, table in ranked_tables.items():
        kind = "defense" if title == "defenses" else "attack"
        for _, row in table[table[kind] == name].iterrows():
            metric = table.attrs["metric"]
            leakage = f"worst_{metric}" if kind == "defense" else metric
            shown = {
                "Rank": rank_interval(row.to_frame().T).iloc[0] or "–",
                "Apart": apart(row.to_frame().T).iloc[0] or "–",
            }
            shown[f"{'Worst ' if kind == 'defense' else ''}{METRICS[metric].label}"] = _three_decimals(row[leakage])
            shown |= (
                {"Test accuracy": _three_decimals(row.test_accuracy)}
                if kind == "defense"
                else {"Track": literal(row.track)}
            )
            for place, (label, value) in zip(st.columns(len(shown)), shown.items(), strict=True):
                place.metric(label, value, border=True)
            if row.reason:
                st.text(f"Not ranked: {row.reason}")
            st.text(f"Trust: {row.trust}. Where it ran: {ISOLATION[row.isolation]}.")
            if kind == "defense" and (notes := note_columns(row.to_frame().T)):
                st.text("\n".join(f"{config['label']}: {row[name]}" for name, config in notes.items()))


def _three_decimals(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}"


def _cards(name: str) -> None:
    known = tables.cards()
    for id, given in parts(name):
        if id not in known:
            st.text(f"{id}: there is no submission of this name.")
        for entry in known.get(id, []):
            with st.container(border=True):
                _card(entry)
                _hyperparameters(entry, given)


def _hyperparameters(entry: Any, given: dict[str, str]) -> None:
    """A table of hyperparameters with value, default and search range; then what was given for recipe or adversary."""
    key = f"parameters-{entry.kind}-{entry.id}-{given}"  # a cascade may hold an entry twice
    rows, given = [], dict(given)
    for name, field in entry.params.model_fields.items():
        search = next((m for m in field.metadata if hasattr(m, "low")), None)
        ranged = f"{search.low:g} to {search.high:g}{', log' if search.log else ''}" if search else ""
        default = _value(field.default)
        rows.append({"name": name, "value": given.pop(name, default), "default": default, "searched": ranged})
    own = "the adversary's" if entry.kind == "attack" else "the recipe's"
    rows += [{"name": name, "value": value, "default": own, "searched": ""} for name, value in given.items()]
    if rows:
        st.dataframe(
            pd.DataFrame(rows), hide_index=True, width="stretch", height="content", placeholder="–",
            key=key, column_config={
                "name": st.column_config.TextColumn("Hyperparameter", pinned=True),
                "value": st.column_config.TextColumn("Here"),
                "default": st.column_config.TextColumn("Default"),
                "searched": st.column_config.TextColumn("Search range", help="What `leakboard tune` tries"),
            },
        )  # fmt: skip


def _value(value: object) -> str:
    """A value as it is written in entries' names."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _card(entry: Any) -> None:
    """A card and the submission's docstring as plain text: `st.text` does not read Markdown."""
    if entry.card is None:
        st.text(plain(f"{entry.id}: {entry.error}"))
        return
    year = f" ({entry.card.year})" if entry.card.year else ""
    lines = entry.card.title, f"{plain(', '.join(entry.card.authors))}{year}", entry.card.reference
    st.text("\n".join(map(plain, lines)))
    if entry.doc:
        # The line breaks of a paragraph are removed, for docstrings are wrapped at the width of code. Lists keep
        # theirs.
        st.text(re.sub(r"(?<=[^\n])\n(?=[^\s\-*])", " ", plain_log(entry.doc.strip()[:DOC])))


def _roc(mine: list[Result], name: str) -> None:
    curves = {_title(r, name): r for r in mine if r.status == "ok" and r.roc is not None}
    if not curves:
        st.text("No ROC curve: this entry has no scored membership scenario.")
        return
    best = max(curves, key=lambda title: curves[title].metrics.get(AUC, 0.0))
    titles = sorted(curves)
    picked = st.selectbox("ROC curve of", titles, index=titles.index(best), key="scenario", bind="query-params")
    result = curves[str(picked)]
    st.altair_chart(charts.roc([result]), width="stretch")
    parts = [
        f"{METRICS[m].label} {result.metrics[m]:.3f}{_bounds(result, m)}" for m in (AUC, TPR) if m in result.metrics
    ]
    st.text("; ".join(parts) + ". Bars: 95 % over samples. Dashed: chance.")


def _by_class(mine: list[Result], name: str) -> None:
    """The AUC within each class, of one attack on one defense; nothing for records without it."""
    by_pair: dict[str, list[Result]] = {}
    for r in mine:
        if r.status == "ok" and CLASS_AUC in r.values:
            by_pair.setdefault(r.attack if r.defense == name else r.defense, []).append(r)
    if not by_pair:
        return
    titles = sorted(by_pair)
    best = max(titles, key=lambda title: np.mean([r.metrics.get(AUC, 0.0) for r in by_pair[title]]))
    picked = st.selectbox("AUC within classes of", titles, index=titles.index(best), key="classes", bind="query-params")
    found = by_pair[str(picked)]
    points = pd.DataFrame([
        {"class": k, "seed": r.seed, "auc": auc} for r in found for k, auc in enumerate(r.values[CLASS_AUC])
    ])  # fmt: skip
    st.altair_chart(charts.by_class(points), width="stretch")
    spread, null = (
        np.mean([r.metrics.get(m, np.nan) for r in found]) for m in (f"{CLASS_AUC}_sd", f"{CLASS_AUC}_sd_null")
    )
    st.text(
        f"Spread over classes (SD): {spread:.3f}; classes drawn at random stay below {null:.3f} (95 %). Points: mean over "
        "seeds; bars: from the least to the largest of them. Dashed: chance."
    )


def _cost(mine: list[Result], name: str) -> None:
    """Median costs of the entry: of a defense to train and to query, of an attack to run."""
    names = {
        "train_seconds": "seconds to train",
        "ms_per_query": "ms a query",
        "ms_per_query_alone": "ms a query alone",
    }
    if all(r.attack == name for r in mine):
        names = {"seconds": "seconds a target", "queries": "queries a target", "peak_mb": "MB at the most"}
    costs = [r.cost for r in mine if r.status == "ok" and (r.attack == name or r.task == "utility")]
    values = {label: [c[n] for c in costs if n in c] for n, label in names.items()}
    knows = " ".join({r.knowledge for r in mine})
    medians = [f"{np.median(v):,.4g} {label}" for label, v in values.items() if v]
    if medians:
        own = " Shadow and reference models are trained beside this." if all(r.attack == name for r in mine) else ""
        st.text(
            "Cost (medians): " + "; ".join(medians) + "." + (own if "shadow" in knows or "references" in knows else "")
        )


def _history(protocol: str, name: str) -> None:
    """A table with a row for each edition of the protocol in which the entry was scored."""
    by_edition = editions(protocol)
    rows = []
    for edition, results in by_edition.items():
        mine = [r for r in results if name in (r.attack, r.defense)]
        for kind, table in ranked(protocol, results)[1].items() if mine else ():
            for _, row in table[table["defense" if kind == "defenses" else "attack"] == name].iterrows():
                metric = table.attrs["metric"]
                column = f"worst_{metric}" if kind == "defenses" else metric
                low, high = row[f"{column}_low"], row[f"{column}_high"]
                rows.append({
                    "edition": edition, "finished": pd.to_datetime(max(r.finished for r in mine), unit="s"),
                    "scenarios": len(mine), "metric": f"{'Worst ' if kind == 'defenses' else ''}{METRICS[metric].label}",
                    "value": row[column], "interval": "" if pd.isna(low) else f"{low:.3f} – {high:.3f}",
                    "rank": rank_interval(row.to_frame().T).iloc[0], "reason": row.reason,
                })  # fmt: skip
    st.subheader("History", anchor=False)
    config: dict[str, Any] = {
        "edition": st.column_config.TextColumn("Edition", pinned=True, help="Split and version of the protocol: numbers of two editions can't be compared"),
        "finished": st.column_config.DatetimeColumn("Finished", format="YYYY-MM-DD HH:mm", help="UTC"),
        "scenarios": "Scenarios", "metric": "Metric",
        "value": st.column_config.NumberColumn("Value", format="%.3f"),
        "interval": st.column_config.TextColumn("95 %", help="t-interval over seeds"),
        "rank": "Rank", "reason": "Why not ranked",
    }  # fmt: skip
    st.dataframe(
        pd.DataFrame(rows, columns=list(config)), hide_index=True, width="stretch", height="content", placeholder="–",
        column_config=config, key="history",
    )  # fmt: skip


def _bounds(result: Result, metric: str) -> str:
    low_high = result.intervals.get(metric)
    return f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""


def _title(r: Result, name: str) -> str:
    return f"{r.attack if r.defense == name else r.defense}, seed {r.seed}"


def _scenarios(mine: list[Result]) -> None:
    names = [m for metrics in TASK_METRICS.values() for m in metrics]
    names += ["attribute_macro_f1", "class_auc", "class_auc_sd", "class_auc_sd_null"]
    names += ["test_accuracy", "train_accuracy", "robust_accuracy", "certified_accuracy", "ece", "sensitivity"]
    order = ["utility", *TASK_METRICS]
    rows = [
        {c: getattr(r, c) for c in ("task", "attack", "defense", "seed", "status")}
        | {m: r.metrics.get(m) for m in names}
        | {"seconds": r.cost.get("seconds"), "trust": r.trust, "isolation": isolation(r.isolation)}
        | {"finished": pd.to_datetime(r.finished, unit="s", errors="coerce")}
        | {"reason": r.reason, "run": run_link(r)}
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
    title, csv = st.columns([6, 1], vertical_alignment="bottom")
    title.subheader(f"Its {len(mine)} scenarios", anchor=False)
    with csv:
        download(table, "scenarios")
    st.dataframe(
        table, hide_index=True, width="stretch", height=420, placeholder="–", column_config=config, key="scenarios"
    )


def _logs(mine: list[Result]) -> None:
    """The last lines that failed scenarios printed, of one scenario at a time."""
    logs = {f"{r.attack or 'utility'} on {r.defense}, seed {r.seed}: {r.status}": r.log for r in mine if r.log}
    if logs:
        st.subheader("What failed scenarios printed", anchor=False)
        picked = st.selectbox("Log of", sorted(logs), key="log", bind="query-params")
        with st.container(border=True, height=400):
            st.text(logs[str(picked)])
