"""The page Compare: paired differences of two entries over seeds, and in what their cards differ."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.result import Result
from benchmark.text import NAME, plain
from leaderboard import figures, tables
from leaderboard.pairs import MEAN, WORST_CASE, Side, differences
from leaderboard.publish import as_csv
from leaderboard.ranking import ISOLATION, Board, epsilon_text
from leaderboard.views import chosen, frame, ranked

column = st.column_config
SIDES: tuple[Side, ...] = get_args(Side)
MOST = 60
"""Most rows in the plot; the table holds all."""
THRESHOLDS = {"shadow": "set on the shadow world", "own": "a rule of its own", "none": "none"}


def show() -> None:
    """Draw the page."""
    protocol, results = chosen()
    board, ranked_tables = ranked(protocol, results)
    st.title("Compare", anchor=False)
    side: Side = st.segmented_control(
        "Two", list(SIDES), default=SIDES[0], required=True, key="side", bind="query-params", format_func=_plural
    )
    scored = frame(results)
    names = sorted(set(scored[side]) - {""})
    left, right = st.columns(2)
    usual = names.index(board.baseline) if board.baseline in names else _best(ranked_tables, side, names)
    first = str(left.selectbox("First", names, index=usual, key="first", bind="query-params"))
    others = _others(scored, side, first)
    if not others:
        st.text(f"There is no other {side} of the same task to compare with.")
        st.code(f"leakboard run --protocol {protocol}", language=None, wrap_lines=True)
        st.stop()
    second = str(
        right.selectbox("Second", others, index=_best(ranked_tables, side, others), key="second", bind="query-params")
    )
    table = differences(scored, side, first, second, board.seeds, _pool(ranked_tables, board, side))
    if table.empty:
        st.text("Both lack a scenario on the same opponent and seed: nothing can be compared.")
        st.code(shlex.join(["leakboard", "run", first, second, "--protocol", protocol]), language=None, wrap_lines=True)
    else:
        _differences(table, side, f"{protocol}-compare.csv")
    st.subheader("In what they differ", anchor=False)
    _cards([facts(name, side, list(scored.result[scored[side] == name])) for name in (first, second)])


def _plural(side: str) -> str:
    return f"{side.capitalize()}s"


def _others(scored: pd.DataFrame, side: Side, first: str) -> list[str]:
    """The other entries that have a task in common with the first one."""
    tasks = set(scored.task[scored[side] == first])
    return sorted(set(scored[side][scored.task.isin(tasks)]) - {"", first})


def _best(ranked_tables: Mapping[str, pd.DataFrame], side: Side, names: list[str]) -> int:
    """The index of the name that stands highest on the board; 0 where none is on it."""
    ranked = [
        str(n)
        for title, table in ranked_tables.items()
        if (title == "defenses") == (side == "defense")
        for n in table[side]
    ]
    return next((names.index(n) for n in ranked if n in names), 0)


def _pool(ranked_tables: Mapping[str, pd.DataFrame], board: Board, side: Side) -> Sequence[str]:
    """The opponents by which the board ranks this side."""
    return ranked_tables["defenses"].attrs["pool"] if side == "defense" else board.required_defenses


def _differences(table: pd.DataFrame, side: Side, file: str) -> None:
    metrics = list(dict.fromkeys(table.metric))
    tasks = list(dict.fromkeys(table.task))[: 2 if side == "defense" else 1]
    chief = [m for m in dict.fromkeys(table.metric[table.task.isin(tasks)]) if METRICS[m].main]
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    picked = left.pills(
        "Metrics", metrics, default=chief or metrics, selection_mode="multi", key="metrics", bind="query-params",
        format_func=lambda m: METRICS[m].label, wrap=True,
    )  # fmt: skip
    table = table[table.metric.isin(picked or metrics)].reset_index(drop=True)
    right.download_button("CSV", as_csv(table), file, "text/csv", icon=":material/download:")
    opponents = "attack" if side == "defense" else "defense"
    st.text(
        f"Differences first - second on the same seeds and the same {opponents}s, with 95 % t-intervals over seeds, each "
        f"for itself. Orange: the interval says that the first one leaks more, or is higher; blue: the second; grey: neither."
    )
    shown = table.assign(
        name=[f"{METRICS[m].label}{f', {a}' if a else ''}" for m, a in zip(table.metric, table.against, strict=True)],
        side=table.verdict.map(lambda v: v.split()[0] if v.split()[0] in ("first", "second") else "neither"),
    )
    drawn = shown[shown.low.notna()].head(MOST)
    if len(drawn):
        st.altair_chart(
            figures.forest(drawn, "first - second"), width="stretch", key="forest",
            alt="Forest plot of the paired differences; the table below holds the same numbers.",
        )  # fmt: skip
        if (many := int(shown.low.notna().sum())) > MOST:
            st.text(f"Drawn are the first {MOST} of {many} differences; the table below holds all.")
    _table(table.assign(metric=[METRICS[m].label for m in table.metric]), side, table.metric)


def _table(table: pd.DataFrame, side: Side, metrics: pd.Series) -> None:
    helps = "; ".join(f"{METRICS[m].label}: {METRICS[m].help}" for m in dict.fromkeys(metrics))
    summaries = (
        f"{WORST_CASE}: the worst over as many attacks, attack and sign chosen on the other seeds; {MEAN}: over as many"
    )
    wide = {"first": "First", "second": "Second", "difference": "Difference", "low": "95 % from", "high": "95 % to"}
    config: dict[str, Any] = {
        "metric": column.TextColumn("Metric", pinned=True, help=helps),
        "against": column.TextColumn("Attack" if side == "defense" else "Defense", width="medium", help=summaries),
        **{c: column.NumberColumn(t, format="%.3f" if c in ("first", "second") else "%+.3f") for c, t in wide.items()},
        "seeds": column.NumberColumn("Seeds", help="Seeds that both have"),
        "verdict": column.TextColumn("Verdict", help="What the interval says; each pair for itself, no correction for their number"),
    }  # fmt: skip
    st.dataframe(
        table, hide_index=True, width="stretch", column_order=list(config), column_config=config, key="differences",
        placeholder="–", alt="Paired differences of two entries",
    )  # fmt: skip


# --- Cards ------------------------------------------------------------------------------------------


def facts(name: str, side: Side, mine: Sequence[Result]) -> dict[str, str]:
    """Facts about an entry by label, as plain text: from its results, its cards and its hyperparameters."""
    about = {
        "Access": _join(r.access for r in mine) if side == "attack" else "",
        "Knowledge": _join(r.knowledge for r in mine) if side == "attack" else "",
        "Null row": "yes" if side == "attack" and any(r.null_row for r in mine) else "",
        "Extra data": _join(r.claim("extra_data") for r in mine),
        "Attacked by": _join(r.claim("attacked_by") for r in mine),
        "Flag": _join(r.claim("alone") for r in mine),
        "Tuned": _join(r.claim("tuned") for r in mine),
        "ε": _join(epsilon_text(r.claims) for r in mine if r.task == "utility"),
        "Trust": _join(r.trust for r in mine),
        "Where it ran": _join(ISOLATION[r.isolation] for r in mine if r.status != "skipped"),
        "Scored": f"{sum(r.status == 'ok' for r in mine)} of {len(mine)} scenarios",
        "Tasks": _join(sorted({r.task for r in mine}, key=["utility", *TASK_METRICS].index)),
    }
    known = tables.cards()
    entries = {id: next((e for e in known.get(id, []) if e.kind == side), None) for id, _ in parts(name)}
    readable = [e for e in entries.values() if e and e.card]
    about |= {
        "Method": _join(e.card.title for e in readable),
        "Authors": _join(", ".join(e.card.authors) for e in readable),
        "Reference": _join(e.card.reference for e in readable),
        "Stage": _join(stage for e in readable for stage in e.stages),
        "Threshold": _join(THRESHOLDS[e.calibrate] for e in readable) if side == "attack" else "",
    }
    for id, given in parts(name):
        entry = entries[id]
        if entry is None or entry.card is None:
            about[plain(id, NAME)] = plain(entry.error) if entry else "there is no submission of this name"
        defaults = {k: str(f.default) for k, f in entry.params.model_fields.items()} if entry else {}
        about |= {plain(f"{id}: {k}", NAME): plain(v, NAME) for k, v in (defaults | given).items()}
    return {k: v for k, v in about.items() if v}


def parts(name: str) -> list[tuple[str, dict[str, str]]]:
    """The parts of a canonical name with given hyperparameters: a[n=10]+b -> [("a", {"n": "10"}), ("b", {})]."""
    matches = re.findall(r"([^+\[\]]+)(?:\[([^\]]*)\])?", name)
    return [(id, dict(pair.split("=", 1) for pair in inside.split(",") if "=" in pair)) for id, inside in matches]


def _join(texts: Any) -> str:
    return plain(" / ".join(dict.fromkeys(t for t in texts if t)))


def _cards(both: list[dict[str, str]]) -> None:
    """A table of the facts in which two entries differ. (Cells of a table are not read as Markdown.)"""
    labels = dict.fromkeys(k for about in both for k in about)
    rows = [{"what": k, "first": both[0].get(k, "–"), "second": both[1].get(k, "–")} for k in labels]
    rows = [row for row in rows if row["first"] != row["second"]]
    if not rows:
        st.text("Their cards and hyperparameters are the same.")
        return
    config = {
        "what": column.TextColumn("What"),
        "first": column.TextColumn("First"),
        "second": column.TextColumn("Second"),
    }
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch", height="content", column_config=config, key="cards",
        alt="In what the two entries differ",
    )  # fmt: skip
