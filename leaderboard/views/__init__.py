"""The app's pages, and what they share."""

from __future__ import annotations

import re

import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS
from benchmark.result import Result, Trust
from leaderboard import tables
from leaderboard.ranking import ISOLATION, TASK_METRICS, TRUST, Board, attack_table, defense_table, scenarios

TRUST_HELP = "; ".join(f"{level}: {meaning}" for level, meaning in TRUST.items()) + "."
ISOLATION_HELP = "Where the entry's code ran. " + "; ".join(f"{k}: {v}" for k, v in ISOLATION.items() if k) + "."
TRUST_COLUMNS = {
    "trust": st.column_config.TextColumn("Trust", help=f"{TRUST_HELP} An entry shows the weakest of its rows."),
    "isolation": st.column_config.TextColumn(
        "Isolation", help=f"{ISOLATION_HELP} An entry shows the weakest of its rows."
    ),
}


def chosen() -> tuple[str, list[Result]]:
    """The protocol chosen at the top and the results of the chosen edition, or the newest one's.

    Stops the page with what to do next where there are no results.
    """
    protocol: str = st.session_state.get("protocol") or ""
    editions = tables.editions(tables.source(protocol).results) if protocol else {}
    if not editions:
        st.subheader("No results yet")
        st.text("Score the baselines, then come back; this page looks for results every ten seconds.")
        st.code(f"leakboard run --protocol {protocol or 'digits-v1'}", language="bash")
        st.stop()
    return protocol, editions.get(st.session_state.get("edition", "")) or next(iter(editions.values()))


def ranked(protocol: str, results: list[Result]) -> tuple[Board, dict[str, pd.DataFrame]]:
    """The board's settings and its tables: "defenses", and one of attacks under each task's name.

    Ranked is what can be trusted as far as is chosen at the top.
    """
    least: Trust = st.session_state.get("trust") or tables.least_trust()
    try:
        board = tables.board_of(protocol)
    except ValueError as error:
        st.subheader("This protocol can't be ranked")
        st.text(str(error))
        st.stop()
    version = hash(tuple((r.key, r.finished, r.trust, r.isolation) for r in results))
    return board, _ranked(version, board, least, results)


@st.cache_data(max_entries=16, show_spinner=False)  # type: ignore[untyped-decorator]
def _ranked(version: int, board: Board, least: Trust, _results: list[Result]) -> dict[str, pd.DataFrame]:
    frame = scenarios(_results)
    attacks = {t: attack_table(frame, board, t, least) for t in TASK_METRICS}
    return {"defenses": defense_table(frame, board, least)} | attacks


def literal(text: str) -> str:
    """Text of a record for a widget that reads Markdown: code, unless it is so plain that Markdown finds nothing."""
    if re.fullmatch(r"[A-Za-z0-9 /+.–-]*", text) and "www." not in text.lower():
        return text
    return f"`{text.replace('`', chr(39))}`"


def isolation(value: str) -> str:
    """Where an entry ran, in a cell: what was not isolated says so."""
    return "NOT ISOLATED (--trust)" if value == "trusted" else value


def number(metric: str, label: str = "", note: str = "") -> object:
    """The column of a metric: three decimals, with the metric's own help."""
    return st.column_config.NumberColumn(
        label or METRICS[metric].label, format="%.3f", help=f"{note}{METRICS[metric].help}"
    )


def interval(table: pd.DataFrame, column: str) -> pd.Series:
    """Intervals as text, such as 0.62–0.67."""
    pairs = zip(table[f"{column}_low"], table[f"{column}_high"], strict=True)
    return pd.Series(["" if pd.isna(a) else f"{a:.3f} – {b:.3f}" for a, b in pairs], index=table.index, dtype=str)


def rank_interval(table: pd.DataFrame) -> pd.Series:
    """Rank intervals as text, such as 2–4; "" for what is not ranked."""
    pairs = zip(table.rank_low, table.rank_high, strict=True)
    texts = ["" if pd.isna(a) else f"{a}" if a == b else f"{a}–{b}" for a, b in pairs]
    return pd.Series(texts, index=table.index, dtype=str)
