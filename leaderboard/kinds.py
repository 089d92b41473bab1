"""Every kind of attack against every defense: the worst case of each kind on one scale. Pure functions: no app, no files.

Kinds have metrics with other meanings, so that their worst cases are compared by the *excess*: the share of the way from what uses
nothing of the target to a perfect attack,

    excess = (value - null) / (best - null).

0 is the null row, 1 a perfect attack. `value` is that of the attack that decides, `null` that of the best null row of the kind on this
very defense, `best` the end of the metric's range. Membership counts by its AUC, whose null is 1/2: like the others it is an
average over samples, which a rate at 1 % FPR is not. What is required by the protocol decides, and nothing else (RULES 12). The
choices, of the attack, of the null row, of the kind, are made on the other seeds than they are reported on (RULES 17). A null row is an
attack like others: where none does better on the other seeds it is what the adversary plays, and the excess is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.result import Result, Trust
from leaderboard.comparison import Floats, interval, leave_one_out, nanmean
from leaderboard.ranking import (
    AUC,
    Board,
    Grid,
    applicable,
    defaults_first,
    mean_and_interval,
    missing,
    scenarios,
    trusted,
    with_defaults,
)

SCALES: dict[str, tuple[str, ...]] = {
    "membership": (AUC,),
    "inversion": ("both_evaluators", "evaluator_accuracy"),
    "attribute": ("attribute_balanced_accuracy", "attribute_accuracy"),
}
"""The metric of a kind's worst case: the first one that all rows of required entries have. Of other kinds the first of their table."""
CHANCE = {AUC: 0.5}
"""The null of a metric that needs no null row: what a random guess has, whatever the target. Its attacks count with both signs (RULES 16)."""
ROOM = 0.02
"""Where the null row is nearer than this to a perfect attack, its errors are too few to measure a share of them."""
ANY = "any"
"""In place of a kind: the worst of all kinds."""
GUARDED = "a guard is outside"
"""How the judge's reason begins where an attack reads the network behind the guards, and is not scored (RULES 9)."""
BYPASSED = "bypasses guards"
"""What a row says then."""
PASSES = "»"
"""What a cell of a matrix says then."""
NUMBERS = ("excess", "excess_low", "excess_high", "difference", "difference_low", "difference_high")


class _Kind(NamedTuple):
    columns: pd.DataFrame
    """Columns of `kind_table`, one row a defense."""
    excess: Floats
    """(defenses, seeds); NaN where the kind has no worst case."""


def kind_table(results: Iterable[Result] | pd.DataFrame, board: Board, least: Trust = "self-reported") -> pd.DataFrame:
    """One row a defense and kind of attack that the protocol requires, and one (kind `any`) for the worst of them.

    Columns defense, kind; metric, value (of the strongest attack that is no null row: mean over seeds, with the ends value_low and value_high
    of a 95 % t-interval), attack, track; null, null_attack; excess, with its interval; difference: the excess minus that of the
    baseline, paired by seed, on the kinds that both have, with its interval; verdict: "less" or "more" where that interval excludes 0, else "";
    bypassed: required attacks that read the network behind the defense's guards, and so do not count; reason: why there is
    no excess, else "". Of `any`: decided, the kind that is the worst on most seeds, and kinds, over how many it is taken.

    Raises ValueError as `scenarios` does.
    """
    defenses, found = _found(results, board, least)
    shape = (len(found), len(defenses), len(board.seeds))
    by_kind = np.array([kind.excess for kind in found.values()]).reshape(shape)
    parts = [kind.columns.assign(kind=name) for name, kind in found.items()]
    excess = [*by_kind]
    worst, decided = _worst(by_kind)
    parts.append(_any(worst, decided, by_kind, list(found), defenses))
    excess.append(worst)
    base = defenses.index(board.baseline) if board.baseline in defenses else None
    for part, mine in zip(parts, excess, strict=True):
        against = np.full_like(mine, np.nan) if base is None else np.broadcast_to(mine[base], mine.shape)
        if part is parts[-1] and base is not None:  # the worst of the baseline, over the kinds that the defense has
            against = _worst(np.where(np.isfinite(by_kind), by_kind[:, [base]], np.nan))[0]
        _compare(part, mine, against, defenses, board.baseline)
    table = pd.concat(parts, ignore_index=True)
    order = ["defense", "kind", "metric", "value", "value_low", "value_high", "attack", "track", "null", "null_attack", *NUMBERS, "verdict", "bypassed",
             "decided", "kinds", "reason"]  # fmt: skip
    places = {name: i for i, name in enumerate((*found, ANY))}
    table = table.assign(place=table.kind.map(places)).sort_values(["defense", "place"], ignore_index=True)
    return table.reindex(columns=order)


def excesses(results: Iterable[Result] | pd.DataFrame, board: Board) -> pd.DataFrame:
    """One row a defense and seed, with a column for the excess of each kind of attack that the protocol requires; NaN without one."""
    defenses, found = _found(results, board, "self-reported")
    index = pd.MultiIndex.from_product([defenses, board.seeds], names=["defense", "seed"])
    return pd.DataFrame({name: kind.excess.ravel() for name, kind in found.items()}, index).reset_index()


def _found(results: Iterable[Result] | pd.DataFrame, board: Board, least: Trust) -> tuple[list[str], dict[str, _Kind]]:
    """All defenses by name, and the worst case of each kind of attack on them."""
    frame = with_defaults(results if isinstance(results, pd.DataFrame) else scenarios(results))
    defenses = sorted(frame.defense.unique())
    rows = frame[frame.attack.isin(board.required_attacks) & frame.seed.isin(board.seeds)]
    return defenses, {
        kind: _kind(mine, scale(kind, trusted(mine, least), board), board, defenses)
        for kind in TASK_METRICS
        if len(mine := rows[rows.task == kind])
    }


def scale(kind: str, rows: pd.DataFrame, board: Board) -> str:
    """The metric of a kind's worst case: the first of its candidates that all scored rows of required entries have.

    rows: of the kind's required attacks. Other defenses do not count, so that no entry changes what everybody is measured by.
    """
    candidates = SCALES.get(kind) or TASK_METRICS[kind][:1]
    scored = rows[(rows.status == "ok") & rows.defense.isin(board.required_defenses)]
    return next((m for m in candidates if scored[m].notna().all()), candidates[-1]) if len(scored) else candidates[0]


def kinds_of(table: pd.DataFrame) -> list[str]:
    """The kinds of a `kind_table` in their order, without `any`."""
    return [kind for kind in dict.fromkeys(table.kind) if kind != ANY]


def worst_name(table: pd.DataFrame) -> str:
    """What the worst of all kinds is called, such as worst of four."""
    count = len(kinds_of(table))
    words = ("no kind", "one", "two", "three", "four", "five", "six")
    return f"worst of {words[count] if count < len(words) else count}"


class Column(NamedTuple):
    """A column of `wide`: its name there, what heads it, and what it means."""

    name: str
    label: str
    help: str


def columns(table: pd.DataFrame) -> list[Column]:
    """The columns that the tables of defenses get from a `kind_table`; none where the protocol requires one kind alone."""
    kinds = kinds_of(table)
    if len(kinds) < 2:
        return []
    share = "The share of the way from the null row to a perfect attack, with its 95 % t-interval over seeds."
    return [
        Column(f"excess_{ANY}", worst_name(table).capitalize(), f"The kind of attack that gets furthest, chosen on the other seeds. {share}"),
        Column("decided", "Worst kind", "The kind that decides on most seeds, and over how many kinds it is taken where some do not apply"),
        *(Column(f"excess_{kind}", f"{kind.capitalize()}, excess", f"Of the strongest required attack. {share}") for kind in kinds),
        Column("bypassed", "Bypasses guards", "Required attacks that read the network behind the guards: they do not count here, and the guards do not stop them"),
    ]  # fmt: skip


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """One row a defense, by name, with the columns of `columns`: texts, and shares with their ends _low and _high.

    A share has a column _why as well: why it is missing, else "".
    """
    parts = {
        f"excess_{kind}{end}": rows.set_index("defense")[column]
        for kind, rows in table.groupby("kind", sort=False)
        for end, column in (("", "excess"), ("_low", "excess_low"), ("_high", "excess_high"), ("_why", "reason"))
    }
    worst, most = table[table.kind == ANY].set_index("defense"), len(kinds_of(table))
    decided = [
        f"{kind}{f' (of {n})' if n < most else ''}" if kind else ""
        for kind, n in zip(worst.decided, worst.kinds, strict=True)
    ]
    return pd.DataFrame(parts).assign(decided=pd.Series(decided, worst.index), bypassed=bypassed(table))


def bypassed(table: pd.DataFrame) -> pd.Series:
    """By defense, in words, the required attacks that read the network behind its guards; "" where there are none."""
    return table.groupby("defense").bypassed.agg(lambda texts: ", ".join(filter(None, texts)))


def percent(row: Any, name: str = "excess", sign: str = "") -> str:
    """A share as text with its 95 % interval, such as 31 % (28 – 34); "–" where there is none.

    row: of `kind_table`; name: excess or difference; sign: "+" shows it always.
    """
    value, low, high = (100 * float(getattr(row, f"{name}{end}")) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "–"
    return f"{value:z{sign}.0f} %" + ("" if np.isnan(low) else f" ({low:z{sign}.0f} – {high:z{sign}.0f})")


# --- One kind ---------------------------------------------------------------------------------------


def excess_by_seed(values: Floats, nulls: Floats, best: float, null: float | None = None) -> tuple[Floats, Floats]:
    """The excess of the strongest attack on each seed (d, s), and the null (d, s).

    values (d, attacks, s), nulls (d, null rows, s): larger is stronger; -inf for what does not apply. null: where there are no null
    rows, the value of a random guess. The room best - null is averaged over seeds, so that a seed with a lucky null row
    divides nothing by almost 0. NaN where nothing applies or the room is smaller than ROOM.
    """
    if null is not None:
        nulls = np.full((len(values), 1, values.shape[-1]), null)
        floor, played = nulls[:, 0], leave_one_out(values)[0]
    else:
        floor = leave_one_out(nulls)[0]
        played = leave_one_out(np.concatenate([values, nulls], 1))[0]
    applies = np.isfinite(values).all(-1).any(-1) & np.isfinite(floor).all(-1)
    floor = np.where(np.isfinite(floor), floor, np.nan)
    room = best - floor.mean(-1)
    applies &= room > ROOM - 1e-9
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (played - floor) / room[:, None]
    return np.where(applies[:, None], share, np.nan), floor


def _kind(rows: pd.DataFrame, metric: str, board: Board, defenses: Sequence[str]) -> _Kind:
    """A kind's worst case on each defense. rows: of the kind's required attacks."""
    is_null = rows.null_row.astype(bool) & (rows.status == "ok")
    null_rows = defaults_first(rows.attack[is_null].unique())
    pool = defaults_first(set(rows.attack) - set(null_rows))
    names = [*pool, *(f"{a}, sign reversed" for a in pool)] if metric in CHANCE else pool
    grid, null_grid = (Grid(rows, defenses, attacks, board.seeds) for attacks in (pool, null_rows))
    sign = -1.0 if METRICS[metric].leaks == "down" else 1.0
    best = -METRICS[metric].low if sign < 0 else METRICS[metric].high
    values, nulls = (applicable(sign * g.values(metric)) for g in (grid, null_grid))
    if metric in CHANCE:
        values = np.concatenate([values, applicable(2 * CHANCE[metric] - grid.values(metric))], 1)
    strongest, chosen = leave_one_out(values)
    excess, floor = excess_by_seed(values, nulls, best, CHANCE.get(metric))
    lacking = np.asarray(~(grid.done().all((1, 2)) & null_grid.done().all((1, 2))))
    nothing = lacking | ~np.isfinite(strongest).all(-1)
    excess[lacking] = floor[lacking] = np.nan
    strongest = np.where(nothing[:, None], np.nan, strongest)
    deciding = ["" if n else names[np.bincount(c).argmax()] for n, c in zip(nothing, chosen, strict=True)]
    null_of = leave_one_out(nulls)[1]
    by_null = [
        null_rows[np.bincount(c).argmax()] if null_rows and np.isfinite(f).all() else ""
        for c, f in zip(null_of, floor, strict=True)
    ]
    track = dict(zip(zip(rows.defense, rows.attack, strict=True), rows.track, strict=True))
    ends = mean_and_interval(metric, sign * strongest, "value")
    guarded = rows[
        (rows.status == "skipped") & rows.reason.astype(str).str.startswith(GUARDED) & rows.attack.isin(pool)
    ]
    behind = guarded.groupby("defense", observed=True).attack.agg(lambda a: ", ".join(dict.fromkeys(a)))
    columns = pd.DataFrame({
        "defense": defenses, "metric": metric, **ends,
        "attack": deciding,
        "track": [track.get((d, a.removesuffix(", sign reversed")), "") for d, a in zip(defenses, deciding, strict=True)],
        "null": sign * nanmean(floor, -1), "null_attack": by_null,
        "bypassed": [str(behind.get(d, "")) for d in defenses], "decided": "",
        "kinds": pd.array([pd.NA] * len(defenses), "Int64"),
    })  # fmt: skip
    wanted = [(a, s) for a in (*pool, *null_rows) for s in board.seeds]
    by_defense = dict(iter(rows.groupby("defense", observed=True)))
    reasons = [
        "" if np.isfinite(e).all() else _reason(by_defense.get(d, rows[:0]), pool, wanted, null, bool(none))
        for d, e, null, none in zip(defenses, excess, columns.null, nothing, strict=True)
    ]
    return _Kind(columns.assign(reason=reasons), excess)


def _reason(
    mine: pd.DataFrame, pool: Sequence[str], wanted: Sequence[tuple[str, int]], null: float, nothing: bool
) -> str:
    """Why a defense has no excess of a kind. mine: its rows; nothing: whether no attack has a value."""
    if mine.empty:
        return "not scored"
    if lacks := missing(mine, "attack", wanted):
        return lacks
    if nothing:
        skipped = mine[(mine.status == "skipped") & mine.attack.isin(pool)]
        reasons = dict.fromkeys(BYPASSED if str(r).startswith(GUARDED) else str(r) for r in skipped.reason)
        return "; ".join(reasons) or "no value"
    return (
        "no null row to compare with"
        if np.isnan(null)
        else f"the null row alone has {null:.3f}: it leaves nothing to find"
    )


# --- The worst of all kinds -------------------------------------------------------------------------


def _worst(by_kind: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The worst of all kinds on each seed (d, s), chosen on the other seeds, and which kind it is; by_kind (kinds, d, s)."""
    worst, chosen = leave_one_out(applicable(by_kind.transpose(1, 0, 2)))
    return np.where(np.isfinite(worst), worst, np.nan), chosen


def _any(
    worst: Floats, chosen: NDArray[np.intp], by_kind: Floats, kinds: Sequence[str], defenses: Sequence[str]
) -> pd.DataFrame:
    count = np.isfinite(by_kind).all(-1).sum(0)
    decided = [kinds[int(np.bincount(c).argmax())] if n else "" for c, n in zip(chosen, count, strict=True)]
    return pd.DataFrame({
        "defense": defenses, "kind": ANY, "metric": "", **dict.fromkeys(("value", "value_low", "value_high", "null"), np.nan),
        **dict.fromkeys(("attack", "track", "null_attack", "bypassed"), ""), "decided": decided,
        "kinds": pd.array(count, "Int64"), "reason": ["" if n else "no kind of attack has an excess" for n in count],
    })  # fmt: skip


def _compare(part: pd.DataFrame, mine: Floats, against: Floats, defenses: Sequence[str], baseline: str) -> None:
    """Add the excess, its difference to the baseline's and the verdict to the columns of a kind."""
    mean, half = interval(mine)
    difference, wide = interval((mine - against).round(9))
    itself = np.array([d == baseline for d in defenses])
    difference, wide = (np.where(itself, np.nan, v) for v in (difference, wide))
    numbers = (mean, mean - half, np.minimum(mean + half, 1.0), difference, difference - wide, difference + wide)
    for name, values in zip(NUMBERS, numbers, strict=True):
        part[name] = values
    part["verdict"] = np.where(part.difference_high < 0, "less", np.where(part.difference_low > 0, "more", ""))
