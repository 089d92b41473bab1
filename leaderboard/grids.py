"""Matrices as HTML tables whose names stay in sight: pairs of defenses, and attacks against defenses. Pure functions: no app.

Like the forest plot they are made without SVG and script. Names of columns stand upright, so that twenty fit a laptop; where
the page is narrower the table scrolls, and says so. All texts of entries pass `html.escape`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark.metrics import METRICS
from leaderboard.kinds import ANY, BYPASSED, PASSES, kinds_of, percent, worst_name
from leaderboard.ranking import AUC
from leaderboard.texts import breaking

BLUE, ORANGE, GREY = (0x3A, 0x8F, 0xCF), (0xD9, 0x8A, 0x00), (0x8A, 0x8F, 0x98)
"""Of Okabe and Ito's palette, as red, green and blue."""
CHANCE = {AUC: 0.5, "balanced_accuracy": 0.5}
"""The value of a random guess, for metrics where it does not depend on the data: the middle of a diverging scale."""
NAME, CELL = 11.0, 2.5
"""Widths in rem: of the rows' names, and of a cell, which fits a number of two decimals."""


class Cell(NamedTuple):
    """What a cell shows, what pointing at it says, its background, its link (""; none), and whether it is framed."""

    text: str
    title: str
    back: tuple[int, int, int] | None = None
    link: str = ""
    framed: bool = False


class Row(NamedTuple):
    """A row of cells below `group`, a heading that stands once before all adjacent rows of it ("": none)."""

    name: str
    title: str
    cells: Sequence[Cell]
    group: str = ""


def grid(
    label: str, corner: str, columns: Mapping[str, str], rows: Iterable[Row], note: str, name: float = NAME
) -> str:
    """A table with frozen names in a box that scrolls where the page is narrow, with a note below.

    label: what it is, for those who do not see it. corner: what rows and columns are. columns: titles by short name. name: the
    width of the rows' names in rem.
    """
    body, group = [], ""
    for row in rows:
        if row.group != group:
            group = row.group
            body.append(
                f'<tr class="lbg-group"><th colspan="{len(columns) + 1}"><span>{escape(group)}</span></th></tr>'
            )
        cells = "".join(map(_cell, row.cells))
        body.append(f'<tr><th scope="row" title="{escape(row.title)}">{breaking(row.name)}</th>{cells}</tr>')
    heads = "".join(
        f'<th scope="col" title="{escape(title)}"><span>{breaking(short)}</span></th>'
        for short, title in columns.items()
    )
    width, lines = name + CELL * len(columns), "\n".join(body)
    key, wide = f"lbg-{len(columns)}", "" if name == NAME else f' style="width:{name:g}rem"'
    scrolls = f"@container lbg (max-width: {width:g}rem) {{ .{key} .lbg-hint {{ display: block; }} }}"
    return (
        f'<style>{STYLE}\n{scrolls}</style>\n<section class="lbg {key}" aria-label="{escape(label)}">\n'
        '<p class="lbg-hint">The table is wider than the page: it scrolls sideways, and the names stay.</p>\n'
        f'<div class="lbg-box" tabindex="0" role="region" aria-label="{escape(label)}">\n'
        f'<table style="width:{width:g}rem"><thead><tr><th class="lbg-corner"{wide}>{escape(corner)}</th>{heads}</tr></thead>\n'
        f'<tbody>\n{lines}\n</tbody></table></div>\n<p class="lbg-note">{escape(note)}</p>\n</section>'
    )


def _cell(cell: Cell) -> str:
    style = ""
    if cell.back:
        style = f' style="background:#{"".join(f"{c:02x}" for c in cell.back)};color:{_ink(cell.back)}"'
    inside = escape(cell.text)
    if cell.link:
        inside = f'<a href="{escape(cell.link)}" target="_self" tabindex="-1">{inside or "&nbsp;"}</a>'
    return f'<td{" class=lbg-framed" if cell.framed else ""}{style} title="{escape(cell.title)}">{inside}</td>'


def _ink(back: tuple[int, int, int]) -> str:
    """Black or white, whichever has the higher contrast on this colour (WCAG's relative luminance)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in back]
    return "#000" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "#fff"


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """White with a share (0 to 1) of a colour."""
    red, green, blue = (round(255 + (c - 255) * min(1.0, max(0.0, share))) for c in colour)
    return red, green, blue


# --- Pairs of defenses ------------------------------------------------------------------------------

VERDICTS = {"less": ("+", BLUE), "more": ("−", ORANGE), "": ("·", None)}
"""What a pair's cell shows, and its colour, by the verdict."""


def pairs(table: pd.DataFrame, short: Mapping[str, str], metric: str, tested: int) -> str:
    """Who leaks clearly less than whom: a row against a column.

    table: rows of `ranking.pair_table`. short: names by defense. tested: how many unordered pairs the whole table has.
    """
    names = list(dict.fromkeys(table["first"]))
    known: dict[Any, Any] = {(row[0], row[1]): row for row in table.itertuples(index=False)}
    rows = []
    for name in names:
        cells = []
        for other in names:
            pair = known.get((name, other))
            cells.append(Cell("", "") if pair is None else _pair(pair, short))
        rows.append(Row(short[name], name, cells))
    worst = f"worst-case {METRICS[metric].label}"
    clear, found = int((table.verdict != "").sum()) // 2, int(table.discovery.sum()) // 2
    note = (
        f"+ the row's {worst} is clearly smaller than the column's, − clearly larger, · not told apart: 95 % t-intervals of "
        f"seed-paired differences, each pair for itself. Two signs: it stays at a false discovery rate of 5 % over all {tested} "
        f"pairs of ranked defenses (Benjamini and Hochberg). Of those that are shown {clear} are told apart, {found} at that rate."
    )
    columns = {short[name]: name for name in names}
    return grid("Pairs of defenses", "Row against column", columns, rows, note)


def _pair(pair: Any, short: Mapping[str, str]) -> Cell:
    """pair: a row of `ranking.pair_table`."""
    text, colour = VERDICTS[pair.verdict]
    strong = pair.discovery and pair.verdict != ""
    said = {"less": "leaks clearly less than", "more": "leaks clearly more than", "": "is not told apart from"}
    numbers = f"{pair.difference:+.3f}"
    if math.isfinite(pair.low):
        numbers += f" ({pair.low:+.3f} to {pair.high:+.3f}), p = {pair.p:.2g}"
    title = f"{short[pair.first]} {said[pair.verdict]} {short[pair.second]}: {numbers}{'; stays at 5 % over all pairs' * strong}"
    return Cell(text * (1 + strong), title, _mixed(colour, 1.0 if strong else 0.45) if colour else None)


# --- Attacks against defenses -----------------------------------------------------------------------


def scenarios(cells: pd.DataFrame, label: str, metric: str, falling: bool) -> str:
    """Attacks in rows, grouped by `group`, defenses in columns; each cell shows its number.

    cells: one row a cell, in order, with columns attack, defense, row, column (their short names), group, value (NaN
    without a score), text, note, link, opened (bool: drawn with a frame). falling: smaller values mean more leakage.
    """
    values, middle = cells.value.dropna(), CHANCE.get(metric)
    reach = max(0.05, float((values - middle).abs().max())) if middle is not None and len(values) else 0.05
    high = max(0.01, float(values.max())) if len(values) else 1.0

    def colour(value: float) -> tuple[int, int, int] | None:
        if not math.isfinite(value):
            return None
        if middle is not None:
            return _mixed(ORANGE if value >= middle else BLUE, abs(value - middle) / reach)
        return _mixed(ORANGE, (high - value if falling else value) / high)

    rows = []
    for (attack, name, group), mine in cells.groupby(["attack", "row", "group"], sort=False):
        each: Iterable[Any] = mine.itertuples(index=False)
        shown = [
            Cell(c.text, f"{attack} on {c.defense}: {'' if np.isnan(c.value) else f'{c.value:.3f}; '}{c.note}", colour(c.value), c.link, bool(c.opened))
            for c in each
        ]  # fmt: skip
        rows.append(Row(str(name), str(attack), shown, str(group)))
    columns = dict(zip(cells["column"], cells.defense, strict=True))
    scale = (
        f"Orange: above chance ({middle:g}); blue: below it." if middle is not None
        else f"The darker, the {'smaller' if falling else 'larger'}."
    )  # fmt: skip
    note = f"{label}, the mean over seeds. {scale} {PASSES} bypasses guards (RULES 9), – does not apply; an empty cell was not scored."
    return grid(f"{label} of attacks on defenses", "Attack on defense", columns, rows, note)


# --- Kinds of attack against defenses ---------------------------------------------------------------

ARROWS = {"less": "▼", "more": "▲"}
"""What marks a difference to the baseline whose 95 % interval excludes 0."""
FULL = 0.5
"""The difference of excess from which on a cell has the full colour."""


def kinds(table: pd.DataFrame, short: Mapping[str, str], defenses: Sequence[str], baseline: str) -> str:
    """How much further or less far each kind of attack gets on a defense than on the baseline, in points of the excess.

    table: `kinds.kind_table`. short: names by defense. defenses: which rows, in their order; the baseline comes first, with its own
    excess. As ML-DOCTOR's table 4 (Liu et al. 2022), for every defense, and with intervals.
    """
    known: dict[Any, Any] = {(row.defense, row.kind): row for row in table.itertuples(index=False)}
    names = [*(d for d in defenses if d == baseline), *(d for d in defenses if d != baseline)]
    of = [*kinds_of(table), ANY]
    heads = {kind: worst_name(table) if kind == ANY else kind for kind in of}
    rows = [
        Row(short[d], d, [_kind(known.get((d, kind)), heads[kind], short[d], d == baseline) for kind in of])
        for d in names
    ]
    first = short.get(baseline, baseline)
    note = (
        f"How far an attack of each kind gets, as a share of the way from its null row to a perfect attack: in the row of {first} that share "
        f"in %, in the others the difference to it in points. Blue: less leak than {first}, orange: more. ▼ and ▲: the 95 % t-interval "
        f"of the seed-paired difference excludes 0; the others are not told apart. {PASSES} bypasses guards: attacks of this kind read the "
        "network behind them, where the guards change nothing (RULES 9). – no excess: pointing at it says why. The last column compares over the kinds that have one on both."
    )
    said = "How each kind of attack does on each defense"
    return grid(said, "Defense against kind", {heads[kind]: heads[kind] for kind in of}, rows, note, 8.5)


def _kind(row: Any, kind: str, defense: str, itself: bool) -> Cell:
    """row: of `kinds.kind_table`; None where there is none."""
    if row is None:
        return Cell("", f"{kind} on {defense}: not scored")
    title = f"{kind} on {defense}"
    if math.isnan(row.excess):
        return Cell(PASSES if row.reason == BYPASSED else "–", f"{title}: {row.reason}")
    of = f" ({row.decided}, the worst of {row.kinds})" if row.decided else ""
    title += f"{of}: excess {percent(row)}"
    if math.isnan(row.difference):
        return Cell(f"{100 * row.excess:z.0f} %" if itself else "–", title)
    points = f"{100 * abs(row.difference):.0f}"
    sign = ARROWS.get(row.verdict) or ("" if points == "0" else "−" if row.difference < 0 else "+")
    title += f"; {100 * row.difference:+.0f} points against the baseline"
    if math.isfinite(row.difference_low):
        title += f" ({100 * row.difference_low:+.0f} to {100 * row.difference_high:+.0f})"
    colour = BLUE if row.difference < 0 else ORANGE
    share = abs(row.difference) / FULL * (1 if row.verdict else 0.5)
    return Cell(f"{sign}{points}", title, _mixed(colour, share) if points != "0" else None)


STYLE = f"""
.lbg {{ container: lbg / inline-size; font-size: .8rem; line-height: 1.25;
  --lbg-line: color-mix(in srgb, currentColor 18%, transparent); }}
.lbg .lbg-box {{ overflow: auto; max-height: 85vh; width: fit-content; max-width: 100%; }}
.lbg table {{ table-layout: fixed; border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums;
  font-size: inherit; margin: 0; }}
.lbg th, .lbg td {{ padding: 0; border: 0; border-bottom: 1px solid var(--lbg-line); min-width: 0; max-width: none; }}
.lbg th {{ font-weight: 400; text-align: left; overflow-wrap: anywhere; background: Canvas; color: CanvasText; }}
.lbg thead th {{ position: sticky; top: 0; z-index: 2; width: {CELL}rem; vertical-align: bottom; }}
.lbg thead th span {{ writing-mode: vertical-rl; transform: rotate(180deg); max-height: 11rem; margin: 0 auto;
  display: block; padding: .2rem 0; }}
.lbg thead .lbg-corner {{ left: 0; z-index: 3; width: {NAME}rem; opacity: 1; padding: .2rem; }}
.lbg tbody th {{ position: sticky; left: 0; z-index: 1; padding: .2rem .4rem .2rem 0; min-width: 0; }}
.lbg .lbg-group th {{ position: static; font-weight: 600; padding-top: .7rem; }}
.lbg .lbg-group th span {{ position: sticky; left: 0; }}
.lbg td {{ text-align: center; vertical-align: middle; height: 1.75rem; border-left: 1px solid var(--lbg-line); }}
.lbg td a {{ display: block; color: inherit; text-decoration: none; line-height: 1.75rem; }}
.lbg td a:hover, .lbg td a:focus {{ outline: 2px solid currentColor; outline-offset: -2px; }}
.lbg .lbg-framed {{ box-shadow: inset 0 0 0 3px #d55e00; }}
.lbg .lbg-note {{ margin: .6rem 0 0; max-width: 60rem; font-size: .875rem; opacity: .82; }}
.lbg .lbg-hint {{ display: none; margin: .2rem 0; font-size: .875rem; font-style: italic; }}
@container lbg (max-width: 40rem) {{ .lbg thead .lbg-corner {{ width: 8rem; }} }}
""".strip()
