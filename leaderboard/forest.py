"""The ranked defenses as a forest plot in HTML: rank, interval, null and baseline on one axis. Pure functions: no app.

The plot is made of boxes and CSS, without SVG and script: the app's pages let nothing else through, and a file needs
nothing else. All texts of entries pass `html.escape`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark.metrics import METRICS
from benchmark.text import base_name, name_parts
from leaderboard.kinds import percent
from leaderboard.ranking import AUC, best_known, rank_interval
from leaderboard.texts import breaking, digits, interval, rank_digits, settings_of, short_names

QUESTION = (
    "How much do defended image classifiers leak about their training data? Every defense meets the same attacks on the "
    "same data, and counts by what the strongest of them finds."
)
FOLDED = (
    " A defense that was scored with several settings has one row, the setting that the protocol requires or its default; the "
    "others open below it. Ranks count every setting."
)
NAMED = 6
"""How many defenses a sentence names at most."""
STEPS = 6
"""How many steps between ticks an axis has at most."""
BY = '<span class="lb-label">decided by </span>'
"""What stands before an attack where the heads of columns are out of sight."""
MARKS = {
    "tuned": "tuned",
    "attacked_by": "standard attacks only",
    "extra_data": "extra data",
    "alone": "flag",
    "bypassed": "white-box bypasses guards",
}
"""Remarks that stand below a defense's name, by the column that holds their text (RULES 9, 13, 27)."""


class Paper(NamedTuple):
    """Where a method comes from: the card's reference, and an address, "" if it names no arXiv id or DOI."""

    reference: str
    address: str


def papers(entries: Iterable[Any]) -> dict[str, Paper]:
    """The papers of defenses, by the entry's id. entries: the registry's, with `id`, `kind` and `card`."""
    return {e.id: Paper(e.card.reference, address(e.card.reference)) for e in entries if e.kind == "defense" and e.card}


def address(reference: str) -> str:
    """The web address of the arXiv id or the DOI that a reference names; "" if it names none.

    No other address is made a link: anybody may have written the reference.
    """
    if found := re.search(r"\barXiv:(\d{4}\.\d{4,5})(?![\w.])", reference, re.IGNORECASE):
        return f"https://arxiv.org/abs/{found[1]}"
    if found := re.search(r"\bdoi:(10\.\d{4,9}/[A-Za-z0-9][A-Za-z0-9._/-]*[A-Za-z0-9])", reference, re.IGNORECASE):
        return f"https://doi.org/{found[1]}"
    return ""


# --- In words ---------------------------------------------------------------------------------------


def leader(table: pd.DataFrame, baseline: str = "") -> str:
    """Who leaks least, and how sure that is, in one or two sentences of plain text.

    table: `ranking.defense_table`, its `attrs` included. baseline: the undefended one, which is told if it is at chance.
    """
    rows = table[table.reason == ""]
    if rows.empty:
        return "No defense is ranked yet."
    metric, short = table.attrs["metric"], short_names(table.defense)
    chance, rest = rows[rows.at_chance.astype(bool)], rows[~rows.at_chance.astype(bool)]
    if chance.empty:
        return _first(rows, metric, short)
    names = _listed(chance.defense, short)
    nothing = "these attacks find nothing to defend against"
    if len(rows) == 1:
        also = f": {nothing}" if baseline in set(rows.defense) else ""
        return (
            f"{names} is the only defense that is ranked, and leaks no more than chance to the required attacks{also}."
        )
    if len(chance) == 1:
        text = f"Of {len(rows)} defenses {names} alone leaks no more than chance to the required attacks."
    else:
        share = f"All {len(rows)}" if rest.empty else f"{len(chance)} of {len(rows)}"
        text = f"{share} defenses leak no more than chance to the required attacks ({names}); there is no order among them."
    if baseline in set(chance.defense):
        text += f" {short[baseline]} is among them: {nothing}."
    if len(rest):
        first, others = rest.iloc[0], len(rows) - 1
        text += (
            f" Of the rest {short[first.defense]} leaks least ({_value(rows, first, metric)}): clearly "
            f"better than {first.better_than or 'none'} of {others} others, clearly worse than {first.worse_than or 'none'}."
        )
    return text


def _first(rows: pd.DataFrame, metric: str, short: Mapping[str, str]) -> str:
    """The sentence on the first of ranked rows above chance."""
    first, others = rows.iloc[0], len(rows) - 1
    value = _value(rows, first, metric)
    who = f"{short[first.defense]} ({value})"
    if not others:
        return f"{who} is the only defense that is ranked."
    ahead = rows.defense[rows["rank"] == first["rank"]]
    if len(ahead) > 1:
        return f"{_listed(ahead, short)} lead with the same value ({value})."
    better, all_others = int(first.better_than), f"the {others} others" if others > 1 else "the other"
    if not better:
        return f"{who} has the smallest value, but cannot be told from {'any of ' * (others > 1)}{all_others}."
    if better == others:
        return f"{who} leads: clearly better than {all_others}."
    return f"{who} leads: clearly better than {better} of {others} others; {others - better} cannot be told from it."


def _worst(metric: str) -> str:
    return f"worst-case {METRICS[metric].label}"


def _value(rows: pd.DataFrame, row: pd.Series, metric: str) -> str:
    column = f"worst_{metric}"
    return f"{_worst(metric)}: {row[column]:.{min(3, rank_digits(rows, column))}f}"


def _listed(names: Iterable[str], short: Mapping[str, str]) -> str:
    shown = [short[name] for name in names]
    if len(shown) > NAMED:
        return f"{', '.join(shown[:NAMED])} and {len(shown) - NAMED} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def caption(table: pd.DataFrame, baseline: str) -> str:
    """How to read the plot, in plain text."""
    line = short_names(table.defense).get(baseline, "")
    return (
        f"Dot: the {_worst(table.attrs['metric'])}, the mean over seeds; bar: its 95 % t-interval. Further left leaks less. "
        "Grey band: what the same attacks find under permuted labels (up to its 95 % quantile); what is not above it has a "
        "hollow dot and reads chance."
        + (f" Dashed line: {line}." if line else "")
        + " Rank: the best and the worst that the seeds allow; the attack is the one that decides."
    )


# --- The plot ---------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """A linear axis from `low` to `high` with `steps` equal steps; its ends are ticks."""

    low: float
    high: float
    steps: int

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width from the left, cut to the axis."""
        return min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low)))

    def ticks(self) -> list[float]:
        """The values at the ticks, from left to right."""
        return [self.low + i * (self.high - self.low) / self.steps for i in range(self.steps + 1)]


def axis(values: Iterable[float], start: float) -> Axis:
    """An axis with round ticks that holds all finite values, and `start`."""
    finite = [start, *(v for v in values if math.isfinite(v))]
    low, high = min(finite), max(finite)
    span = max(high - low, 0.01)
    power = 10.0 ** math.floor(math.log10(span / STEPS))
    step = next(s * power for s in (1, 2, 5, 10, 20) if math.ceil(span / (s * power)) < STEPS)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return Axis(round(first * step, 10), round(last * step, 10), last - first)


def forest(
    table: pd.DataFrame, baseline: str, known: Mapping[str, Paper] | None = None, required: Sequence[str] = ()
) -> str:
    """Who leads, and the ranked defenses of `ranking.defense_table` in the table's order, as one HTML element.

    baseline: the defense whose value is drawn as a line through all rows. known: papers by the entry's id. required: the
    defenses that the protocol requires. Several settings of a defense are one row (`texts.settings_of`), below which
    the others can be opened.
    """
    rows = table[table.reason == ""]
    lead = f'<p class="lb-lead">{escape(leader(table, baseline))}</p>'
    if rows.empty:
        return f'<section class="lb" aria-label="Ranked defenses">{lead}</section>'
    metric = table.attrs["metric"]
    worst = f"worst_{metric}"
    drawn = rows[[worst, f"{worst}_low", f"{worst}_high", f"{worst}_null_95"]].to_numpy(float)
    scale = axis(drawn.ravel(), 0.5 if metric == AUC else 0.0)
    fine, short = rank_digits(rows, worst), short_names(table.defense)
    shown = rows.assign(
        short=rows.defense.map(short),
        place=rank_interval(rows),
        interval=interval(rows, worst, fine),
        known=best_known(rows, metric),
    )
    line = _baseline(table, baseline, worst)
    items = {row.defense: _row(row, metric, fine, scale, baseline, line, known or {}) for _, row in shown.iterrows()}
    heads = settings_of(rows, (baseline, *required))
    folded = {head: [d for d in mine if d != head] for head, mine in rows.defense.groupby(heads)}
    listed = "\n".join(items[d] + _folded(d, [items[o] for o in folded[d]]) for d in rows.defense if d in folded)
    mark = _mark(scale, line, f"{short[baseline]} {line:.{fine}f}") if math.isfinite(line) else ""
    titles = ("Rank", f"Worst {METRICS[metric].label} (95 %)")
    note = f"{caption(table, baseline)}{FOLDED if any(folded.values()) else ''}"
    return _section("Ranked defenses", lead, scale, mark, titles, listed, note)


def _mark(scale: Axis, line: float, text: str) -> str:
    """The name of the baseline's line above the plot."""
    at = scale.at(line)
    side = "start" if at < 25 else "end" if at > 75 else "middle"
    return f'<span class="lb-mark lb-{side}" style="left:{at:.3f}%">{escape(text)}</span>'


def _section(label: str, lead: str, scale: Axis, mark: str, heads: tuple[str, str], listed: str, note: str) -> str:
    """The whole element. heads: of the first column and of the number's; listed: the rows as HTML."""
    first, number = map(escape, heads)
    head = (
        f'<div class="lb-head" aria-hidden="true"><span class="lb-rank">{first}</span><span class="lb-name">Defense</span>'
        f'<div class="lb-plot">{mark}{_ticks(scale)}</div>'
        f'<span class="lb-value">{number}</span>'
        '<div class="lb-more"><span class="lb-by">Decided by</span><span class="lb-accuracy">Test accuracy</span>'
        '<span class="lb-paper"></span></div></div>'
    )
    return (
        f'<style>{STYLE}</style>\n<section class="lb" aria-label="{escape(label)}" style="--lb-steps:{scale.steps}">\n{lead}\n{head}\n'
        f'<ol class="lb-rows">\n{listed}\n</ol>\n'
        f'<div class="lb-head lb-foot" aria-hidden="true"><div class="lb-plot">{_ticks(scale)}</div></div>\n'
        f'<p class="lb-note">{escape(note)}</p>\n</section>'
    )


# --- The plot with a model that was audited ---------------------------------------------------------


class Beside(NamedTuple):
    """An audited model as a row: its worst case with the interval, what that stays below by chance, and its test accuracy."""

    name: str
    value: float
    low: float
    high: float
    null: float
    attack: str
    accuracy: float


def heads(table: pd.DataFrame, baseline: str, required: Sequence[str]) -> pd.DataFrame:
    """The ranked rows of `ranking.defense_table`, one setting a defense (`texts.settings_of`)."""
    rows = table[table.reason == ""]
    return rows[rows.defense == settings_of(rows, (baseline, *required))] if len(rows) else rows


def forest_beside(
    table: pd.DataFrame,
    metric: str,
    mine: Beside,
    data: str,
    baseline: str,
    known: Mapping[str, Paper] | None = None,
    required: Sequence[str] = (),
) -> str:
    """The ranked defenses by this metric's worst case, with an audited model among them that has no rank, as one HTML element.

    table: `ranking.defense_table`. metric: of `ranking.WORST`. data: the board's data set. One setting of a defense is drawn. What is at chance by this metric has a
    hollow dot; the audited model's dot is square.
    """
    worst = f"worst_{metric}"
    rows = heads(table, baseline, required).sort_values(worst, kind="stable")
    ends = rows[[worst, f"{worst}_low", f"{worst}_high", f"{worst}_null_95"]].to_numpy(float).ravel()
    scale = axis([*ends, mine.value, mine.low, mine.high, mine.null], 0.5 if metric == AUC else 0.0)
    ranks = metric == table.attrs["metric"]
    fine, short = (rank_digits if ranks else digits)(rows, worst), short_names(table.defense)
    shown = rows.assign(
        short=rows.defense.map(short), place=rank_interval(rows) if ranks else "", interval=interval(rows, worst, fine),
        known=best_known(rows, metric), at_chance=rows[worst] <= rows[f"{worst}_null_95"],
    )  # fmt: skip
    line = _baseline(table, baseline, worst)
    items = [_row(row, metric, fine, scale, baseline, line, known or {}) for _, row in shown.iterrows()]
    items.insert(int((rows[worst] < mine.value).sum()), _row_of_mine(mine, fine, scale, line))
    mark = _mark(scale, line, f"{short[baseline]} {line:.{fine}f}") if math.isfinite(line) else ""
    lead = f'<p class="lb-lead">{escape(between(rows, metric, mine, data, short, fine))}</p>'
    return _section(
        "The audited model among ranked defenses", lead, scale, mark, ("Rank" if ranks else "", f"Worst {METRICS[metric].label} (95 %)"),
        "\n".join(items), caption_beside(metric, short.get(baseline, "") if math.isfinite(line) else ""),
    )  # fmt: skip


def between(rows: pd.DataFrame, metric: str, mine: Beside, data: str, short: Mapping[str, str], fine: int) -> str:
    """Where an audited model would stand, in two sentences without a rank. rows: by their worst case, the smallest first."""
    worst = f"worst_{metric}"
    smaller, larger = rows[rows[worst] < mine.value], rows[rows[worst] >= mine.value]

    def told(row: pd.Series) -> str:
        return f"{short[row.defense]} ({row[worst]:.{fine}f})"

    if mine.value <= mine.null:
        where = ["not above chance"]
    else:
        where = [f"above {told(smaller.iloc[-1])}"] if len(smaller) else []
        where += [f"below {told(larger.iloc[0])}"] if len(larger) else []
    return (
        f"Trained on {data}, the audited model would stand at a {_worst(metric)} of {mine.value:.{fine}f} (95 %: {mine.low:.{fine}f} to "
        f"{mine.high:.{fine}f}), {' and '.join(where)}. It has no rank among the {len(rows)} defense{'s' * (len(rows) != 1)}."
    )


def caption_beside(metric: str, line: str) -> str:
    """How to read the plot, in plain text. line: the short name of the baseline, if it has a line."""
    return (
        f"Square: the audited model's {_worst(metric)}, one model; bar: its 95 % interval over records; grey band: what it stays below "
        "by chance alone in 99 of 100 audits. Dots: the defenses, means over seeds with 95 % t-intervals; grey band: up to the 95 % "
        "quantile under permuted labels. What is not above its band is hollow. Further left leaks less."
        + (f" Dashed line: {line}." if line else "")
    )


def _row_of_mine(mine: Beside, fine: int, scale: Axis, line: float) -> str:
    row = pd.Series({"defense": mine.name, "short": mine.name, "test_accuracy": mine.accuracy})
    return _line(
        row, _plot(scale, mine.low, mine.value, mine.high, mine.null, line), "", {}, chance=mine.value <= mine.null, more=" lb-mine",
        rank='<span class="lb-rank">audit</span>',
        value=f'<b>{mine.value:.{fine}f}</b> <span class="lb-soft">({mine.low:.{fine}f} – {mine.high:.{fine}f})</span>',
        by=f"{BY}{breaking(mine.attack)}",
    )  # fmt: skip


# --- The plot of another kind of attack -------------------------------------------------------------


def forest_of_kind(
    table: pd.DataFrame, kind: str, defenses: pd.DataFrame, baseline: str, known: Mapping[str, Paper] | None = None
) -> str:
    """The worst case of one kind of attack on each ranked defense, the smallest excess first, as one HTML element.

    table: `kinds.kind_table`. defenses: `ranking.defense_table`, which says what is ranked and has remarks and test accuracies. A row's
    grey band ends at its own null row. Defenses without an excess come last, with the reason.
    """
    ranked = defenses[defenses.reason == ""]
    short, mine = short_names(defenses.defense), table[table.kind == kind].drop(columns="reason").set_index("defense")
    why = table[table.kind == kind].set_index("defense").reason
    rows = ranked[["defense", "test_accuracy", *(c for c in MARKS if c in ranked and c not in mine)]].join(
        mine, on="defense"
    )
    rows = rows.assign(short=rows.defense.map(short), why=rows.defense.map(why).fillna("not scored"))
    rows = rows.sort_values(["excess", "value"], kind="stable", na_position="last", ignore_index=True)
    lead = f'<p class="lb-lead">{escape(leader_of_kind(rows, kind, short, baseline))}</p>'
    if rows.empty or not (metric := str(table[table.kind == kind].metric.iloc[0])):
        return f'<section class="lb" aria-label="{escape(kind)}">{lead}</section>'
    drawn = rows[["value", "value_low", "value_high", "null"]].to_numpy(float).ravel()
    drawn = drawn[np.isfinite(drawn)]
    edge = METRICS[metric].low
    start = (
        max(edge, drawn.min() - 0.05 * np.ptp(drawn)) if len(drawn) else edge
    )  # so that the lowest null row has a band, too
    scale = axis(drawn, start)
    fine = digits(rows, "value") if rows.value.notna().any() else 3
    line = float(rows.value[rows.defense == baseline].max())
    attacks = short_names([*rows.attack, *rows.null_attack])
    items = [_row_of_kind(row, fine, scale, baseline, line, known or {}, attacks) for _, row in rows.iterrows()]
    mark = _mark(scale, line, f"{short[baseline]} {line:.{fine}f}") if math.isfinite(line) else ""
    return _section(
        f"Defenses against {kind}", lead, scale, mark, ("Excess", f"{METRICS[metric].label} (95 %)"), "\n".join(items),
        caption_of_kind(metric, short.get(baseline, "") if math.isfinite(line) else ""),
    )  # fmt: skip


def leader_of_kind(rows: pd.DataFrame, kind: str, short: Mapping[str, str], baseline: str) -> str:
    """In one or two sentences what a kind of attack finds. rows: of the ranked defenses, with their columns of `kind_table`."""
    if rows.empty:
        return "No defense is ranked yet."
    found = rows[rows.excess.notna()]
    if found.empty:
        return f"Of {len(rows)} ranked defenses none has an excess of {kind}: {rows.why.iloc[0]}."
    above = found[found.excess_low > 0]
    without = len(rows) - len(found)
    text = f"The strongest {kind} attack gets clearly further than its null row on {len(above) or 'none'} of {len(found)} ranked defenses"
    if len(above):
        last = above.iloc[-1]
        text += f", furthest on {short[last.defense]}: {100 * last.excess:.0f} % of the way to a perfect attack"
    for verdict, says in (("less", "clearly less"), ("more", "clearly more")):
        names = found.defense[found.verdict == verdict]
        text += (
            f". {says.capitalize()} than {short.get(baseline, baseline)}: {_listed(names, short)}" if len(names) else ""
        )
    foot = f" {without} without an excess stand{'s' * (without == 1)} at the foot." if without else ""
    return f"{text}.{foot}"


def caption_of_kind(metric: str, line: str) -> str:
    """How to read the plot of a kind, in plain text. line: the short name of the baseline, if it has a line."""
    direction = "right" if METRICS[metric].leaks == "down" else "left"
    return (
        f"Dot: {METRICS[metric].label} of the strongest required attack of this kind, the mean over seeds; bar: its 95 % t-interval. "
        f"Further {direction} leaks less. Grey band: up to the best null row on this very defense, which uses nothing of the "
        "target. Excess: the share of the way from that null row to a perfect attack; what is not clearly above 0 has a hollow dot."
        + (f" Dashed line: {line}." if line else "")
        + " No ranks: defenses are ranked by membership."
    )


def _row_of_kind(
    row: pd.Series,
    fine: int,
    scale: Axis,
    baseline: str,
    line: float,
    known: Mapping[str, Paper],
    short: Mapping[str, str],
) -> str:
    low, value, high, null, share = (float(row[n]) for n in ("value_low", "value", "value_high", "null", "excess"))
    bounds = f' <span class="lb-soft">({low:.{fine}f} – {high:.{fine}f})</span>' if math.isfinite(low) else ""
    number = f"<b>{value:.{fine}f}</b>{bounds}" if math.isfinite(value) else "–"
    text, title = (f"{100 * share:z.0f} %", percent(row)) if math.isfinite(share) else ("–", str(row.why))
    remarks = [str(row.track)] if row.attack else []
    if math.isfinite(null):
        remarks.append(f"null {null:.{fine}f}{f' by {short[row.null_attack]}' if row.null_attack else ''}")
    remarks += [] if math.isfinite(share) else [str(row.why)]
    small = "".join(f" <small>{breaking(remark)}</small>" for remark in remarks)
    return _line(
        row, _plot(scale, low, value, high, null, line, METRICS[row.metric].leaks == "down"), baseline, known,
        chance=not row.excess_low > 0,
        rank=f'<span class="lb-rank" title="{escape(title)}"><span class="lb-hidden">excess </span>{text}</span>',
        value=number, by=f"{BY}{breaking(short[row.attack])}{small}" if row.attack else small,
    )  # fmt: skip


def _folded(defense: str, rows: Sequence[str]) -> str:
    """The other settings of a defense, closed at first; "" without any."""
    if not rows:
        return ""
    count = f"{len(rows)} more setting{'s' * (len(rows) > 1)} of {base_name(defense)}"
    return (
        f'\n<li class="lb-fold"><details><summary>{escape(count)}</summary><ol class="lb-rows">\n'
        + "\n".join(rows) + "\n</ol></details></li>"
    )  # fmt: skip


def _baseline(table: pd.DataFrame, baseline: str, worst: str) -> float:
    found = table.loc[table.defense == baseline, worst]
    return float(found.iloc[0]) if len(found) else math.nan


def _ticks(scale: Axis) -> str:
    decimals = max(0, -math.floor(math.log10((scale.high - scale.low) / scale.steps) + 1e-9))
    return "".join(
        f'<span class="lb-tick" style="left:{scale.at(v):.3f}%">{v:.{decimals}f}</span>' for v in scale.ticks()
    )


def _row(
    row: pd.Series, metric: str, fine: int, scale: Axis, baseline: str, line: float, known: Mapping[str, Paper]
) -> str:
    worst = f"worst_{metric}"
    low, value, high, null = (float(row[f"{worst}{end}"]) for end in ("_low", "", "_high", "_null_95"))
    chance = bool(row.at_chance)
    why = ' title="not above what chance finds; no order among these"' if chance else ""
    number = f"{value:.{fine}f}" if math.isfinite(value) else "–"
    bounds = f' <span class="lb-soft">({row.interval})</span>' if row.interval else ""
    return _line(
        row, _plot(scale, low, value, high, null, line), baseline, known, chance=chance,
        rank=f'<span class="lb-rank"{why}><span class="lb-hidden">rank </span>{escape(row.place)}</span>',
        value=f'<span class="lb-hidden">{escape(_worst(metric))} </span><b>{number}</b>{bounds}', by=f"{BY}{_attack(row, worst)}",
    )  # fmt: skip


def _plot(scale: Axis, low: float, value: float, high: float, null: float, line: float, falling: bool = False) -> str:
    """The marks of a row: the null's band, the baseline's line, the interval's bar and the dot; what is NaN has none.

    falling: smaller values leak more, so that the band reaches from the null to the right.
    """
    plot = ""
    if math.isfinite(null):
        at = scale.at(null)
        plot += f'<i class="lb-null" style="{f"left:{at:.3f}%;width:{100 - at:.3f}%" if falling else f"width:{at:.3f}%"}"></i>'
    if math.isfinite(line):
        plot += f'<i class="lb-base" style="left:{scale.at(line):.3f}%"></i>'
    if math.isfinite(low):
        plot += f'<i class="lb-bar" style="left:{scale.at(low):.3f}%;width:{scale.at(high) - scale.at(low):.3f}%"></i>'
    if math.isfinite(value):
        plot += f'<i class="lb-dot" style="left:{scale.at(value):.3f}%"></i>'
    return plot


def _line(
    row: pd.Series,
    plot: str,
    baseline: str,
    known: Mapping[str, Paper],
    *,
    chance: bool,
    rank: str,
    value: str,
    by: str,
    more: str = "",
) -> str:
    """A row's cells side by side. row: with defense, short, test_accuracy and remarks; plot, rank, value, by: HTML; more: classes."""
    accuracy = f"{row.test_accuracy:.2f}" if pd.notna(row.test_accuracy) else "–"
    return (
        f'<li class="lb-row{" lb-chance" if chance else ""}{" lb-baseline" if row.defense == baseline else ""}{more}">{rank}'
        f'<span class="lb-name"><b title="{escape(row.defense)}">{breaking(row.short)}</b>{_marks(row)}</span>'
        f'<div class="lb-plot" aria-hidden="true">{plot}</div>'
        f'<span class="lb-value">{value}</span>'
        f'<div class="lb-more"><span class="lb-by">{by}</span>'
        f'<span class="lb-accuracy"><span class="lb-label">test accuracy </span>{accuracy}</span>'
        f'<span class="lb-paper">{_links(row.defense, known)}</span></div></li>'
    )


def _marks(row: pd.Series) -> str:
    """The remarks on a defense, each with its text in the title."""
    there = [(label, str(row[column])) for column, label in MARKS.items() if row.get(column)]
    return "".join(f' <small title="{escape(text)}">{label}</small>' for label, text in there)


def _attack(row: pd.Series, worst: str) -> str:
    """The deciding attack with its track, and what a stronger one finds that is not required (RULES 12)."""
    name, track = breaking(str(row[f"{worst}_attack"])), escape(str(row[f"{worst}_track"]))
    more = f" <small>best known {breaking(row.known)}</small>" if row.known else ""
    return f"{name} <small>{track}</small>{more}"


def _links(defense: str, known: Mapping[str, Paper]) -> str:
    """A link to the paper of each part of a defense's name that has one."""
    links = []
    for id, _ in name_parts(defense):
        paper = known.get(id)
        if paper and paper.address:
            said = escape(f"Paper of {id}: {paper.reference}")
            links.append(f'<a href="{escape(paper.address)}" title="{said}" aria-label="{said}">paper</a>')
    return " ".join(dict.fromkeys(links))


BLUE, GREY, VERMILLION, GREEN = "#3a8fcf", "#8a8f98", "#d55e00", "#009e73"
"""Of Okabe and Ito's palette, with a contrast of at least 3 to 1 on white and on dark pages; text has the page's colour."""

# The rows are grids of their own, and the first columns have fixed widths, so that all plots are equally wide. Without
# the sign "smaller than", which the app's filter of HTML takes for a tag.
STYLE = f"""
.lb {{ container-type: inline-size; font-size: .875rem; line-height: 1.35;
  --lb-line: color-mix(in srgb, currentColor 16%, transparent); }}
.lb .lb-rows {{ list-style: none; margin: 0; padding: 0; }}
.lb .lb-head, .lb .lb-row {{ display: grid; align-items: center; column-gap: .8rem; margin: 0; padding: 0;
  grid-template-columns: 3.4rem minmax(7rem, 12rem) minmax(9rem, 1fr) 10.6rem minmax(7rem, 13.5rem) 4rem 2.6rem;
  grid-template-areas: "rank name plot value by accuracy paper"; }}
.lb .lb-fold {{ margin: 0; padding: 0; font-size: inherit; }}
.lb .lb-fold summary {{ padding: .15rem 0 .3rem 4.2rem; font-size: .8rem; cursor: pointer; list-style-position: inside; }}
.lb .lb-fold .lb-row {{ background: color-mix(in srgb, currentColor 4%, transparent); }}
.lb .lb-row {{ border-top: 1px solid var(--lb-line); min-height: 2rem; font-size: inherit; }}
.lb .lb-head {{ align-items: end; font-weight: 600; }}
.lb .lb-rank {{ grid-area: rank; }}
.lb .lb-name {{ grid-area: name; overflow-wrap: anywhere; padding: .15rem 0; }}
.lb .lb-value {{ grid-area: value; font-variant-numeric: tabular-nums; }}
.lb .lb-by {{ grid-area: by; overflow-wrap: anywhere; padding: .15rem 0; }}
.lb .lb-accuracy {{ grid-area: accuracy; font-variant-numeric: tabular-nums; }}
.lb .lb-paper {{ grid-area: paper; }}
.lb .lb-more {{ display: contents; }}
.lb .lb-head .lb-name, .lb .lb-head .lb-by {{ padding: 0; }}
.lb .lb-soft, .lb small, .lb .lb-note {{ opacity: .82; }}
.lb .lb-soft {{ white-space: nowrap; }}
.lb small {{ font-size: .75rem; display: block; }}
.lb .lb-chance .lb-rank {{ font-style: italic; }}
.lb .lb-plot {{ grid-area: plot; position: relative; align-self: stretch; min-height: 2rem; margin: 0 .9rem;
  border-right: 1px solid var(--lb-line);
  background: linear-gradient(90deg, var(--lb-line) 1px, transparent 1px) 0 0 / calc(100% / var(--lb-steps)) 100%; }}
.lb .lb-head .lb-plot {{ background: none; border: 0; min-height: 2.7rem; font-weight: 400; font-size: .75rem; }}
.lb .lb-foot {{ border-top: 1px solid var(--lb-line); }}
.lb .lb-foot .lb-plot {{ min-height: 1.3rem; }}
.lb .lb-plot > * {{ position: absolute; }}
.lb .lb-tick {{ bottom: 0; transform: translateX(-50%); }}
.lb .lb-mark {{ top: 0; white-space: nowrap; font-weight: 600; transform: translateX(-50%); }}
.lb .lb-start {{ transform: translateX(-.4rem); }}
.lb .lb-end {{ transform: translateX(calc(.4rem - 100%)); }}
.lb .lb-null {{ left: 0; top: 0; bottom: 0; background: color-mix(in srgb, {GREY} 28%, transparent); }}
.lb .lb-base {{ top: -1px; bottom: 0; border-left: 2px dashed {VERMILLION}; transform: translateX(-1px); }}
.lb .lb-bar {{ top: calc(50% - 1.5px); height: 3px; background: {BLUE}; }}
.lb .lb-dot {{ top: 50%; width: .7rem; height: .7rem; box-sizing: border-box; border-radius: 50%; background: {BLUE};
  transform: translate(-50%, -50%); }}
.lb .lb-chance .lb-bar {{ background: {GREY}; }}
.lb .lb-chance .lb-dot {{ background: transparent; border: 3px solid {GREY}; }}
.lb .lb-baseline .lb-bar, .lb .lb-baseline .lb-dot {{ background: {VERMILLION}; }}
.lb .lb-baseline.lb-chance .lb-dot {{ background: transparent; border-color: {VERMILLION}; }}
.lb .lb-row.lb-mine {{ background: color-mix(in srgb, {GREEN} 16%, transparent); }}
.lb .lb-mine .lb-bar {{ background: {GREEN}; }}
.lb .lb-mine .lb-dot {{ background: {GREEN}; border-radius: 0; }}
.lb .lb-mine.lb-chance .lb-dot {{ background: transparent; border-color: {GREEN}; }}
.lb .lb-lead {{ margin: .2rem 0 1rem; max-width: 60rem; font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }}
.lb a {{ color: inherit; }}
.lb .lb-note {{ margin: .6rem 0 0; max-width: 60rem; }}
.lb .lb-hidden, .lb .lb-label {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }}
@container (max-width: 52rem) {{
  .lb .lb-head, .lb .lb-row {{ grid-template-columns: 3.1rem 1fr auto; column-gap: .6rem;
    grid-template-areas: "rank name value" "plot plot plot" "more more more"; }}
  .lb .lb-row {{ padding: .3rem 0; }}
  .lb .lb-value {{ text-align: right; }}
  .lb .lb-row .lb-soft {{ display: block; font-size: .8rem; }}
  .lb .lb-head .lb-rank, .lb .lb-head .lb-name {{ display: none; }}
  .lb .lb-head .lb-value {{ grid-column: 1 / -1; }}
  .lb small {{ display: inline-block; }}
  .lb .lb-plot {{ min-height: 1.5rem; }}
  .lb .lb-more {{ display: flex; flex-wrap: wrap; column-gap: .9rem; grid-area: more; }}
  .lb .lb-head .lb-more {{ display: none; }}
  .lb .lb-label {{ position: static; width: auto; height: auto; clip-path: none; opacity: .82; }}
}}
""".strip()
