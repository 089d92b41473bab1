"""A published board as one HTML file and one JSON file. Pure functions of ranked tables: no files, no clock.

The page needs no server, no script and no network: its policy allows inline style and nothing else. The same results
give the same bytes. All texts that others wrote pass `html.escape`.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmark.metrics import METRICS
from benchmark.text import name_parts, plain
from leaderboard import grids, kinds
from leaderboard.forest import QUESTION, Paper, address, forest, forest_of_kind, leader, papers
from leaderboard.ranking import AUC, TRUST, WORST, Board, apart, best_known, by_strength, measured, rank_interval
from leaderboard.texts import digits, interval, rank_digits, short_names

if TYPE_CHECKING:
    from benchmark.protocol import Protocol

PAGE, JSON = "index.html", "board.json"
SCHEMA = 1
"""The version of the JSON file's form: it grows when a field is renamed, removed or gets another meaning."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
LONG = 4000
"""The most characters of what a protocol says of itself."""
NOTES = {"epsilon": "ε", "tuned": "Tuned", "attacked_by": "Attacked by", "extra_data": "Extra data", "alone": "Flag"}
"""Columns of remarks in the table of defenses, which are left out where no row has one."""


@dataclass(frozen=True)
class Notes:
    """What a page says besides the results: of the protocol in its own words, and of the entries' papers."""

    about: str = ""
    leaves_out: str = ""
    papers: Mapping[str, Paper] = field(default_factory=dict)
    """By the id of a defense."""

    @classmethod
    def of(cls, definition: Protocol | None, entries: Iterable[Any]) -> Notes:
        """Those of a protocol's definition, if there is one, and of the registry's entries."""
        texts = (plain(definition.about, LONG), plain(definition.leaves_out, LONG)) if definition else ("", "")
        return cls(*texts, papers(entries))


@dataclass(frozen=True)
class Contents:
    """A published board."""

    protocol: str
    version: str
    """Digest of all that moves a number of the protocol."""
    split: str
    dataset: str
    architecture: str
    board: Board
    defenses: pd.DataFrame
    """`ranking.defense_table`"""
    attacks: Mapping[str, pd.DataFrame]
    """`ranking.attack_table` by task"""
    pairs: pd.DataFrame
    """`ranking.pair_table`"""
    kinds: pd.DataFrame
    """`kinds.kind_table`"""
    cells: pd.DataFrame
    """`cells.matrix` of the AUCs of membership attacks; no row without any"""
    trust: Mapping[str, int]
    """Rows of each level of trust."""
    first_finished: float
    last_finished: float
    """When the first and the last row were scored, in seconds since 1970."""
    notes: Notes = field(default_factory=Notes)


# --- JSON -------------------------------------------------------------------------------------------


def as_json(contents: Contents) -> str:
    """The board as JSON: facts of the protocol, the sentence on who leads, and the tables with unrounded numbers.

    A number that is missing is null. The columns are those of the CSV files.
    """
    c = contents
    document = {
        "schema": SCHEMA,
        "protocol": {
            "name": c.protocol, "version": c.version, "split": c.split, "dataset": c.dataset,
            "architecture": c.architecture, "about": c.notes.about, "leaves_out": c.notes.leaves_out, **asdict(c.board),
        },
        "leader": leader(c.defenses, c.board.baseline),
        "metric": c.defenses.attrs["metric"],
        "pool": c.defenses.attrs["pool"],
        "trust": dict(c.trust),
        "papers": {id: paper.reference for id, paper in sorted(c.notes.papers.items())},
        "defenses": _records(c.defenses),
        "pairs": _records(c.pairs),
        "kinds": _records(c.kinds),
        "attacks": {task: _records(table) for task, table in c.attacks.items() if len(table)},
    }  # fmt: skip
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def papers_of(document: object) -> dict[str, Paper]:
    """The papers in a JSON file that `as_json` wrote, or anybody; {} where it has none."""
    there = document.get("papers") if isinstance(document, dict) else None
    texts = there.items() if isinstance(there, dict) else ()
    return {id: Paper(plain(text), address(text)) for id, text in texts if isinstance(text, str)}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One object a row, with Python's own numbers."""
    columns = [str(name) for name in table]
    plain = [[_plain(value) for value in table[name].tolist()] for name in table]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


def _plain(value: Any) -> Any:
    return None if pd.isna(value) or value in (math.inf, -math.inf) else value


# --- HTML -------------------------------------------------------------------------------------------


def as_html(contents: Contents) -> str:
    """The page: the question, who leads, the forest plot, the tables, the protocol, trust, and how to reproduce it."""
    c = contents
    title = f"Leakboard: {c.protocol}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _text(QUESTION),
        forest(_with_bypassed(c), c.board.baseline, c.notes.papers, c.board.required_defenses),
        *_kinds(c),
        *_defenses(c),
        *_every_pair(c),
        *_attacks(c),
        *_matrix(c),
        *_protocol(c),
        *_trust(c),
        *_reproduce(c),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def _table(
    caption: str, columns: Mapping[str, str], rows: pd.DataFrame, html: str = "", short: Mapping[str, str] | None = None
) -> str:
    """A table of texts. columns: headings by column, the first one heads its row. html: the column that is HTML already.

    short: short names by the names in the first column; where they differ, the whole names are the last column.
    """
    name = next(iter(columns))
    if short and any(short[n] != n for n in rows[name]):
        rows, columns = (
            rows.assign(**{name: rows[name].map(short), "whole": rows[name]}),
            {**columns, "whole": "Whole name"},
        )
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in columns.values())
    lines = []
    for values in zip(*(rows[name] for name in columns), strict=True):
        first, *rest = (str(v) if name == html else escape(str(v)) for name, v in zip(columns, values, strict=True))
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _numbers(table: pd.DataFrame, column: str, ranks: bool = False) -> list[str]:
    """A column with its intervals as text, such as 0.65 (0.62 – 0.67). ranks: whether it is what the rows are ranked by."""
    fine = (rank_digits if ranks else digits)(table[table.reason == ""], column)
    pairs = zip(table[column], interval(table, column, fine), strict=True)
    return ["–" if pd.isna(value) else f"{value:.{fine}f}{f' ({bounds})' if bounds else ''}" for value, bounds in pairs]


def _levels(table: pd.DataFrame) -> list[str]:
    """Trust of each row, and where it ran."""
    ran = {"": "not recorded", "trusted": "NOT ISOLATED (--trust)"}
    return [f"{trust}; {ran.get(where, where)}" for trust, where in zip(table.trust, table.isolation, strict=True)]


def _defenses(c: Contents) -> list[str]:
    table, metric = c.defenses, c.defenses.attrs["metric"]
    metrics = (metric, *(m for m in WORST if m != metric))
    notes = {n: label for n, label in NOTES.items() if n in table and (table[n].fillna("").astype(str) != "").any()}
    shown = table.assign(
        place=rank_interval(table), apart=apart(table), known=best_known(table, metric), level=_levels(table),
        test_accuracy=_numbers(table, "test_accuracy"),
        paper=[_references(name, c.notes.papers) for name in table.defense],
        **{f"worst_{m}": _numbers(table, f"worst_{m}", m == metric) for m in metrics},
        **{n: table[n].fillna("").astype(str) for n in notes},
        **{f"worst_{m}_null_95": _three(table[f"worst_{m}_null_95"]) for m in metrics},
    )  # fmt: skip
    more = {column.name: column.label for column in kinds.columns(c.kinds)}
    shown = shown.join(_shares(kinds.wide(c.kinds)), on="defense").fillna(dict.fromkeys(more, "–")) if more else shown
    columns = {"defense": "Defense", "place": "Rank", "apart": "Apart"}
    for m in metrics:
        label = METRICS[m].label
        columns |= {f"worst_{m}": f"Worst {label}", f"worst_{m}_null_95": f"{label}: null 95 %"}
        columns |= {f"worst_{m}_attack": f"{label}: decided by", f"worst_{m}_track": f"{label}: track"}
    columns |= {
        "known": "Best known",
        "test_accuracy": "Test accuracy",
        **more,
        **notes,
        "level": "Trust; where it ran",
    }
    columns |= {"paper": "Paper"} if c.notes.papers else {}
    ranked, rest = shown[shown.reason == ""], shown[shown.reason != ""]
    short = short_names(table.defense)
    count = len(c.defenses.attrs["pool"])
    parts = ["<h2>Defenses</h2>", _text(
        f"Ranked by the worst-case {METRICS[metric].label} over the {count} membership attacks that the protocol requires, as "
        "far as they apply: smaller is better. Deciding attack and sign are chosen on the other seeds. Apart: by 95 % "
        "t-intervals of seed-paired differences. Best known: what a stronger attack finds that is not required.",
    )]  # fmt: skip
    if len(ranked):
        parts.append(_table("Ranked defenses", columns, ranked, "paper", short))
    if len(rest):
        others = {n: label for n, label in columns.items() if n not in ("defense", "place", "apart")}
        parts += ["<h3>Not ranked</h3>", _table("Defenses that are not ranked", {"defense": "Defense", "reason": "Why not ranked"} | others, rest, "paper", short)]  # fmt: skip
    return parts


def _with_bypassed(c: Contents) -> pd.DataFrame:
    """The table of defenses, with the attacks that bypass guards as a remark."""
    return c.defenses.assign(bypassed=c.defenses.defense.map(kinds.bypassed(c.kinds)).fillna(""))


def _shares(wide: pd.DataFrame) -> pd.DataFrame:
    """The columns of `kinds.wide` as texts: a share, or why there is none."""
    names = [str(name) for name in wide if f"{name}_low" in wide]
    texts = {n: [getattr(row, f"{n}_why") or kinds.percent(row, n) for row in wide.itertuples()] for n in names}
    return wide.assign(**texts)


def _kinds(c: Contents) -> list[str]:
    """The kinds of attack beside each other, and a plot of each that is closed at first; nothing where one kind alone is required."""
    ranked = list(c.defenses.defense[c.defenses.reason == ""])
    if not kinds.columns(c.kinds) or not ranked:
        return []
    short, table = short_names(c.defenses.defense), _with_bypassed(c)
    plots = [
        f"<details><summary>Defenses against {escape(kind)}</summary>\n"
        f"{forest_of_kind(c.kinds, kind, table, c.board.baseline, c.notes.papers)}</details>"
        for kind in kinds.kinds_of(c.kinds)
        if kind != "membership"
    ]
    return ["<h2>Kinds of attack</h2>", grids.kinds(c.kinds, short, ranked, c.board.baseline), *plots]


def _three(values: pd.Series) -> list[str]:
    return ["–" if pd.isna(v) else f"{v:.3f}" for v in values]


def _references(defense: str, papers: Mapping[str, Paper]) -> str:
    """The references of a defense's parts as HTML, with a link where they have an address."""
    known = dict.fromkeys(papers[id] for id, _ in name_parts(defense) if id in papers)
    return "; ".join(
        f'<a href="{escape(p.address)}">{escape(p.reference)}</a>' if p.address else escape(p.reference) for p in known
    )


def _attacks(c: Contents) -> list[str]:
    parts = ["<h2>Attacks</h2>"]
    for task, table in c.attacks.items():
        if table.empty:
            continue
        metric = table.attrs["metric"]
        table = by_strength(table, metric)
        null = table.null_row.astype(bool)
        shown = table.assign(
            place=rank_interval(table).where(~null, "null"), apart=apart(table), level=_levels(table),
            **{m: _numbers(table, m) for m in measured(table, task)},
            reason=table.reason.where(~null, ""),
        )  # fmt: skip
        columns = {"attack": "Attack", "track": "Track", "place": "Rank", "apart": "Apart"}
        columns |= {m: METRICS[m].label for m in measured(table, task)} | {"level": "Trust; where it ran"}
        ranked, rest, short = shown[shown.reason == ""], shown[shown.reason != ""], short_names(table.attack)
        parts += [
            f"<h3>{escape(task.capitalize())}</h3>",
            _text(
                f"Ranked within a track by the mean {METRICS[metric].label} over the required defenses: the strongest first. "
                "Null rows, at the foot, use nothing of the target: they show what a score is worth."
            ),
        ]
        if len(ranked):
            parts.append(_table(f"Attacks: {task}", columns, ranked, short=short))
        if len(rest):
            others = {n: label for n, label in columns.items() if n not in ("attack", "place", "apart")}
            parts.append(_table(f"Attacks that are not ranked: {task}", {"attack": "Attack", "reason": "Why not ranked"} | others, rest, short=short))  # fmt: skip
    return parts


def _every_pair(c: Contents) -> list[str]:
    if c.pairs.empty:
        return []
    short, metric = short_names(c.defenses.defense), c.defenses.attrs["metric"]
    return ["<h3>Every pair</h3>", grids.pairs(c.pairs, short, metric, len(c.pairs) // 2)]


def _matrix(c: Contents) -> list[str]:
    if c.cells.empty:
        return []
    label = METRICS[AUC].label
    drawn = grids.scenarios(c.cells.assign(link="", opened=False), label, AUC, falling=False)
    return ["<h3>Every attack on every defense</h3>", drawn]


def _protocol(c: Contents) -> list[str]:
    board = c.board
    facts = {
        "Data": c.dataset,
        "Network": c.architecture,
        "Split": c.split,
        "Version": c.version,
        "Seeds": ", ".join(map(str, board.seeds)),
        "Utility floor": f"{board.utility_floor:.0%} of the test accuracy of {board.baseline}",
        "Required attacks": ", ".join(board.required_attacks),
        "Required defenses": ", ".join(board.required_defenses),
        "Scored": f"{_day(c.first_finished)} to {_day(c.last_finished)} (UTC)",
    }
    lines = "\n".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in facts.items())
    parts = ["<h2>What the protocol is</h2>", _text(c.notes.about) if c.notes.about else "", f"<dl>\n{lines}\n</dl>"]
    if c.notes.leaves_out:
        parts += ["<h2>What it leaves out</h2>", _text(c.notes.leaves_out)]
    return parts


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):  # anybody may have written the record
        return "an unknown day"


def _trust(c: Contents) -> list[str]:
    rows = pd.DataFrame({
        "level": list(TRUST), "rows": [f"{c.trust.get(level, 0):,}" for level in TRUST], "meaning": list(TRUST.values())
    })  # fmt: skip
    return ["<h2>Trust</h2>", _table("Rows by level of trust", {"level": "Level", "rows": "Rows", "meaning": "Meaning"}, rows)]  # fmt: skip


def _reproduce(c: Contents) -> list[str]:
    name = shlex.quote(c.protocol)
    commands = f"leakboard run --protocol {name}\nleakboard reproduce --protocol {name}"
    files: Sequence[tuple[str, str]] = (
        ("defenses.csv", "the table of defenses"),
        ("attacks.csv", "the tables of attacks"),
        ("kinds.csv", "the worst case of each kind of attack on each defense"),
        ("scenarios.parquet", "every scenario, from which all tables follow"),
        ("provenance.json", "machines, versions, and the digest of the scenarios"),
        (JSON, "this page's tables as JSON"),
    )
    listed = "\n".join(f'<li><a href="{file}">{file}</a>: {what}</li>' for file, what in files)
    secret = " Rows of a secret split need its secret." if c.split == "official" else ""
    return [
        "<h2>How to reproduce it</h2>",
        _text(
            "The first command scores what the protocol requires, the second compares your rows with these and says what "
            f"differs.{secret} Further entries are named behind run, as they stand in the tables."
        ),
        f'<pre tabindex="0">{escape(commands)}</pre>',
        f"<ul>\n{listed}\n</ul>",
    ]


STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1b2430; --link: #005a8e; --line: #d5dae1; }
@media (prefers-color-scheme: dark) {
  :root { --back: #12161c; --text: #e6eaf0; --link: #7cc6f2; --line: #343c47; } }
body { margin: 0; background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem 1.2rem 3rem; }
h1 { font-size: 1.8rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .3rem; }
p { max-width: 60rem; overflow-wrap: anywhere; }
a { color: var(--link); }
.wide { overflow-x: auto; }
.wide + .wide { margin-top: 1rem; }
table { width: max-content; border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0; opacity: .82; }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line);
  min-width: 4rem; max-width: 22rem; overflow-wrap: break-word; }
tbody th { font-weight: 600; min-width: 9rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(7rem, auto) 1fr; gap: .3rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .6rem .8rem; }
""".strip()
