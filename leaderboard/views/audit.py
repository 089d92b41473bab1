"""The page Audit: an audit of a model of one's own, and where the model would stand among a board's defenses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from benchmark import places
from benchmark.errors import UserError
from benchmark.metrics import METRICS
from benchmark.run.audit.report import Audit
from benchmark.text import NAME, plain
from leaderboard import audits, standing, tables
from leaderboard.audit_page import STATES
from leaderboard.forest import forest_beside
from leaderboard.views import chosen, frame, known_papers, ranked

WAYS = {"predictions": "by its answers", "model": "itself", "recipe": "with reference models"}
HEIGHT = 900
"""Pixels of the report, which scrolls."""


def show() -> None:
    """Draw the page: verdict, worst cases, the report; then the plot with the defenses of the chosen protocol."""
    st.title("Audit", anchor=False)
    folder = audits.folder()
    try:
        if folder is None:
            raise UserError("no audit is named: leakboard board --audit FOLDER")
        audit, report = _read(folder, *_stamp(folder))
    except UserError as problem:
        st.text(str(problem))
        st.stop()
    _outcome(audit)
    st.download_button("Report", report, "report.html", "text/html", icon=":material/download:", on_click="ignore")
    with st.expander("The whole report"):
        st.iframe(report, height=HEIGHT, tab_index=0)
    st.subheader("Among the published defenses", anchor=False)
    _standing(audit)


@st.cache_data(max_entries=4, show_spinner=False)  # type: ignore[untyped-decorator]
def _read(folder: Path, _changed: int, _size: int) -> audits.Shown:
    return audits.read(folder)


def _stamp(folder: Path) -> tuple[int, int]:
    """Time of change in ns and size of the audit's file; zeros without one."""
    try:
        status = (folder / audits.FILE).stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _outcome(audit: Audit) -> None:
    """Verdict, worst cases, the gate, and checks that found something."""
    sides = audit.model.members, audit.model.nonmembers
    st.subheader(STATES[audit.verdict.state], anchor=False)
    for text in (audit.verdict.sentence, audit.verdict.more):
        st.text(plain(text, 2000))
    st.text(
        f"{plain(audit.title, NAME)}: audited {WAYS[audit.way]}, with Leakboard {plain(audit.tool, 40)}, {plain(audit.when, 40)}. "
        f"{sides[0].count:,} members (accuracy {sides[0].accuracy:.3f}), {sides[1].count:,} non-members ({sides[1].accuracy:.3f}), "
        f"{audit.model.classes} classes, {audit.model.references or 'no'} reference models."
    )
    worst = pd.DataFrame([
        {
            "metric": METRICS[name].label, "worst": case.value, "interval": f"{case.low:.4f} – {case.high:.4f}", "chance": case.null,
            "attack": plain(case.attack, NAME) + (", low scores" if case.reversed else ""),
        }
        for name, case in audit.worst.items() if name in METRICS
    ])  # fmt: skip
    column = st.column_config
    config: dict[str, Any] = {
        "metric": column.TextColumn("Metric", pinned=True),
        "worst": column.NumberColumn("Worst", format="%.4f", help="The largest value of any attack, with scores as they are or reversed"),
        "interval": column.TextColumn("95 %", width="medium", help="The lower end holds for all attacks at once, the upper one is the largest of their own"),
        "chance": column.NumberColumn("Chance (99 %)", format="%.4f", help="What the worst case stays below by chance alone in 99 of 100 audits"),
        "attack": column.TextColumn("Attack", width="medium"),
    }  # fmt: skip
    st.dataframe(worst, hide_index=True, width="stretch", height="content", column_order=list(config), column_config=config,
                 placeholder="–", key="worst", alt="The worst cases of the audited model")  # fmt: skip
    for decision in audit.gate:
        st.text(f"Gate: {plain(decision.condition, NAME)}: {decision.outcome}. {plain(decision.reason)}")
    for check in audit.checks:
        if check.state in ("warning", "broken"):
            st.text(
                f"{check.state.capitalize()}: {plain(check.name, NAME)}: {plain(check.found)} {plain(check.effect)}"
            )


def _standing(audit: Audit) -> None:
    """The plot with the defenses of the chosen board, if the two may be compared, and what differs between them."""
    protocol, results = chosen()
    board, ranks = ranked(protocol, results)
    table, rows = ranks["defenses"], frame(results)
    known = standing.facts(rows, table, board, tables.plants_canaries(protocol))
    fits, why = standing.verdict(audit, known)
    st.text(why)
    if not fits:
        return
    metrics = standing.metrics(audit, table)
    if not metrics:
        st.text(
            "No metric's worst case is there on both sides: nothing is ranked here, or the audit has too few records."
        )
        return
    metric = str(st.segmented_control(
        "Metric", metrics, format_func=lambda m: METRICS[m].label, default=metrics[0], required=True, key="beside",
        bind="query-params",
    ))  # fmt: skip
    papers = known_papers(places.board(protocol))
    mine = standing.beside(audit, metric)
    st.html(forest_beside(table, metric, mine, known.dataset, board.baseline, papers, board.required_defenses))
    st.text("\n".join(f"– {text}" for text in standing.differences(audit, known)))
