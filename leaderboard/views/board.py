"""The board: who leads and how sure that is, then defenses and attacks, ranked, with what is not ranked and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from benchmark import places
from benchmark.metrics import METRICS, TASK_METRICS
from leaderboard import charts
from leaderboard.forest import QUESTION, forest
from leaderboard.ranking import AUC, RANKS, TPR, WORST, apart, best_known, rank_interval
from leaderboard.texts import digits, interval, rank_digits
from leaderboard.views import (
    TRUST_COLUMNS,
    advise,
    advise_on_trust,
    axes,
    chosen,
    download,
    frame,
    isolation,
    known_papers,
    least_trust,
    literal,
    note_columns,
    number,
    ranked,
)

column = st.column_config
RANK_HELP = "1 + the number of clearly better entries, to n - the number of clearly worse ones: 95 % t-intervals of seed-paired differences."
APART_HELP = "How many entries it is clearly better than, and how many are clearly better: 95 % t-intervals of seed-paired differences."
BEST_KNOWN_HELP = "The strongest attack that is not required, where it finds more than the worst case; it ranks nobody. Clearly: the 95 % t-interval of the difference excludes 0."
COVERAGE_HELP = "Required scenarios that were scored, of those required; what does not apply (skipped) is not required."
CHIEF = {
    "rank": column.NumberColumn("#", width=45),
    "interval": column.TextColumn("Rank", width=60, help=RANK_HELP),
    "apart": column.TextColumn("Apart", width=175, help=APART_HELP),
    "coverage": column.TextColumn("Coverage", width=85, help=COVERAGE_HELP, alignment="right"),
    "reason": column.TextColumn("Why not ranked", width="large"),
    **TRUST_COLUMNS,
}


def defenses() -> None:
    """Draw the page of defenses."""
    protocol, results = chosen()
    board, tables = ranked(protocol, results)
    whole = tables["defenses"]
    attacks = len({r.attack for r in results} - {""})
    st.title("Defenses", anchor=False)
    st.text(QUESTION)
    if (whole.reason == "").any():
        st.html(forest(whole, board.baseline, known_papers(places.board(protocol))))
    elif least_trust() == "self-reported":
        advise("Nothing is ranked yet", "A rank needs every scenario that the protocol requires; what is missing stands below.",
               f"leakboard run --protocol {protocol}")  # fmt: skip
    else:
        advise_on_trust(protocol, results)
    st.subheader("All numbers", anchor=False)
    st.text(f"{axes(results)}; {len(whole)} defenses, {attacks} attacks, {len(board.seeds)} seeds")
    metric = whole.attrs["metric"]
    table, csv = _filtered(whole, "defense", f"worst_{metric}_track", "of the deciding attack")
    wanted = [(a, s) for a in ("", *board.required_attacks) for s in board.seeds]
    table = table.assign(coverage=_coverage(frame(results), table.defense, "defense", "attack", wanted))
    with csv:
        download(table, f"{protocol}-defenses")
    _defenses(table, whole)


def attacks() -> None:
    """Draw the page of attacks."""
    protocol, results = chosen()
    board, tables = ranked(protocol, results)
    st.title("Attacks", anchor=False)
    st.text(axes(results))
    tasks = [t for t in TASK_METRICS if len(tables[t])] or [*TASK_METRICS][:1]
    task = str(st.segmented_control("Task", tasks, default=tasks[0], required=True, key="task", bind="query-params"))
    table, csv = _filtered(tables[task], "attack", "track", "")
    wanted = [(d, s) for d in board.required_defenses for s in board.seeds]
    scored = frame(results)
    table = table.assign(coverage=_coverage(scored[scored.task == task], table.attack, "attack", "defense", wanted))
    with csv:
        download(table, f"{protocol}-attacks-{task}")
    _attacks(table, task, tables[task].attrs["metric"])
    labels = tables[task][tables[task].track.fillna("").str.startswith("label/")]
    if task == "membership" and (drawn := charts.budget(labels)) is not None:
        st.subheader("What queries buy", anchor=False)
        st.text("Attacks that see labels alone, by their queries to a target. Bars: 95 % t-intervals over seeds.")
        st.altair_chart(drawn, width="stretch")


def _filtered(table: pd.DataFrame, name: str, track: str, whose: str) -> tuple[pd.DataFrame, Any]:
    """The rows that match the search and the filters, and the place for the CSV button.

    name: the column with the entries' names. track: the column with "access/knowledge". whose: whose track that is.
    """
    first, csv = st.columns([6, 1], vertical_alignment="bottom")
    left, right = st.columns([2, 3])
    search = first.text_input("Search", key="search", bind="query-params", placeholder="part of a name")
    if search and not table[name].str.contains(search, case=False, regex=False).any():
        st.text(f"No {name} has {search} in its name.")
    sides = table[track].fillna("").str.partition("/") if len(table) else pd.DataFrame({0: [], 2: []}, dtype=str)
    table = table[table[name].str.contains(search, case=False, regex=False)] if search else table
    for place, label, key, values in (
        (left, "Access", "access", sides[0]),
        (right, "Auxiliary knowledge", "knowledge", sides[2]),
    ):
        picked = place.pills(
            f"{label} {whose}".strip(), sorted({*values} - {""}), selection_mode="multi", key=key, bind="query-params",
            format_func=literal, wrap=True,
        )  # fmt: skip
        if picked:
            table = table[values.reindex(table.index).isin(picked)]
    return table, csv


def _coverage(
    scored: pd.DataFrame, names: pd.Series, entry: str, other: str, wanted: Sequence[tuple[str, int]]
) -> list[str]:
    """For each entry how many of its required scenarios were scored, such as 42/45; "0/0" if none is required.

    scored: `ranking.scenarios`. wanted: the required counterparts, named in the column `other`, and seeds.
    """
    pairs = pd.MultiIndex.from_tuples(wanted, names=[other, "seed"]) if wanted else pd.MultiIndex.from_arrays([[], []])
    required = scored[pd.MultiIndex.from_frame(scored[[other, "seed"]]).isin(pairs)]
    counts = required.groupby([entry, "status"]).size().unstack(fill_value=0).reindex(names, fill_value=0)
    ok, skipped = (counts[s] if s in counts else pd.Series(0, counts.index) for s in ("ok", "skipped"))
    return [f"{a}/{len(wanted) - b}" for a, b in zip(ok, skipped, strict=True)]


def _defenses(table: pd.DataFrame, whole: pd.DataFrame) -> None:
    metric, pool = whole.attrs["metric"], whole.attrs["pool"]
    st.text(
        f"Ranked by the worst-case {METRICS[metric].label} over the {len(pool)} membership attacks that the protocol "
        f"requires, as far as they apply: smaller is better. Deciding attack and sign are chosen on the other seeds. "
        f"chance: not above its null, without an order among these. Best known: what a stronger attack finds that is not required."
    )
    fine = {c: digits(whole, c) for c in ("test_accuracy", *(f"worst_{m}" for m in WORST))}
    fine[f"worst_{metric}"] = rank_digits(whole[whole.reason == ""], f"worst_{metric}")
    intervals = {f"{c}_ci": interval(table, c, fine[c]) for c in fine}
    columns = {
        "test_accuracy": number("test_accuracy", digits=fine["test_accuracy"]),
        "test_accuracy_ci": column.TextColumn("95 %", help="t-interval over seeds"),
    }
    for m in (metric, *(m for m in WORST if m != metric)):
        columns |= _worst_columns(m, fine[f"worst_{m}"])
    columns["best_known"] = column.TextColumn("Best known", help=BEST_KNOWN_HELP)
    columns |= {
        "train_accuracy": number("train_accuracy"), "ece": number("ece"),
        **{m: number(m) for m in ("robust_accuracy", "certified_accuracy") if table[m].notna().any()},
        **({"epsilon_lower": number("epsilon_lower", "ε at least")} if table.epsilon_lower.notna().any() else {}),
        "train_seconds": column.NumberColumn("Train s", format="%.1f", help="Seconds to train one target's network, the median over seeds, as measured when it was trained; what guards make comes on top"),
        "train_ratio": column.NumberColumn("Train ×", format="%.1f", help="Seconds to train, in those of the baseline; exact where both were trained in one session"),
        **{
            m: column.NumberColumn(METRICS[m].label, format="%.2f", help=METRICS[m].help)
            for m in ("ms_per_query", "ms_per_query_alone")
        },
        "mean_auc": number(AUC, "Mean AUC", "Mean over the required attacks that apply. "),
        "mean_tpr_at_fpr_0.01": number(TPR, "Mean TPR at 1 % FPR", "Mean over the required attacks that apply. "),
        "worst_auc_oracle": number(AUC, "Worst AUC, as in papers", "Best attack on the data it is reported on: too high. "),
    }  # fmt: skip
    notes = note_columns(table)
    config = CHIEF | {"defense": column.TextColumn("Defense", pinned=True, width="medium")} | columns | notes
    order = ["rank", "interval", "apart", "defense", f"worst_{metric}", f"worst_{metric}_ci"]
    order += ["test_accuracy", "test_accuracy_ci", *notes, "coverage", *TRUST_COLUMNS]
    order += [c for c in columns if c not in order]
    _both(
        table.assign(
            interval=rank_interval(table), apart=apart(table), best_known=best_known(table, metric), **intervals
        ),
        order,
        config,
        "defense",
    )


def _worst_columns(metric: str, digits: int) -> dict[str, Any]:
    """The columns of one metric's worst case, in their order."""
    worst = f"worst_{metric}"
    null = "95 % quantile of the worst case under permuted labels, chosen alike: below it these attacks can't tell from chance. "
    return {
        worst: number(
            metric, f"Worst {METRICS[metric].label}", "Worst case over the required attacks that apply. ", digits
        ),
        f"{worst}_ci": column.TextColumn("95 %", help="t-interval over seeds"),
        f"{worst}_null_95": number(metric, "Null 95 %", null, digits),
        f"{worst}_attack": column.TextColumn("Decided by", help="The attack most often chosen, leaving one seed out"),
        f"{worst}_track": column.TextColumn("Track", help="Access and auxiliary knowledge of the deciding attack"),
    }


def _attacks(table: pd.DataFrame, task: str, metric: str) -> None:
    st.text(
        f"Ranked within a track by the mean {METRICS[metric].label} over the required defenses: larger is stronger."
    )
    shown = table.assign(interval=rank_interval(table), apart=apart(table))
    config: dict[str, Any] = CHIEF | {
        "attack": column.TextColumn("Attack", pinned=True, width="medium"),
        "track": column.TextColumn("Track", help="Access / auxiliary knowledge: different adversaries are not ranked together"),
        "seconds": column.NumberColumn("Seconds", format="%.1f", help="Mean seconds a target"),
        "queries": column.NumberColumn("Queries", format="localized", help="Mean queries to a target"),
        "targets": column.NumberColumn("Targets", help="Targets that count: required defenses x seeds, without skipped ones"),
    }  # fmt: skip
    order = ["track", "rank", "interval", "apart", "attack"]
    for m in TASK_METRICS[task] if len(table) else ():
        fine = digits(table, m)
        shown[f"{m}_ci"] = interval(table, m, fine)
        config |= {m: number(m, digits=fine), f"{m}_ci": column.TextColumn("95 %", help="t-interval over seeds")}
        order += [m, f"{m}_ci"]
    null = shown.null_row.astype(bool)
    order += ["coverage", *TRUST_COLUMNS, "seconds", "queries", "targets"]
    _both(shown[~null], order, config, "attack")
    if null.any():
        st.subheader("Null rows", anchor=False)
        st.text("They use nothing of the target, and show what a score is worth.")
        _table(shown[null], [c for c in order if c not in (*RANKS, "interval", "apart")], config, "null-attack")


def _both(shown: pd.DataFrame, order: list[str], config: dict[str, Any], name: str) -> None:
    """The table of ranked entries; below it the others with the reason."""
    shown = shown.assign(isolation=shown.isolation.map(isolation))
    rest = shown[shown.reason != ""]
    if len(rest) < len(shown) or shown.empty:
        _table(shown[shown.reason == ""], order, config, name)
    if len(rest):
        st.subheader("Not ranked", anchor=False)
        _table(
            rest,
            [name, "reason", *(c for c in order if c not in (name, *RANKS, "interval", "apart"))],
            config,
            f"unranked-{name}",
        )


def _table(shown: pd.DataFrame, order: list[str], config: dict[str, Any], key: str) -> None:
    """A table in which choosing a row opens the entry's page."""
    event = st.dataframe(
        shown, hide_index=True, width="stretch", height="content", column_order=order, column_config=config,
        on_select="rerun", selection_mode="single-row", key=key, placeholder="–",
    )  # fmt: skip
    if rows := event["selection"]["rows"]:
        name = str(shown.iloc[rows[0]][key.rpartition("-")[2]])
        st.switch_page(st.session_state["pages"]["entry"], query_params={"entry": name})
