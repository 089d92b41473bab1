"""The leaderboard's app: `streamlit run leaderboard/app.py`."""

from __future__ import annotations

import importlib
import threading
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from benchmark import places
from benchmark.errors import UserError
from leaderboard import audits, tables
from leaderboard.ranking import TRUST
from leaderboard.views import TRUST_HELP, editions, unknown

REFRESH_SECONDS = 10  # how often an open page looks for new results
# Path in the address, title, icon (Material symbols), and module and function of the page; the first is the one that opens.
PAGES = (
    ("defenses", "Defenses", "shield", "board", "defenses"),
    ("attacks", "Attacks", "swords", "board", "attacks"),
    ("tradeoff", "Privacy–utility", "balance", "tradeoff", "show"),
    ("matrix", "Matrix", "grid_on", "matrix", "show"),
    ("risks", "Model risks", "query_stats", "risks", "show"),
    ("reconstructions", "Reconstructions", "image", "reconstructions", "show"),
    ("entry", "Entry", "science", "entry", "show"),
    ("compare", "Compare", "compare_arrows", "compare", "show"),
    ("papers", "Papers", "menu_book", "papers", "show"),
    ("protocol", "Protocol", "description", "protocol", "show"),
    ("submit", "Submit", "upload", "submit", "show"),
)
# The page that comes first where the app was opened with an audit. No docstring: Streamlit would draw it.
AUDIT = ("audit", "Audit", "fact_check", "audit", "show")


def _show(module: str, function: str) -> None:
    """Draw a page. Its module is imported when it is opened, or behind the first page: charts and cards take a second."""
    getattr(importlib.import_module(f"leaderboard.views.{module}"), function)()


@st.cache_resource  # type: ignore[untyped-decorator]
def _import_the_rest() -> None:
    """Import what the other pages draw with, beside the first visitor's look at the first page: once a server."""

    def run() -> None:
        for _, _, _, module, _ in PAGES:
            importlib.import_module(f"leaderboard.views.{module}")

    threading.Thread(target=run, name="imports", daemon=True).start()


def main() -> None:
    """Draw the chosen page below the selectors that all pages share: protocol, edition and trust."""
    st.set_page_config(page_title="Leakboard", page_icon="🔓", layout="wide")
    listed = (AUDIT, *PAGES) if audits.folder() else PAGES
    pages = {
        path: st.Page(
            partial(_show, module, function),
            title=title,
            icon=f":material/{icon}:",
            url_path=path,
            default=path == listed[0][0],
        )
        for path, title, icon, module, function in listed
    }
    st.session_state["pages"] = pages
    try:
        _ = places.tracking(), places.optuna()
    except UserError as error:
        st.text(str(error))
        st.stop()
    page = st.navigation(list(pages.values()), position="top")
    left, middle, trust, right = st.columns([2, 3, 3, 2], vertical_alignment="bottom")
    unknown("protocol", tables.protocols())
    names = _filtered(tables.protocols(), middle)
    audited = audits.protocol()
    first = names.index(audited) if audited in names else 0
    name = left.selectbox("Protocol", names, first, key="protocol", bind="query-params", persist_state="session")
    if name:
        names_of_editions = list(editions(name))
        if len(names_of_editions) > 1:
            why = "Results of two versions or two splits never share a table."
            middle.selectbox(
                "Edition", names_of_editions, key="edition", bind="query-params", persist_state="session", help=why
            )
        trust.segmented_control(
            "Rank what is at least", list(TRUST), default=tables.least_trust(), required=True, key="trust",
            bind="query-params", persist_state="session", help=f"The others are listed below, unranked. {TRUST_HELP}",
        )  # fmt: skip
        st.session_state["drawn"] = tables.source(name).results.version
        with right:
            _watch(name)
    page.run()
    _import_the_rest()


def _filtered(names: list[str], place: DeltaGenerator) -> list[str]:
    """The protocols of the picked data sets and networks; all of them where none matches both."""
    left = names
    with place.popover("Data, network", icon=":material/filter_list:"):
        for i, (label, key) in enumerate((("Data set", "dataset"), ("Network", "network"))):
            kinds = sorted({tables.data_and_network(n)[i] for n in names} - {""})
            picked = st.pills(
                label, kinds, selection_mode="multi", key=key, bind="query-params", persist_state="session"
            )
            left = [n for n in left if not picked or tables.data_and_network(n)[i] in picked]
        if not left:
            st.text("No protocol is of both: all are listed.")
    return left or names


@st.fragment(run_every=REFRESH_SECONDS)  # type: ignore[untyped-decorator]
def _watch(name: str) -> None:
    """Look for new results every REFRESH_SECONDS, and redraw the page only if there are any.

    All visitors share the source of results: what one page loads, the others see when they look next.
    """
    source = tables.source(name)
    source.refresh()
    if source.results.version != st.session_state.get("drawn"):
        st.rerun()
    st.text(f"{len(source.results):,} results{'; ' if source.message else ''}{source.message}")


main()
