"""The page Submit: the steps to hand in an entry, the rules in short, and the state of every entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from benchmark.text import NAME, plain
from leaderboard import tables
from leaderboard.publish import OFFICIAL, SCENARIOS, as_csv, columns_of
from leaderboard.views.compare import parts

column = st.column_config
STEPS = (
    ("Write a file that works as it is, then put your idea and your card into it. Its name is the entry's name.",
     "leakboard new attack mine"),
    ("Hold it to the contract, on a few digits and made-up images, in seconds.",
     "leakboard check submissions/attacks/mine.py"),
    ("Score it: it meets every required opponent, in minutes on the first protocol. Hyperparameters go in brackets.",
     'leakboard run mine --protocol digits-v2\nleakboard run "mine[power=2]" --protocol fashion-mini-v1'),
    ("Look at it on this board, beside the others on the page Compare; add its rows to the published tables: others' rows stay.",
     "leakboard board\nleakboard publish --protocol digits-v2"),
    ("Open a pull request with the file and the published tables. Rows that you scored yourself say so.",
     'git checkout -b mine\ngit add submissions leaderboard/published\ngit commit -m "Attack mine"'),
)  # fmt: skip
"""The steps, each with its commands."""
RULES = (
    "One file, which uses what benchmark/api/__init__.py exports and nothing else of this project.",
    "The card, access, needs, stages and hyperparameters are literals: they are read without running the file.",
    "Scores don't depend on the order or the number of candidates; the same seed gives the same numbers.",
    "An attack's track is its access with its knowledge; ranks are within a track.",
    "A defense treats members and non-members by one rule, and that rule does not hold the training set.",
    "A guard answers the same query the same way: its noise is drawn from the query and a secret of the target.",
    "What needs non-members or chooses a checkpoint reads the reference part, and its row says so.",
    "Epsilon is printed only with Poisson sampling, delta, adjacency and accountant.",
    "Code that nobody has reviewed runs isolated: no network, no files, no environment.",
)
COLUMNS = ["protocol", "attack", "defense", "status", "finished"]


def show() -> None:
    """Draw the page. It needs no results."""
    st.title("Submit", anchor=False)
    st.text("An attack or a defense is one Python file. Five steps:")
    for i, (what, commands) in enumerate(STEPS, 1):
        st.text(f"{i}. {what}")
        st.code(commands, language=None, wrap_lines=True)
    st.subheader("The rules in short", anchor=False)
    st.text("\n".join(f"– {rule}" for rule in RULES))
    st.text("submissions/README.md has all of them, with what every check means.")
    st.subheader("The state of each entry", anchor=False)
    rows, complaints = _published(tuple(_folders()))
    for complaint in complaints:
        st.text(complaint)
    table = states(tables.cards(), rows)
    if table.empty:
        st.text("There is no entry yet. To write one:")
        st.code(STEPS[0][1], language=None, wrap_lines=True)
        return
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    search = left.text_input("Find", key="find", bind="query-params", placeholder="part of a name")
    table = table[table.entry.str.contains(search, case=False, regex=False)]
    right.download_button("CSV", as_csv(table), "entries.csv", "text/csv", icon=":material/download:")
    _table(table)


def _folders() -> list[tuple[Path, int]]:
    """Published folders, official editions included, with the time at which their scenarios were written."""
    paths = [
        p for folder in tables.published() for p in (folder / SCENARIOS, folder / OFFICIAL / SCENARIOS) if p.exists()
    ]
    return [(path.parent, path.lstat().st_mtime_ns) for path in paths]


@st.cache_data(max_entries=4, show_spinner=False)  # type: ignore[untyped-decorator]
def _published(folders: Sequence[tuple[Path, int]]) -> tuple[pd.DataFrame, list[str]]:
    """The COLUMNS of all published scenarios, and a line for each file that can't be read."""
    rows: list[dict[str, Any]] = []
    complaints = []
    for folder, _ in folders:
        try:
            rows += list(columns_of(folder, COLUMNS))
        except ValueError as error:
            root, why = folder.parents[folder.name == OFFICIAL], str(error).partition(": ")[2]
            complaints.append(plain(f"{(folder / SCENARIOS).relative_to(root)} can't be read: {why}"))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS)), complaints


def states(known: dict[str, list[Any]], rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each entry, unreadable ones first: whether it is readable and reviewed, where and when it was scored.

    known: `tables.cards`; rows: the COLUMNS of scenarios. Entries that were scored but have no file are listed too.
    """
    scored: dict[tuple[str, str], pd.DataFrame] = {}
    for kind in ("attack", "defense"):
        names = {name: {id for id, _ in parts(str(name))} for name in rows[kind].unique() if name}
        for id in set().union(*names.values()) if names else ():
            scored[kind, id] = rows[rows[kind].isin([name for name, ids in names.items() if id in ids])]
    entries = {(e.kind, e.id): e for same_id in known.values() for e in same_id}
    table: list[dict[str, Any]] = []
    for kind, id in sorted(entries.keys() | scored.keys()):
        entry, mine = entries.get((kind, id)), scored.get((kind, id), rows[:0])
        done = mine[mine.status == "ok"]
        readable = "no such file" if entry is None else plain(entry.error) if entry.error else "yes"
        table.append({
            "kind": kind,
            "entry": plain(id, NAME),
            "method": plain(entry.card.title, NAME) if entry and entry.card else "",
            "readable": readable,
            "reviewed": bool(entry and not entry.error and entry.reviewed),
            "protocols": ", ".join(sorted({plain(p, NAME) for p in mine.protocol})),
            "scored": len(done),
            "of": len(mine),
            "finished": pd.to_datetime(mine.finished.max(), unit="s", errors="coerce"),
        })  # fmt: skip
    columns = ["kind", "entry", "method", "readable", "reviewed", "protocols", "scored", "of", "finished"]
    table.sort(key=lambda row: row["readable"] == "yes")
    return pd.DataFrame(table, columns=pd.Index(columns))


def _table(table: pd.DataFrame) -> None:
    config = {
        "entry": column.TextColumn("Entry", pinned=True),
        "kind": column.TextColumn("Kind"),
        "method": column.TextColumn("Method"),
        "readable": column.TextColumn("Readable", help="Whether the file says what it must, or why not"),
        "reviewed": column.CheckboxColumn("Reviewed", help="This very file is listed in benchmark/entries/reviewed.json, so that it may run in the judge's process"),
        "protocols": column.TextColumn("Published in", width="medium", help="Protocols whose published scenarios hold it, alone or in a cascade"),
        "scored": column.NumberColumn("Scored", help="Published scenarios with numbers"),
        "of": column.NumberColumn("Of", help="Published scenarios, skipped and failed ones included"),
        "finished": column.DatetimeColumn("Last", width="medium", format="YYYY-MM-DD HH:mm", help="When the last of them was finished, UTC"),
    }  # fmt: skip
    st.dataframe(
        table, hide_index=True, width="stretch", height=560, column_order=list(config), column_config=config,
        placeholder="–", key="states", alt="The state of each entry",
    )  # fmt: skip
