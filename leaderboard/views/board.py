"""The board: who leads and how sure that is, then defenses and attacks, ranked, with what is not ranked and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from benchmark import places
from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.protocol import QUICKSTART
from leaderboard import grids, kinds
from leaderboard import tables as sources
from leaderboard.families import beside, siblings
from leaderboard.forest import QUESTION, forest, forest_of_kind
from leaderboard.pairs import Side
from leaderboard.ranking import AUC, TPR, WORST, Board, best_known, by_strength, measured, rank_interval
from leaderboard.texts import digits, interval, rank_digits, settings_of, short_names
from leaderboard.views import (
    TRUST_COLUMNS,
    advise,
    advise_on_trust,
    axes,
    chosen,
    download,
    editions,
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
NAME_WIDTH = 215
"""Most pixels of the names' column: Streamlit lets go of a pinned column that is wider than 60 % of a narrow table."""
RANK_HELP = "1 + the number of clearly better entries, to n - the number of clearly worse ones: 95 % t-intervals of seed-paired differences."
BEST_KNOWN_HELP = "The strongest attack that is not required, where it finds more than the worst case; it ranks nobody. Clearly: the 95 % t-interval of the difference excludes 0."
COVERAGE_HELP = "Required scenarios that were scored, of those required; what does not apply (skipped) is not required."
CHIEF = {
    "interval": column.TextColumn("Rank", width=125, help=RANK_HELP),
    "better_than": column.NumberColumn("Better than", help="How many entries it is clearly better than: 95 % t-intervals of seed-paired differences"),
    "worse_than": column.NumberColumn("Worse than", help="How many entries are clearly better: 95 % t-intervals of seed-paired differences"),
    "coverage": column.TextColumn("Coverage", help=COVERAGE_HELP, alignment="right"),
    "reason": column.TextColumn("Why not ranked", width="large"),
    **TRUST_COLUMNS,
}  # fmt: skip
WHOLE = column.TextColumn("Whole name", help="With what differs from its defaults; the page Entry explains it")
SHORT = {TPR: "TPR", AUC: "AUC"}
"""Metrics in the names of columns that stand beside theirs."""


def defenses() -> None:
    """Draw the page of defenses."""
    protocol, results = chosen()
    board, tables = ranked(protocol, results)
    whole = tables["defenses"]
    attacks = len({r.attack for r in results} - {""})
    st.title("Defenses", anchor=False)
    st.text(QUESTION)
    if (whole.reason == "").any():
        _plots(protocol, whole, tables.kinds, board)
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
    heads = pd.concat([
        settings_of(rows, (board.baseline, *board.required_defenses))
        for rows in (whole[whole.reason == ""], whole[whole.reason != ""])
    ])  # fmt: skip
    every = not heads.duplicated().any() or st.toggle(
        "Every setting of a defense", key="settings", bind="query-params",
        help="Off: one row a defense, the setting that the protocol requires, or its default. The ranks count all of them.",
    )  # fmt: skip
    if not every and not st.session_state.get("search"):  # what is searched for is never folded away
        table = table[table.defense.isin(set(heads))]
    more = heads.value_counts() - 1
    table = table.assign(folded=table.defense.map(more).fillna(0).astype(int))
    table = table.join(tables.as_in_papers, on="defense").join(kinds.wide(tables.kinds), on="defense")
    against = _against(tables.pairs, board.baseline)
    _defenses(table, whole, against, board.baseline, kinds.columns(tables.kinds))
    if len(tables.pairs):
        st.subheader("Every pair", anchor=False)
        drawn = tables.pairs[tables.pairs[["first", "second"]].isin(set(whole.defense if every else heads)).all(axis=1)]
        st.html(grids.pairs(drawn, short_names(whole.defense), metric, len(tables.pairs) // 2))
    _family(protocol, "defenses", "defense", f"worst_{metric}", f"Worst {METRICS[metric].label}")


def _plots(protocol: str, whole: pd.DataFrame, by_kind: pd.DataFrame, board: Board) -> None:
    """The forest plot of the chosen kind of attack; then all kinds beside each other, or why there is one alone."""
    names = kinds.kinds_of(by_kind)
    noted = whole.assign(bypassed=whole.defense.map(kinds.bypassed(by_kind)).fillna(""))
    papers, kind = known_papers(places.board(protocol)), "membership"
    if len(names) > 1:
        kind = str(st.segmented_control(
            "Kind of attack", names, default=names[0], required=True, key="kind", bind="query-params",
            help="Defenses are ranked by membership; what the other kinds find stands beside it",
        ))  # fmt: skip
    if kind == "membership":
        st.html(forest(noted, board.baseline, papers, board.required_defenses))
    else:
        st.html(forest_of_kind(by_kind, kind, noted, board.baseline, papers))
    st.subheader("Kinds of attack", anchor=False)
    if len(names) > 1:
        ranked = list(whole.defense[whole.reason == ""])
        st.html(grids.kinds(by_kind, short_names(whole.defense), ranked, board.baseline))
    else:
        st.text("This protocol requires attacks of membership alone. One that requires other kinds as well, such as "
                f"{QUICKSTART}, shows here what a defense against one kind does to the others.")  # fmt: skip


def _family(protocol: str, kind: str, entry: str, metric: str, label: str) -> None:
    """All members of the protocol's family that have results, and their mean, once it is asked for: each is a board to read and rank.

    kind: `Tables`' name of the table; entry, metric: its columns of names and of what is shown as `label`.
    """
    names = siblings(protocol, sources.protocols())
    if len(names) < 2:
        return
    family = protocol.rpartition(".")[0]
    st.subheader(f"The family {literal(family)}", anchor=False)
    if not st.toggle(f"All {len(names)} members and their mean", key="family", bind="query-params"):
        return
    newest = {name: next(iter(editions(name).values()), None) for name in names}
    found = {name: ranked(name, results)[1][kind] for name, results in newest.items() if results}
    if entry == "attack":  # null rows stand apart, as in the tables above
        found = {name: table[~table.null_row.astype(bool)] for name, table in found.items()}
    table = beside(found, entry, metric, largest_first=entry == "attack")
    st.text(
        f"{label}, by member. The mean is of what is ranked with each of the {len(found)} members that have results."
    )
    config: dict[str, Any] = {
        entry: column.TextColumn(entry.capitalize(), pinned=True, width=NAME_WIDTH),
        "mean": column.NumberColumn("Mean", format="%.3f"),
        "ranked": column.NumberColumn("Ranked with", help="With how many members it is ranked"),
    }
    config |= {name: column.NumberColumn(name, format="%.3f") for name in table.columns[3:]}
    st.dataframe(table, hide_index=True, width="stretch", column_config=config, placeholder="–", key=f"family-{kind}")
    download(table, f"{family}-{kind}")


def _against(pairs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The differences to the baseline by defense, with their bounds; 0 for the baseline itself has none."""
    mine = pairs[pairs.second == baseline].set_index("first")
    return mine[["difference", "low", "high"]].rename(columns={c: f"difference_{c}" for c in ("low", "high")})


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
    _attacks(by_strength(table, tables[task].attrs["metric"]), task, tables[task])
    from leaderboard import charts  # not with the page of defenses, which opens first: it takes a third of a second

    labels = tables[task][tables[task].track.fillna("").str.startswith("label/")]
    if task == "membership" and (drawn := charts.budget(labels)) is not None:
        st.subheader("What queries buy", anchor=False)
        st.text("Attacks that see labels alone, by their queries to a target. Bars: 95 % t-intervals over seeds.")
        st.altair_chart(drawn, width="stretch")
    metric = tables[task].attrs["metric"]
    _family(protocol, task, "attack", metric, METRICS[metric].label)


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


def _defenses(
    table: pd.DataFrame, whole: pd.DataFrame, against: pd.DataFrame, baseline: str, by_kind: Sequence[kinds.Column]
) -> None:
    """table: the rows that are shown; whole: all of them; against: the differences to the baseline, by defense.

    by_kind: the columns that say what each kind of attack finds, which the table has.
    """
    metric, pool = whole.attrs["metric"], whole.attrs["pool"]
    st.text(
        f"Ranked by the worst-case {METRICS[metric].label} over the {len(pool)} membership attacks that the protocol "
        f"requires, as far as they apply: smaller is better. Deciding attack and sign are chosen on the other seeds. "
        f"What is not above its null has no order among its like."
    )
    fine = {c: digits(whole, c) for c in ("test_accuracy", *(f"worst_{m}" for m in WORST))}
    fine[f"worst_{metric}"] = rank_digits(whole[whole.reason == ""], f"worst_{metric}")
    table = table.join(against, on="defense")
    fine["difference"] = fine[f"worst_{metric}"]
    intervals = {f"{c}_ci": interval(table, c, fine[c]) for c in fine}
    chief = _worst_columns(metric, fine[f"worst_{metric}"])
    columns = {n: chief[n] for n in (f"worst_{metric}", f"worst_{metric}_ci")}
    columns |= {n: CHIEF[n] for n in ("interval", "better_than", "worse_than")}
    columns |= {
        "difference": column.NumberColumn(f"Less or more than {baseline}", format=f"%+.{fine['difference']}f", help=f"The worst case minus that of {baseline}: the seed-paired difference. Below 0 it leaks less"),
        "difference_ci": column.TextColumn("Difference, 95 %", help="t-interval over seeds"),
        "test_accuracy": number("test_accuracy", digits=fine["test_accuracy"]),
        "test_accuracy_ci": column.TextColumn("Accuracy, 95 %", help="t-interval over seeds"),
        **{n: config for n, config in chief.items() if n not in columns},
        **_kind_columns(by_kind, table),
        "best_known": column.TextColumn("Best known", help=BEST_KNOWN_HELP),
        "whole": WHOLE,
    }  # fmt: skip
    notes = note_columns(table)
    columns |= notes | {n: CHIEF[n] for n in ("coverage", *TRUST_COLUMNS)}
    for m in (m for m in WORST if m != metric):
        columns |= _worst_columns(m, fine[f"worst_{m}"])
    columns |= {
        "train_accuracy": number("train_accuracy"), "ece": number("ece"),
        **{m: number(m) for m in ("robust_accuracy", "certified_accuracy") if table[m].notna().any()},
        **({"epsilon_lower": number("epsilon_lower", "ε at least")} if table.epsilon_lower.notna().any() else {}),
        "train_seconds": column.NumberColumn("Training (s)", format="%.1f", help="Seconds to train one target's network, the median over seeds, as measured when it was trained; what guards make comes on top"),
        "train_ratio": column.NumberColumn("Training (× baseline)", format="%.1f", help="Seconds to train, in those of the baseline; exact where both were trained in one session"),
        **{
            m: column.NumberColumn(METRICS[m].label, format="%.2f", help=METRICS[m].help)
            for m in ("ms_per_query", "ms_per_query_alone")
        },
        "mean_auc": number(AUC, "Mean AUC", "Mean over the required attacks that apply. "),
        "mean_tpr_at_fpr_0.01": number(TPR, "Mean TPR at 1 % FPR", "Mean over the required attacks that apply. "),
        "worst_auc_oracle": number(AUC, "As in papers: AUC", "Best attack on the data it is reported on, over all targets: too high. "),
        "one_target_auc": number(AUC, "As in papers: AUC, one target", "Best attack on the data it is reported on, on the first target of each seed alone: too high. "),
        "oracle_balanced_accuracy": number("balanced_accuracy_oracle", "As in papers: balanced accuracy", "Best attack at the threshold that is best on the labels: too high. "),
    }  # fmt: skip
    if table.folded.any():
        columns["folded"] = column.NumberColumn(
            "More settings", help="Other settings of the same defense that were scored"
        )
    short = short_names(whole.defense)
    shares = [c.name for c in by_kind if f"{c.name}_low" in table]
    intervals |= {
        f"{n}_ci": table[f"{n}_why"].fillna("") + interval(100 * table[[n, f"{n}_low", f"{n}_high"]], n, 0)
        for n in shares
    }
    intervals |= {n: 100 * table[n] for n in shares}
    shown = table.assign(
        defense=table.defense.map(short), whole=table.defense, best_known=best_known(table, metric), **intervals,
        interval=rank_interval(table).replace("chance", "not above chance"),
    )  # fmt: skip
    _both(shown, list(columns), columns, "defense")


def _kind_columns(by_kind: Sequence[kinds.Column], table: pd.DataFrame) -> dict[str, Any]:
    """The columns of all kinds of attack: shares with their intervals, in %, and texts; a text that no row has is left out."""
    columns: dict[str, Any] = {}
    for name, label, help in by_kind:
        if f"{name}_low" in table:
            columns[name] = column.NumberColumn(label, format="%.0f %%", help=help)
            columns[f"{name}_ci"] = column.TextColumn(
                f"{label}, 95 %", help="t-interval over seeds, in %, or why there is none"
            )
        elif (table[name].fillna("") != "").any():
            columns[name] = column.TextColumn(label, help=help)
    return columns


def _worst_columns(metric: str, digits: int) -> dict[str, Any]:
    """The columns of one metric's worst case, in their order."""
    worst, short = f"worst_{metric}", SHORT[metric]
    null = "95 % quantile of the worst case under permuted labels, chosen alike: below it these attacks can't tell from chance. "
    help = "Worst case over the required attacks that apply. "
    return {
        worst: number(metric, f"Worst {METRICS[metric].label}", help, digits),
        f"{worst}_ci": column.TextColumn(f"{short}, 95 %", help="t-interval over seeds"),
        f"{worst}_null_95": number(metric, f"{short}, null 95 %", null, digits),
        f"{worst}_attack": column.TextColumn(f"{short} by", help="The attack most often chosen, leaving one seed out"),
        f"{worst}_track": column.TextColumn(f"{short}, track", help="Access and auxiliary knowledge of the deciding attack"),
    }  # fmt: skip


def _attacks(table: pd.DataFrame, task: str, whole: pd.DataFrame) -> None:
    """table: the rows that are shown; whole: all of them."""
    metric = whole.attrs["metric"]
    st.text(
        f"Ranked within a track by the mean {METRICS[metric].label} over the required defenses: larger is stronger."
    )
    shown = table.assign(
        interval=rank_interval(table), whole=table.attack, attack=table.attack.map(short_names(whole.attack))
    )
    columns: dict[str, Any] = {}
    metrics = [metric, *(m for m in measured(whole, task) if m != metric)] if len(table) else []
    for m in metrics:
        fine = rank_digits(whole[whole.reason == ""], m) if m == metric else digits(whole, m)
        shown[f"{m}_ci"] = interval(table, m, fine)
        columns |= {m: number(m, digits=fine)}
        columns |= {f"{m}_ci": column.TextColumn(f"{METRICS[m].label}, 95 %", help="t-interval over seeds")}
        if m == metric:
            columns["interval"] = CHIEF["interval"]
            columns["track"] = column.TextColumn("Track", help="Access / auxiliary knowledge: different adversaries are not ranked together")  # fmt: skip
            columns |= {n: CHIEF[n] for n in ("better_than", "worse_than")}
            columns["whole"] = WHOLE
    columns |= {n: CHIEF[n] for n in ("coverage", *TRUST_COLUMNS)} | {
        "seconds": column.NumberColumn("Time (s)", format="%.1f", help="Mean seconds a target"),
        "queries": column.NumberColumn("Queries", format="localized", help="Mean queries to a target"),
        "targets": column.NumberColumn("Targets", help="Targets that count: required defenses x seeds, without skipped ones"),
    }  # fmt: skip
    null = shown.null_row.astype(bool)
    _both(shown[~null], list(columns), columns, "attack")
    if null.any():
        st.subheader("Null rows", anchor=False)
        st.text("They use nothing of the target, and show what a score is worth.")
        _table(shown[null], [c for c in columns if c not in RANKED_ALONE], columns, "attack", "null-attack")


RANKED_ALONE = ("interval", "better_than", "worse_than", "difference", "difference_ci")
"""Columns of what is ranked."""


def _both(shown: pd.DataFrame, order: list[str], config: dict[str, Any], side: Side) -> None:
    """The table of ranked entries; below it the others with the reason."""
    shown = shown.assign(isolation=shown.isolation.map(isolation))
    rest = shown[shown.reason != ""]
    if len(rest) < len(shown) or shown.empty:
        _table(shown[shown.reason == ""], order, config, side, side)
    if len(rest):
        st.subheader("Not ranked", anchor=False)
        others = ["reason", *(c for c in order if c not in RANKED_ALONE)]
        _table(rest, others, config | {"reason": CHIEF["reason"]}, side, f"unranked-{side}")


def _table(shown: pd.DataFrame, order: list[str], config: dict[str, Any], side: Side, key: str) -> None:
    """A table whose rows can be ticked: one opens the entry's page, two the page that compares them."""
    names = shown[side].astype(str)
    width = min(NAME_WIDTH, 30 + 7 * max(names.map(len), default=10))
    config = {side: column.TextColumn(side.capitalize(), pinned=True, width=width)} | config
    above = st.container(horizontal=True, vertical_alignment="center")
    event = st.dataframe(
        shown, hide_index=True, width="stretch", height="content", column_order=[side, *order], column_config=config,
        on_select="rerun", selection_mode="multi-row", key=key, placeholder="–",
    )  # fmt: skip
    ticked = [str(shown.whole.iloc[i]) for i in event["selection"]["rows"] if i < len(shown)]
    pages = st.session_state.get("pages", {})
    with above:
        if len(ticked) == 1 and st.button(f"Open {literal(ticked[0])}", key=f"open-{key}", icon=":material/science:"):
            st.switch_page(pages["entry"], query_params={"entry": ticked[0]})
        if len(ticked) == 2 and st.button(
            f"Compare {literal(ticked[0])} and {literal(ticked[1])}",
            key=f"compare-{key}",
            icon=":material/compare_arrows:",
        ):
            asked = {"side": side, "first": ticked[0], "second": ticked[1]}
            st.switch_page(pages["compare"], query_params=asked)
        if len(ticked) < 2:
            st.text("Tick a second one to compare the two." if ticked else "Tick one to open it, two to compare them.")
        if len(ticked) > 2:
            st.text(f"{len(ticked)} are ticked: two can be compared.")
