"""The board: defenses and attacks, ranked, with what is not ranked and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from benchmark.metrics import METRICS
from leaderboard import charts
from leaderboard.ranking import AUC, RANKS, TASK_METRICS, TPR, WORST, Board
from leaderboard.views import TRUST_COLUMNS, chosen, interval, isolation, literal, number, rank_interval, ranked

column = st.column_config
RANK_HELP = "1 + the number of clearly better entries, to n - the number of clearly worse ones: 95 % t-intervals of seed-paired differences."
TIE_HELP = "Entries that share a letter can't be told from the best one of them."
CHIEF = {
    "rank": column.NumberColumn("#", width=45, pinned=True),
    "interval": column.TextColumn("Rank", width=60, help=RANK_HELP),
    "tie": column.TextColumn("Tie", width=45, help=TIE_HELP),
    "reason": column.TextColumn("Why not ranked", width="large"),
    **TRUST_COLUMNS,
}


def show() -> None:
    """The page."""
    protocol, results = chosen()
    board, tables = ranked(protocol, results)
    st.title(f"Leakboard: {literal(protocol)}", anchor=False)
    defenses = tables["defenses"]
    few = f"{len(defenses)} defenses, {len({r.attack for r in results} - {''})} attacks, {len(board.seeds)} seeds"
    st.text(f"{few}; data {results[0].dataset}, network {results[0].architecture}")
    left, middle, right = st.columns([2, 3, 1], vertical_alignment="bottom")
    with left:
        side = st.segmented_control(
            "Show", ["Defenses", "Attacks"], default="Defenses", required=True, key="show", bind="query-params"
        )
    search = middle.text_input("Search", key="search", bind="query-params", placeholder="part of a name")
    if side == "Attacks":
        table = _attacks(tables, search)
    else:
        table = _found(defenses, "defense", search)
        _defenses(table, defenses, board)
    right.download_button(
        "CSV", table.to_csv(index=False), f"{protocol}-{str(side).lower()}.csv", "text/csv", icon=":material/download:"
    )


def _found(table: pd.DataFrame, name: str, search: str) -> pd.DataFrame:
    return table[table[name].str.contains(search, case=False, regex=False)]


def _defenses(table: pd.DataFrame, whole: pd.DataFrame, board: Board) -> None:
    metric, pool = whole.attrs["metric"], whole.attrs["pool"]
    st.text(
        f"Ranked by the worst-case {METRICS[metric].label} over {len(pool)} membership attacks that ran on every "
        f"ranked defense: smaller is better. Deciding attack and sign are chosen on the other seeds."
    )
    intervals = {f"worst_{m}_ci": interval(table, f"worst_{m}") for m in WORST}
    columns = {"test_accuracy": number("test_accuracy")}
    for m in (metric, *(m for m in WORST if m != metric)):
        columns |= _worst_columns(m)
    columns |= {
        "train_accuracy": number("train_accuracy"), "ece": number("ece"),
        **{m: number(m) for m in ("robust_accuracy", "certified_accuracy") if table[m].notna().any()},
        "epsilon": column.TextColumn("ε", help="Claimed differential privacy"),
        **({"epsilon_lower": number("epsilon_lower", "ε at least")} if table.epsilon_lower.notna().any() else {}),
        "extra_data": column.TextColumn("Extra data", help="What it reads besides the training set"),
        **({"tuned": column.TextColumn("Tuned", help="Its hyperparameters were searched, with so many trials, against these")} if table.tuned.any() else {}),
        "train_seconds": column.NumberColumn("Train s", format="%.1f", help="Seconds to train one target"),
        "train_ratio": column.NumberColumn("Train ×", format="%.1f", help="Seconds to train, in those of the baseline"),
        **{
            m: column.NumberColumn(METRICS[m].label, format="%.2f", help=METRICS[m].help)
            for m in ("ms_per_query", "ms_per_query_alone")
        },
        "mean_auc": number(AUC, "Mean AUC", "Mean over the pool of attacks. "),
        "mean_tpr_at_fpr_0.01": number(TPR, "Mean TPR at 1 % FPR", "Mean over the pool of attacks. "),
        "worst_auc_oracle": number(AUC, "Worst AUC, as in papers", "Best attack on the data it is reported on: too high. "),
    }  # fmt: skip
    config = CHIEF | {"defense": column.TextColumn("Defense", pinned=True, width="medium")} | columns
    order = ["rank", "interval", "tie", "defense", f"worst_{metric}", f"worst_{metric}_ci", *TRUST_COLUMNS]
    order += [c for c in columns if c not in order]
    _both(table.assign(interval=rank_interval(table), **intervals), order, config, "defense")
    if pool:
        floor = board.utility_floor * whole.loc[whole.defense == board.baseline, "test_accuracy"].max()
        st.subheader("What privacy costs", anchor=False)
        st.altair_chart(charts.leakage_against_accuracy(table, metric, float(floor)), width="stretch")
        st.text("Down and to the right is better. Bars: 95 % t-intervals over seeds. Below the dashed line is chance.")


def _worst_columns(metric: str) -> dict[str, Any]:
    """The columns of one worst case, in their order."""
    worst = f"worst_{metric}"
    null = "95 % quantile of the pool's maximum under permuted labels: leakage below it is chance. "
    return {
        worst: number(metric, f"Worst {METRICS[metric].label}", "Worst case over the pool of attacks. "),
        f"{worst}_ci": column.TextColumn("95 %", help="t-interval over seeds"),
        f"{worst}_null_95": number(metric, "Null 95 %", null),
        f"{worst}_attack": column.TextColumn("Decided by", help="The attack most often chosen, leaving one seed out"),
        f"{worst}_track": column.TextColumn("Track", help="Access and auxiliary knowledge of the deciding attack"),
    }


def _attacks(tables: dict[str, pd.DataFrame], search: str) -> pd.DataFrame:
    tasks = [t for t in TASK_METRICS if len(tables[t])]
    task = st.segmented_control(
        "Task", tasks, default=tasks[0] if tasks else None, required=True, key="task", bind="query-params"
    )
    table = tables[str(task)] if tasks else tables["membership"]
    metric = table.attrs["metric"]
    tracks = sorted(t for t in table.track.unique() if t)
    picked = st.pills(
        "Track (access / auxiliary knowledge)", tracks, selection_mode="multi", key="track", bind="query-params",
        format_func=literal,
    )  # fmt: skip
    table = _found(table, "attack", search)
    if picked:
        table = table[table.track.isin(picked)]
    better = "larger" if METRICS[metric].leaks == "up" else "smaller"
    st.text(
        f"Ranked within a track by the mean {METRICS[metric].label} over the required defenses: {better} is stronger."
    )
    shown = table.assign(interval=rank_interval(table), tie=np.where(table.null_row, "null", table.tie))
    config: dict[str, Any] = CHIEF | {
        "attack": column.TextColumn("Attack", pinned=True, width="medium"),
        "track": column.TextColumn("Track", help="Access / auxiliary knowledge: different adversaries are not ranked together"),
        "seconds": column.NumberColumn("Seconds", format="%.1f", help="Mean seconds a target"),
        "queries": column.NumberColumn("Queries", format="localized", help="Mean queries to a target"),
        "targets": column.NumberColumn("Targets", help="Targets that count: required defenses x seeds, without skipped ones"),
    }  # fmt: skip
    order = ["track", "rank", "interval", "tie", "attack", *TRUST_COLUMNS]
    for m in TASK_METRICS[str(task)] if tasks else ():
        shown[f"{m}_ci"] = interval(table, m)
        config |= {m: number(m), f"{m}_ci": column.TextColumn("95 %", help="t-interval over seeds")}
        order += [m, f"{m}_ci"]
    shown["reason"] = shown.reason.where(~shown.null_row, "")  # null rows stay beside what they are the scale of
    _both(shown, [*order, "seconds", "queries", "targets"], config, "attack")
    return table


def _both(shown: pd.DataFrame, order: list[str], config: dict[str, Any], name: str) -> None:
    """What is ranked; below it what is not, and why."""
    shown = shown.assign(isolation=shown.isolation.map(isolation))
    _table(shown[shown.reason == ""], order, config, name)
    rest = shown[shown.reason != ""]
    if len(rest):
        st.subheader("Not ranked", anchor=False)
        _table(
            rest,
            [name, "reason", *(c for c in order if c not in (name, *RANKS, "interval"))],
            config,
            f"unranked-{name}",
        )


def _table(shown: pd.DataFrame, order: list[str], config: dict[str, Any], key: str) -> None:
    """A table; choosing a row opens the entry's page."""
    event = st.dataframe(
        shown, hide_index=True, width="stretch", height="content", column_order=order, column_config=config,
        on_select="rerun", selection_mode="single-row", key=key, placeholder="–",
    )  # fmt: skip
    if rows := event["selection"]["rows"]:
        name = str(shown.iloc[rows[0]][key.removeprefix("unranked-")])
        st.switch_page(st.session_state["pages"]["entry"], query_params={"entry": name})
