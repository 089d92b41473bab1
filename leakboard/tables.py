"""The ranked tables as text, at most 110 columns wide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.result import Result
from benchmark.text import plain
from leaderboard import kinds
from leaderboard.claims import Finding
from leaderboard.ranking import (
    AUC,
    ISOLATION,
    TPR,
    Board,
    attack_table,
    defense_table,
    rank_interval,
    scenarios,
)
from leaderboard.texts import short_names
from leakboard.console import broken, show

FAILED, LOG_LINES, LOG_WIDTH = 10, 8, 400
"""Failed scenarios whose log is printed, its last lines, and characters of a line, at most."""


def print_tables(
    results: Iterable[Result], board: Board, console: Console, what: str = "", *, ranked: bool = True
) -> None:
    """Print the defenses, then the attacks of each task by track, what is not ranked and why, and logs of failures.

    what: printed above the tables: which rows these are. ranked: whether ranks are printed. Texts of records are wrapped
    in `Text`, so that Rich reads no markup in them.
    """
    frame = scenarios(results)
    defenses = defense_table(frame, board)
    if what:
        console.print(Text(f"Rows: {what}"))
    metric, pool = METRICS[defenses.attrs["metric"]].label, len(defenses.attrs["pool"])
    over = f"the worst-case {metric} over {pool} required attack{'' if pool == 1 else 's'}"
    _print_defenses(
        defenses, f"Defenses, {_by(over, ranked)} (smaller is better)" if pool else "Defenses", console, ranked
    )
    _print_kinds(kinds.kind_table(frame, board), defenses, console)
    for task in TASK_METRICS:
        table = attack_table(frame, board, task)
        if len(table):
            _print_attacks(table, task, console, ranked)
    _print_logs(frame, console)


def _by(metric: str, ranked: bool) -> str:
    return f"{'ranked' if ranked else 'sorted, without ranks,'} by {metric}"


def print_claims(findings: Sequence[Finding], console: Console) -> None:
    """Print one row a claim: both scores, their difference with its 95 % interval, what it should be, the verdicts."""
    columns = ("", "claim", "first", "second", "difference", "should be", "alone", "verdict")
    out = Table(*columns, box=None, title="Claims of the papers", title_justify="left", header_style="bold")
    for f in findings:
        numbers = ["", "", ""]
        if f.first and f.second and f.difference:
            d = f.difference
            numbers = [f"{f.first.mean:.3f}", f"{f.second.mean:.3f}", f"{d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f})"]
        out.add_row(f.claim.id, f.claim.says, *numbers, f.claim.expected, f.alone, f.verdict)
    show(out, console)
    for f in findings:
        if f.claim.note and f.verdict not in ("holds", "not scored"):
            console.print(f"{f.claim.id}: {f.claim.note}", markup=False, highlight=False)
    counts = Counter(f.verdict for f in findings)
    console.print(
        ", ".join(f"{n} {v}" for v, n in counts.items())
        + "; p-values by Benjamini and Hochberg's method (alone: without it), margins set beforehand"
    )


def _print_defenses(table: pd.DataFrame, title: str, console: Console, ranked: bool) -> None:
    rare = {"robust_accuracy": "robust acc.", "certified_accuracy": "certified acc.", "epsilon_lower": "eps. at least"}
    shown = {name: label for name, label in rare.items() if table[name].notna().any()}
    out = _table(title, "defense", "worst TPR@1%", "worst AUC", "decided by", "test acc.", *shown.values())
    table = _with_intervals(table, ranked)
    for row in table[table.reason == ""].to_dict("records"):
        deciding = row[f"worst_{table.attrs['metric']}_attack"]
        worst = (number(row, f"worst_{m}") for m in (TPR, AUC))
        more = (number(row, name) for name in ("test_accuracy", *shown))
        name = Text(row["defense"] + (" (tuned)" if row["tuned"] else ""))
        out.add_row(row["interval"], name, *worst, Text(deciding), *more)
    show(out, console, optional=len(shown))
    _print_rest(table, "defense", console)


def _print_kinds(table: pd.DataFrame, defenses: pd.DataFrame, console: Console) -> None:
    """Print how far each kind of attack gets on the ranked defenses; nothing where the protocol requires one kind alone."""
    columns = [c for c in kinds.columns(table) if c.name != "bypassed"]
    ranked = defenses.defense[defenses.reason == ""]
    if not columns or ranked.empty:
        return
    title = "Kinds of attack: the way from the null row to a perfect attack, in %"
    out = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    out.add_column("defense")
    for c in columns:
        out.add_column(c.label.removesuffix(", excess").lower(), justify="left" if c.name == "decided" else "right")
    wide, short = kinds.wide(table).loc[ranked], short_names(defenses.defense)
    for defense, row in wide.to_dict("index").items():
        out.add_row(Text(short[str(defense)]), *(_share(row, c.name) for c in columns))
    show(out, console)
    for attacks, mine in wide[wide.bypassed != ""].groupby("bypassed"):
        text = f"  {attacks}: {kinds.BYPASSED}, and so does not count for {', '.join(mine.index)}"
        console.print(broken(Text(text, style="dim"), console.width - 8))


def _share(row: dict[Any, Any], column: str) -> str:
    """A share with the half-width of its 95 % interval, in %; a mark where there is none; other columns are texts already."""
    if f"{column}_why" not in row:
        return str(row[column])
    value, low, high = (100 * float(row[f"{column}{end}"]) for end in ("", "_low", "_high"))
    if pd.isna(value):
        return "bypassed" if row[f"{column}_why"] == kinds.BYPASSED else "–"
    return f"{value:z.0f}" if pd.isna(low) else f"{value:z.0f} ±{max(value - low, high - value):.0f}"


def _print_attacks(table: pd.DataFrame, task: str, console: Console, ranked: bool) -> None:
    metrics = TASK_METRICS[task][:2]
    title = f"Attacks: {task}, {_by(METRICS[table.attrs['metric']].label, ranked)} within a track"
    out = _table(title, "attack", *(METRICS[m].label for m in metrics), "s")
    table = _with_intervals(table, ranked)
    for track, entries in table[(table.reason == "") | table.null_row].groupby("track"):
        out.add_section()
        out.add_row("", Text(str(track), style="bold"))
        for row in entries.to_dict("records"):
            seconds = "" if pd.isna(row["seconds"]) else f"{row['seconds']:.1f}"
            place = "null" if row["null_row"] else row["interval"]
            out.add_row(place, Text(row["attack"]), *(number(row, m) for m in metrics), seconds)
    show(out, console)
    _print_rest(table[~table.null_row], "attack", console)


def _with_intervals(table: pd.DataFrame, ranked: bool) -> pd.DataFrame:
    return table.assign(interval=rank_interval(table)) if ranked else table.assign(interval="")


def _print_rest(table: pd.DataFrame, name: str, console: Console) -> None:
    """Print below a table what is not ranked and why, and the trust and isolation of the entries."""
    unranked = table[table.reason != ""].groupby("reason", sort=False)[name]
    lines = [f"not ranked: {', '.join(entries)}: {reason}" for reason, entries in unranked]
    for (trust, isolation), rows in table.groupby(["trust", "isolation"]):
        entries = "all entries" if len(rows) == len(table) else ", ".join(rows[name])
        lines.append(f"{trust}{f'; {ISOLATION[str(isolation)]}' if isolation else ''}: {entries}")
    for line in lines:
        console.print(broken(Text(f"  {line}", style="dim"), console.width - 8))


def _print_logs(frame: pd.DataFrame, console: Console) -> None:
    """The end of what failed submissions printed."""
    failed = [r for r in frame.result if r.status not in ("ok", "skipped") and r.log]
    for r in failed[:FAILED]:
        console.print(Text(f"log of {r.attack or 'utility'} on {r.defense}, seed {r.seed} ({r.status}):"))
        for line in r.log.splitlines()[-LOG_LINES:]:
            console.print(Text(f"  | {plain(line, LOG_WIDTH)}", style="dim"))
    if len(failed) > FAILED:
        console.print(f"and {len(failed) - FAILED} more logs: leakboard board, page Entry")


def _table(title: str, name: str, *columns: str) -> Table:
    out = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    out.add_column("rank", justify="right", no_wrap=True)
    out.add_column(name)
    for column in columns:
        out.add_column(column, justify="left" if column == "decided by" else "right")
    return out


def number(row: dict[Any, Any], column: str) -> str:
    """A value with the half-width of its 95 % interval, such as 0.656 ±0.011; "–" without a value."""
    value, low, high = (float(row.get(f"{column}{end}", float("nan"))) for end in ("", "_low", "_high"))
    if pd.isna(value):
        return "–"
    # One end may be cut off at the metric's range, so the wider half is shown.
    return f"{value:.3f}" if pd.isna(low) else f"{value:.3f} ±{max(value - low, high - value):.3f}"
