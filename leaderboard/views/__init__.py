"""The app's pages, and what they share."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.protocol import QUICKSTART
from benchmark.result import Result, Trust
from benchmark.text import NAME, plain
from leaderboard import publish, tables
from leaderboard.forest import Paper
from leaderboard.kinds import kind_table
from leaderboard.publish import as_csv
from leaderboard.ranking import (
    TRUST,
    Board,
    as_in_papers,
    attack_table,
    defense_table,
    pair_table,
    scenarios,
    split_of,
)
from leaderboard.records import Records

TRUST_HELP = "; ".join(f"{level}: {meaning}" for level, meaning in TRUST.items()) + "."
ISOLATION_HELP = (
    "Where the files of a row that nobody has reviewed ran, the entry's own and those of what it met. "
    "bubblewrap: each of them was isolated; reviewed: there was none, all are listed as reviewed, byte for byte, and ran in the judge's "
    "process (in older rows another one may have been isolated beside them); NOT ISOLATED: one ran in the judge's process, by --trust. "
    "Whether a file is reviewed stands on the page Submit."
)
TRUST_COLUMNS = {
    "trust": st.column_config.TextColumn("Trust", help=f"{TRUST_HELP} An entry shows the weakest of its rows."),
    "isolation": st.column_config.TextColumn(
        "Isolation", help=f"{ISOLATION_HELP} An entry shows the weakest of its rows."
    ),
}


NOTES = {
    "alone": st.column_config.TextColumn("Flag", help="Its guards leave members alone at another rate than non-members, which tells the two apart. It is ranked nonetheless: attacks see what it answers"),
    "epsilon": st.column_config.TextColumn("ε", help="Claimed differential privacy"),
    "tuned": st.column_config.TextColumn("Tuned", help="Its hyperparameters were searched, with so many trials, against these"),
    "attacked_by": st.column_config.TextColumn("Attacked by", help="Where an attack is known to be made against it that is not on this board"),
    "extra_data": st.column_config.TextColumn("Extra data", help="What it reads besides the training set"),
}  # fmt: skip
"""Columns of remarks that stand beside a defense's numbers."""


def note_columns(table: pd.DataFrame) -> dict[str, Any]:
    """The columns of NOTES that have any text in this table."""
    there = {name: config for name, config in NOTES.items() if name in table}
    return {name: config for name, config in there.items() if (table[name].fillna("").astype(str) != "").any()}


def editions(protocol: str) -> dict[str, Records]:
    """Results of a protocol by edition, which share a table; the edition with the newest result first."""
    return tables.editions(tables.source(protocol).at(least_trust()))


def chosen() -> tuple[str, Records]:
    """The chosen protocol and the results of the chosen edition, by default the newest.

    Without results the page ends with the command that makes some.
    """
    protocol: str = st.session_state.get("protocol") or ""
    by_name = editions(protocol) if protocol else {}
    if not by_name:
        empty("No results yet", "Score the baselines, then come back; this page looks for results every ten seconds.",
              f"leakboard run --protocol {protocol or QUICKSTART}")  # fmt: skip
    return protocol, by_name.get(st.session_state.get("edition", "")) or next(iter(by_name.values()))


def empty(title: str, text: str, command: str) -> NoReturn:
    """End a page that has nothing to show with a command to run."""
    advise(title, text, command)
    st.stop()
    raise AssertionError  # `st.stop` does not return


def advise(title: str, text: str, command: str) -> None:
    """Say why there is nothing to show, and what to run."""
    st.subheader(title, anchor=False)
    st.text(text)
    st.code(command, language=None, wrap_lines=True)


def advise_on_trust(protocol: str, results: Records) -> None:
    """Say what the chosen level of trust, at which nothing is ranked, would need; nothing for the weakest."""
    least, levels = least_trust(), list(TRUST)
    enough = sum(levels.index(trust) >= levels.index(least) for trust in results.values("trust"))
    count = f"{enough:,} of {len(results):,} rows are at least {least}, and an entry shows the weakest of its rows."
    secret = "A row is official if it is scored on a secret split: put 32 random bytes into a file of mode 0600."
    again = "A row is reproduced once a second scoring has given the same numbers: score the rows in a store of your own, then compare."
    score = f"leakboard run --protocol {protocol}"
    if least == "official":
        advise("Nothing is ranked that is official", f"{secret} {count}",
               f"LEAKBOARD_SPLIT_SECRET_FILE=/path/to/secret {score}")  # fmt: skip
    elif least == "reproduced":
        advise("Nothing is ranked that is at least reproduced", f"{again} {count}",
               f"{score} && leakboard reproduce --protocol {protocol}")  # fmt: skip


def unknown(key: str, known: Collection[str]) -> None:
    """Warn where the address names something that does not exist; the page shows something else then."""
    asked = st.query_params.get(key, "")
    if asked and asked not in known:
        st.warning(
            f"The address asks for the {key} {literal(plain(asked, NAME))}, which is not here: another one is shown."
        )


def least_trust() -> Trust:
    """The weakest trust that is ranked, as chosen above the page."""
    return st.session_state.get("trust") or tables.least_trust()


@st.cache_data(ttl=60, max_entries=64, show_spinner=False)  # type: ignore[untyped-decorator]
def known_papers(folder: Path) -> dict[str, Paper]:
    """The papers that a published folder names, by the id of a defense."""
    return publish.papers(folder)


def frame(results: Records) -> pd.DataFrame:
    """`ranking.scenarios` of the results. All visitors share the frame, so it must not be changed."""
    table: pd.DataFrame = _frame(results.version, results)
    return table


@st.cache_resource(max_entries=8, show_spinner=False)  # type: ignore[untyped-decorator]
def _frame(version: str, _results: Records) -> pd.DataFrame:
    return scenarios(_results)


TABLES_OF_DEFENSES = {"defenses": defense_table, "pairs": pair_table, "kinds": kind_table}


class Tables(Mapping[str, pd.DataFrame]):
    """The ranked tables, computed at first access: "defenses", and a table of attacks under the name of each task.

    Beside these `pairs`, `kinds` and `as_in_papers` have what `ranking` and `kinds` say of the defenses.
    """

    def __init__(self, board: Board, least: Trust, results: Records) -> None:
        self._made_of = results.version, board, least, results

    def __getitem__(self, name: str) -> pd.DataFrame:
        table: pd.DataFrame = _table(name, *self._made_of)
        return table

    @property
    def pairs(self) -> pd.DataFrame:
        return self["pairs"]

    @property
    def kinds(self) -> pd.DataFrame:
        return self["kinds"]

    @property
    def as_in_papers(self) -> pd.DataFrame:
        return self["as in papers"]

    def __iter__(self) -> Iterator[str]:
        return iter(("defenses", *TASK_METRICS))

    def __len__(self) -> int:
        return 1 + len(TASK_METRICS)


@st.cache_data(max_entries=64, show_spinner=False)  # type: ignore[untyped-decorator]
def _table(name: str, version: str, board: Board, least: Trust, _results: Records) -> pd.DataFrame:
    rows = _frame(version, _results)
    if name == "as in papers":
        return as_in_papers(rows, board)
    if name in TABLES_OF_DEFENSES:
        return TABLES_OF_DEFENSES[name](rows, board, least)
    return attack_table(rows, board, name, least)


def ranked(protocol: str, results: Records) -> tuple[Board, Tables]:
    """The board's settings and its tables, with the least trust that is chosen above the page."""
    try:
        board = tables.board_of(protocol)
    except ValueError as error:
        st.subheader("This protocol can't be ranked", anchor=False)
        st.text(str(error))
        st.stop()
    return board, Tables(board, least_trust(), results)


def download(table: pd.DataFrame, name: str) -> None:
    """A button that downloads the table as CSV, with unrounded numbers."""
    st.download_button("CSV", as_csv(table), f"{name}.csv", "text/csv", icon=":material/download:", on_click="ignore")


def axes(results: Records) -> str:
    """A line with what all results share: data set, network, version, split."""
    r = results[0]
    return f"Data {r.dataset}, network {r.architecture}, version {r.protocol_digest[:8]}, {split_of(r)} split"


def run_link(result: Result) -> str:
    """The address of a scenario's run in MLflow's web UI; "" where the record names no run."""
    base = _mlflow_ui(os.environ.get("LEAKBOARD_MLFLOW_UI", "http://127.0.0.1:5000"))
    run, experiment = (result.provenance.get(k, "") for k in ("run_id", "experiment_id"))
    whole = re.fullmatch(r"\w+", run) and re.fullmatch(r"\w+", experiment)
    return f"{base}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning" if base and whole else ""


@functools.cache
def _mlflow_ui(address: str) -> str:
    """MLflow's address without user, password and query, fit to be shown; "" if it is no web address."""
    try:
        split = urlsplit(address)
        host, _ = split.hostname or "", split.port
    except ValueError:
        return ""
    where = split.netloc.rpartition("@")[2]
    odd = "@" in split.path + split.query + split.fragment  # browsers and parsers differ in where the password ends
    return (
        f"{split.scheme}://{where}{split.path.rstrip('/')}"
        if host and split.scheme in ("http", "https") and not odd
        else ""
    )


def literal(text: str) -> str:
    """Text of a record for a widget that reads Markdown: as code, unless it has nothing that Markdown could read."""
    if re.fullmatch(r"[A-Za-z0-9 /+.–-]*", text) and "www." not in text.lower():
        return text
    return f"`{text.replace('`', chr(39))}`"


def isolation(value: str) -> str:
    """The isolation of an entry as a table shows it."""
    return {"trusted": "NOT ISOLATED (--trust)"}.get(value, value)


def number(metric: str, label: str = "", note: str = "", digits: int = 3) -> object:
    """The column of a metric, with the metric's help after `note`."""
    return st.column_config.NumberColumn(
        label or METRICS[metric].label, format=f"%.{digits}f", help=f"{note}{METRICS[metric].help}"
    )
