"""The leaderboard's app: `streamlit run leaderboard/app.py`."""

from __future__ import annotations

import streamlit as st

from leaderboard import tables
from leaderboard.ranking import TRUST
from leaderboard.views import TRUST_HELP, board, entry

REFRESH_SECONDS = 10


def main() -> None:
    """Both pages; what they share (protocol, edition and trust) is chosen above them."""
    st.set_page_config(page_title="Leakboard", page_icon="🔓", layout="wide")
    pages = {
        "board": st.Page(board.show, title="Board", icon=":material/leaderboard:", url_path="board", default=True),
        "entry": st.Page(entry.show, title="Entry", icon=":material/science:", url_path="entry"),
    }
    st.session_state["pages"] = pages
    page = st.navigation(list(pages.values()), position="top")
    left, middle, trust, right = st.columns([2, 3, 3, 2], vertical_alignment="bottom")
    protocol = left.selectbox(
        "Protocol", tables.protocols(), key="protocol", bind="query-params", persist_state="session"
    )
    if protocol:
        editions = list(tables.editions(tables.source(protocol).results))
        if len(editions) > 1:
            why = "Results of two versions or two splits never share a table."
            middle.selectbox("Edition", editions, key="edition", bind="query-params", persist_state="session", help=why)
        trust.segmented_control(
            "Rank what is at least", list(TRUST), default=tables.least_trust(), required=True, key="trust",
            bind="query-params", persist_state="session", help=f"The others are listed below, unranked. {TRUST_HELP}",
        )  # fmt: skip
        with right:
            _watch(protocol)
    page.run()


@st.fragment(run_every=REFRESH_SECONDS)  # type: ignore[untyped-decorator]
def _watch(protocol: str) -> None:
    """Look for new results now and then; redraw the page only if there are any."""
    source = tables.source(protocol)
    if source.refresh():
        st.rerun()
    st.text(f"{len(source.results):,} results{'; ' if source.message else ''}{source.message}")


main()
