"""The page Papers: numbers of the papers' tables beside ours, and verdicts on their claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS
from benchmark.result import Result
from leaderboard import claims, figures, papers, tables
from leaderboard.comparison import Estimate
from leaderboard.publish import as_csv

column = st.column_config
SECONDS = 60
"""Greatest age of the records of protocols other than the chosen one."""


def show() -> None:
    """Draw the page, also where nothing of ours is scored."""
    st.title("Papers", anchor=False)
    known = {p.id: p for p in papers.load()}
    picked = st.segmented_control(
        "Paper", list(known), default=next(iter(known)), required=True, key="paper", bind="query-params",
        format_func=lambda id: known[id].name,
    )  # fmt: skip
    paper = known[str(picked)]
    st.text(paper.cite)
    all_claims = claims.load()
    names = {p for t in paper.tables for p in t.protocols} | {s.protocol for c in all_claims for s in c.scores}
    results = newest_of(sorted(names))
    _numbers(paper, results)
    st.subheader("What it claims", anchor=False)
    _claims(paper, all_claims, results)


def newest_of(protocols: Sequence[str]) -> dict[str, list[Result]]:
    """The results of the newest public edition of each protocol."""
    _refreshed(tuple(protocols))
    results = {}
    for name in protocols:
        public = [r for r in tables.source(name).results if r.trust != "official"]
        results[name] = list(next(iter(tables.editions(public).values()), []))
    return results


@st.cache_data(ttl=SECONDS, show_spinner="Reading what is scored")  # type: ignore[untyped-decorator]
def _refreshed(protocols: tuple[str, ...]) -> None:
    for name in protocols:
        tables.source(name).refresh()


def _size(protocol: str) -> int | None:
    """Samples of a part of the split; None where the protocol does not fix it."""
    from benchmark import errors
    from benchmark import protocol as definitions

    try:
        return definitions.load(protocol).split.size
    except errors.UserError:
        return None


def _version(results: dict[str, list[Result]]) -> int:
    return hash(tuple((name, r.key, r.finished, r.trust) for name, rows in results.items() for r in rows))


@st.cache_data(max_entries=8, show_spinner=False)  # type: ignore[untyped-decorator]
def _beside(version: int, paper: papers.Paper, _results: dict[str, list[Result]]) -> pd.DataFrame:
    return papers.side_by_side(paper, _results.__getitem__, {name: _size(name) for name in _results})


# --- Numbers ----------------------------------------------------------------------------------------


def _numbers(paper: papers.Paper, results: dict[str, list[Result]]) -> None:
    table = _beside(_version(results), paper, results)
    scored = int(table.ours.notna().sum())
    left, middle, right = st.columns([3, 3, 1], vertical_alignment="bottom")
    names = list(dict.fromkeys(table.table))
    some = left.pills("Tables", names, selection_mode="multi", key="tables", bind="query-params", wrap=True)
    alone = middle.toggle("Only what is scored here", key="scored", bind="query-params")
    table = table[table.table.isin(some or names) & (table.ours.notna() if alone else True)].reset_index(drop=True)
    right.download_button("CSV", as_csv(table), f"paper-{paper.id}.csv", "text/csv", icon=":material/download:")
    st.text(
        f"{scored} of the paper's {sum(len(t.numbers) for t in paper.tables)} numbers listed here have one of ours beside them. "
        "None of ours is expected to equal its number: the column Differs says in what the scale is another one. "
        "Directions are what can be compared; the claims below do."
    )
    if table.empty:
        st.text("Nothing of these tables is scored here. To score the nearest protocol:")
        st.code(f"leakboard run --protocol {paper.tables[0].protocols[0]}", language=None, wrap_lines=True)
        return
    helps = {papers.label(m): METRICS[m].help for t in paper.tables for n in t.numbers if (m := n.metric) in METRICS}
    config: dict[str, Any] = {
        "table": column.TextColumn("Table", pinned=True, width=75),
        "row": column.TextColumn("Row", width="medium", help="In the paper's words"),
        "dataset": column.TextColumn("Its data"),
        "metric": column.TextColumn("Metric", help="; ".join(f"{k}: {v}" for k, v in helps.items())),
        "printed": column.TextColumn("Printed", alignment="right", help="As it stands in the paper"),
        "paper": column.NumberColumn("Paper", format="%.3f", help="In our units"),
        "ours": column.NumberColumn("Ours", format="%.3f", help="Mean over seeds; of times the median"),
        "low": column.NumberColumn("95 % from", format="%.3f", help="t-interval over seeds"),
        "high": column.NumberColumn("95 % to", format="%.3f", help="t-interval over seeds"),
        "differs": column.TextColumn("Differs", width="large", help="In what the paper's scale is not ours"),
        "defense": column.TextColumn("Our defense"),
        "attack": column.TextColumn("Our attack", help="Of several the best, chosen for each seed on the others"),
        "protocol": column.TextColumn("Our protocol", help="The nearest one that has the score"),
        "network": column.TextColumn("Its network"),
        "size": column.TextColumn("Its size", help="Samples a part"),
    }
    st.dataframe(
        table, hide_index=True, width="stretch", height=560, column_order=list(config), column_config=config,
        placeholder="–", key="numbers", alt="The paper's numbers beside ours",
    )  # fmt: skip


# --- Claims -----------------------------------------------------------------------------------------


def _claims(paper: papers.Paper, all_claims: tuple[claims.Claim, ...], results: dict[str, list[Result]]) -> None:
    findings = [f for f in _verdicts(_version(results), all_claims, results) if f.claim.id.startswith(paper.id)]
    findings = [f for f in findings if f.claim.id[1:2].isdigit()]
    missing = sorted({p for f in findings for p in f.missing})
    counts = pd.Series([f.verdict for f in findings], dtype=str).value_counts()
    st.text(
        ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        + ". Margins were set before anything was compared; "
        "p-values are one-sided, by Benjamini and Hochberg's method over the claims of all papers."
    )
    if missing:
        st.text("What is not scored needs:")
        st.code("\n".join(f"leakboard run --protocol {p}" for p in missing), language=None, wrap_lines=True)
    table = pd.DataFrame([_claim(f) for f in findings])
    shares = [papers.is_share(f.claim.first.metric) and not f.claim.first.against for f in findings]
    comparable = pd.Series(shares, index=table.index, dtype=bool)
    drawn = table[table.low.notna() & comparable]
    if len(drawn):
        st.text("Differences with 95 % intervals. Blue: the claim holds; orange: it fails; grey: unresolved.")
        side = drawn.verdict.map({"holds": "second", "fails": "first"}).fillna("neither")
        shown = drawn.assign(name=drawn.claim + " " + drawn.says + ": " + drawn.expected, side=side)
        st.altair_chart(
            figures.forest(shown, "first - second"), width="stretch", key="claims-forest",
            alt="Forest plot of the claims; the table below holds the same numbers.",
        )  # fmt: skip
    numbers = {"first": "First", "second": "Second", "difference": "Difference", "low": "95 % from", "high": "95 % to"}
    config: dict[str, Any] = {
        "claim": column.TextColumn("#", pinned=True, width=55),
        "says": column.TextColumn("Claim", width="medium"),
        "verdict": column.TextColumn("Verdict", help="Whether the data decide for the claim or against it, or for neither"),
        "alone": column.TextColumn("Alone", help="The verdict if this were the only claim: without a correction for their number"),
        "expected": column.TextColumn("Difference should be", help="The margin was set before anything was compared"),
        **{c: column.NumberColumn(t, format="%.3f" if c in ("first", "second") else "%+.3f") for c, t in numbers.items()},
        "p": column.NumberColumn("p", format="%.3f", help=f"One-sided, by Benjamini and Hochberg's method over the claims of all papers: below {claims.LEVEL} the claim holds. An interval is of this claim alone"),
        "metric": column.TextColumn("Metric"),
        **({"note": column.TextColumn("Why not", width="large", help="What was found to be the reason, or what speaks for one")} if table.note.any() else {}),
    }  # fmt: skip
    st.dataframe(
        table, hide_index=True, width="stretch", height="content", column_order=list(config), column_config=config,
        placeholder="–", key="claims", alt="Verdicts on the paper's claims",
    )  # fmt: skip
    file = f"claims-{paper.id}.csv"
    st.download_button("CSV of the claims", as_csv(table), file, "text/csv", icon=":material/download:")


@st.cache_data(max_entries=4, show_spinner=False)  # type: ignore[untyped-decorator]
def _verdicts(
    version: int, _all_claims: tuple[claims.Claim, ...], _results: dict[str, list[Result]]
) -> list[claims.Finding]:
    return claims.check(_all_claims, _results.__getitem__)


def _claim(finding: claims.Finding) -> dict[str, object]:
    """One row of the table of claims."""
    nothing = Estimate(np.nan, np.nan, np.nan)
    difference = finding.difference or nothing
    claim = finding.claim
    return {
        "claim": claim.id,
        "says": claim.says,
        "verdict": finding.verdict,
        "alone": finding.alone,
        "expected": claim.expected,
        "first": (finding.first or nothing).mean,
        "second": (finding.second or nothing).mean,
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p": np.nan if finding.p is None else finding.p,
        "metric": _measured(claim.first),
        "note": "" if finding.verdict in ("holds", "not scored") else claim.note,
    }


def _measured(score: claims.Score) -> str:
    """In words, what a claim compares."""
    words = papers.label(score.metric)
    if score.against:
        return f"Rank correlation of {words} and {papers.label(score.against.metric)} over {1 + len(score.settings)} settings"
    return f"Front of accuracy and {words}" if score.settings else words
