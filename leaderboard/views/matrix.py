"""The page Matrix: attacks against defenses, and the scenario that is opened in it."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS, TASK_METRICS, lower_bound
from benchmark.result import Result
from leaderboard import charts, grids
from leaderboard.cells import matrix
from leaderboard.ranking import Board, by_strength
from leaderboard.views import (
    TRUST_COLUMNS,
    axes,
    chosen,
    download,
    empty,
    frame,
    isolation,
    number,
    ranked,
    run_link,
    unknown,
)

SCENARIO = "scenario"
"""The anchor of the opened scenario, to which a click on a cell leads."""
MORE = {"membership": ("balanced_accuracy_oracle", "tpr_at_fpr_0.001", "auc_references")}
"""Metrics that a task's matrix offers in addition to those of its table."""


def show() -> None:
    """Draw the page."""
    protocol, results = chosen()
    board, ranked_tables = ranked(protocol, results)
    scored = frame(results)
    tasks = [t for t in TASK_METRICS if (scored.task == t).any()]
    st.title("Matrix", anchor=False)
    st.text(axes(results))
    if not tasks:
        empty("No attack was scored yet", "Only utilities are known.", f"leakboard run --protocol {protocol}")
    left, middle, csv = st.columns([3, 3, 1], vertical_alignment="bottom")
    task = str(left.segmented_control("Task", tasks, default=tasks[0], required=True, key="task", bind="query-params"))
    mine = scored[scored.task == task]
    names = [m for m in (*TASK_METRICS[task], *MORE.get(task, ())) if mine[m].notna().any()] or [TASK_METRICS[task][0]]
    first = "auc" if "auc" in names else names[0]
    metric = str(
        middle.selectbox(
            "Metric",
            names,
            index=names.index(first),
            format_func=lambda m: METRICS[m].label,
            key="metric",
            bind="query-params",
            help="Mean over seeds",
        )
    )
    attacks = by_strength(ranked_tables[task], ranked_tables[task].attrs["metric"])
    cells = matrix(mine, metric, list(ranked_tables["defenses"].defense), attacks)
    with csv:
        download(cells.drop(columns=["row", "column", "text"]), f"{protocol}-{task}-{metric}")
    place = st.container()
    opened = _selectors(cells)
    pairs = list(zip(cells.attack, cells.defense, strict=True))
    asked = st.query_params.to_dict()
    cells["opened"] = [pair == opened for pair in pairs]
    cells["link"] = [f"?{urlencode(asked | {'attack': a, 'defense': d})}#{SCENARIO}" for a, d in pairs]
    with place:
        st.html(grids.scenarios(cells, METRICS[metric].label, metric, METRICS[metric].leaks == "down"))
        st.text(f"{METRICS[metric].help} A click on a cell opens its scenario below.")
    _scenario(protocol, board, mine[(mine.attack == opened[0]) & (mine.defense == opened[1])], *opened)


def _selectors(cells: pd.DataFrame) -> tuple[str, str]:
    """Selectors of attack and defense, for keyboards; their values are part of the page's address."""
    left, right = st.columns(2)
    attacks, defenses = (list(dict.fromkeys(cells[kind])) for kind in ("attack", "defense"))
    unknown("attack", attacks)
    unknown("defense", defenses)
    attack = left.selectbox("Attack", attacks, key="attack", bind="query-params")
    defense = right.selectbox("Defense", defenses, key="defense", bind="query-params")
    return str(attack), str(defense)


# --- One scenario -----------------------------------------------------------------------------------


def _scenario(protocol: str, board: Board, rows: pd.DataFrame, attack: str, defense: str) -> None:
    """All results of one attack on one defense: ROC curve, histogram, a table by seed, the record.

    rows: of `ranking.scenarios`.
    """
    st.subheader("Opened scenario", anchor=SCENARIO)
    st.text(f"{attack} on {defense}")
    results: list[Result] = sorted(rows.result, key=lambda r: r.seed)
    if not results:
        st.text("It was not scored. This does it:")
        st.code(command(protocol, board, attack, defense), language=None)
        return
    left, right = st.columns(2, gap="large")
    with left:
        curves = [r for r in results if r.status == "ok" and r.roc is not None]
        if curves:
            st.altair_chart(charts.roc(curves), width="stretch", key="roc")
            many = f"Mean of {len(curves)} seeds; the band goes from the lowest seed to the highest."
            one = "Bars: 95 % bootstrap intervals over samples."
            st.text(f"{many if len(curves) > 1 else one} The dashed line is chance.")
        else:
            st.text(next((f"{r.status}: {r.reason}" for r in results if r.reason), "This task has no ROC curve."))
    with right:
        seeds = [r.seed for r in results]
        seed = st.selectbox("Seed", seeds, key="seed", bind="query-params")
        one_seed = next(r for r in results if r.seed == seed)
        _histogram(one_seed)
        st.text("This command scores it again, or takes it from the store:")
        st.code(command(protocol, board, attack, defense, one_seed.seed), language=None, wrap_lines=True)
        if link := run_link(one_seed):
            st.link_button("The run in MLflow", link, icon=":material/open_in_new:")
    _seeds(results)
    with st.expander("The record as JSON"):
        record = json.loads(one_seed.model_copy(update={"pictures": {}}).to_json()) if one_seed else {}
        st.code(json.dumps(record, sort_keys=True), language="json", wrap_lines=True, height=400)


def command(protocol: str, board: Board, attack: str, defense: str, seed: int | None = None) -> str:
    """The command that scores a scenario. A named entry meets all required ones, so those need not be named."""
    required = {*board.required_attacks, *board.required_defenses}
    names = [name for name in (attack, defense) if name not in required] or [attack]
    words = ["leakboard", "run", *names, "--protocol", protocol, *(["--seed", str(seed)] if seed is not None else [])]
    return shlex.join(words)


def _histogram(result: Result) -> None:
    if result.task != "membership" or result.status != "ok":
        return
    if (histogram := result.histogram) is None:
        st.text("The record holds no histogram of scores: it was made by an earlier version.")
        return
    st.altair_chart(charts.histogram(*histogram), width="stretch", key="histogram")
    st.text("Scores of members and non-members on this seed: what overlaps can't be told apart.")


def _seeds(results: list[Result]) -> None:
    """A table with a row for each seed: metrics with their intervals over samples, cost, and a link to the run."""
    names = [m for m in METRICS if any(m in r.metrics for r in results)]
    rows = []
    for r in results:
        row: dict[str, object] = {"seed": r.seed, "status": r.status, "reason": r.reason}
        for m in names:
            value = r.metrics.get(m)
            row[m] = float(lower_bound(value)) if m == "epsilon_lower" and value is not None else value
            if low_high := r.intervals.get(m):
                row[f"{m}_ci"] = f"{low_high[0]:.3f} – {low_high[1]:.3f}"
        row |= {"seconds": r.cost.get("seconds"), "queries": r.cost.get("queries"), "trust": r.trust}
        row |= {"isolation": isolation(r.isolation), "run": run_link(r), "key": r.key}
        rows.append(row)
    table = pd.DataFrame(rows).replace("", None).dropna(axis="columns", how="all")
    column = st.column_config
    counts = ("members", "nonmembers")
    config: dict[str, Any] = {"seed": column.NumberColumn("Seed", pinned=True, width="small"), **TRUST_COLUMNS}
    for m in names:
        config[m] = (
            column.NumberColumn(METRICS[m].label, format="%d", help=METRICS[m].help) if m in counts else number(m)
        )
        config[f"{m}_ci"] = column.TextColumn(f"{METRICS[m].label}, 95 %", help="Bootstrap interval over samples")
    config |= {
        "seconds": column.NumberColumn("Seconds", format="%.1f"),
        "queries": column.NumberColumn("Queries", format="localized"),
        "run": column.LinkColumn("MLflow", display_text="run"),
        "key": column.TextColumn("Key", help="Digest of all that made it; its address in the store"),
    }
    st.dataframe(
        table, hide_index=True, width="stretch", height="content", placeholder="–", column_config=config, key="seeds"
    )
    download(table, "scenario")
