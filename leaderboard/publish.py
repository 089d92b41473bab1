"""The published folder of a protocol: every scenario in one Parquet file, the tables, and their provenance.

    scenarios.parquet   one row a result; nested fields are JSON texts
    defenses.csv        `ranking.defense_table`
    attacks.csv         `ranking.attack_table` of every task
    kinds.csv           `kinds.kind_table`
    index.html          the board as a page that needs no server
    board.json          the same tables as JSON
    provenance.json     counts, protocol, board, machines, hours, versions, SHA-256 of scenarios.parquet
    studies.json        Optuna's studies of the protocol, where there are any
    official/           the same files of the rows on a secret split, without studies

A row of the public split is published as self-reported. It is marked `reproduced` once a second scoring has given the
same numbers (`mark`), and keeps the mark as long as its numbers do not change. The tables are computed from the stored
records, so anybody can recompute them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shlex
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from benchmark.metrics import TASK_METRICS
from benchmark.result import LONGEST, Result
from benchmark.run import studies
from benchmark.text import contents, parse_json, plain, short_repr
from leaderboard import bounded, page
from leaderboard.cells import matrix
from leaderboard.forest import Paper
from leaderboard.kinds import kind_table
from leaderboard.ranking import (
    AUC,
    Board,
    attack_table,
    by_strength,
    defense_table,
    pair_table,
    readable,
    scenarios,
    split_of,
)

NESTED = (
    "metrics",
    "intervals",
    "roc",
    "histogram",
    "pictures",
    "null_auc",
    "null_tpr",
    "values",
    "claims",
    "cost",
    "provenance",
)
"""Fields of a record that are JSON texts in the Parquet file."""
SCENARIOS, PROVENANCE, KINDS = "scenarios.parquet", "provenance.json", "kinds.csv"
SCHEMA = pa.schema([(name, pa.string()) for name in sorted(Result.model_fields)])
for _name, _kind in {"seed": pa.int64(), "null_row": pa.bool_(), "finished": pa.float64()}.items():
    SCHEMA = SCHEMA.set(SCHEMA.get_field_index(_name), pa.field(_name, _kind))
LARGEST_NOTE = 1 << 20
"""Most bytes of a provenance.json that is read."""
LARGEST_JSON = 1 << 24
"""Most bytes of a board.json that is read."""
SCENARIOS_REQUIRED = 2_000
"""Most scenarios (opponents times seeds) that a published board may require of an entry."""
ROWS = 2000
"""Rows in a row group, which is read at once."""
OFFICIAL = "official"
"""The subfolder of a protocol's folder for rows on a secret split (RULES 26)."""


def publish(results: Sequence[Result], board: Board, folder: Path, notes: page.Notes | None = None) -> list[Result]:
    """Write the folder and return the rows that it holds, with the marks `reproduced` that unchanged rows had there.

    notes: what the page says of the protocol and of papers. Each file is replaced in one step, the provenance last.
    Raises ValueError without results, or where they cannot
    share a table (`ranking.scenarios`), and OSError.
    """
    if not results:
        raise ValueError("there is nothing to publish: no results")
    with contextlib.suppress(ValueError):  # a damaged folder has no marks to keep, and is overwritten
        results = _keep_marks(results, load(folder))
    records = [json.loads(r.to_json()) for r in sorted(results, key=_scenario)]
    frame = scenarios(map(Result.from_fields, records))
    defenses, attacks = defense_table(frame, board), attacks_by_task(frame, board)
    files = {"defenses.csv": as_csv(defenses), "attacks.csv": as_csv(_joined(attacks))}
    files |= _pages(results, frame, board, defenses, attacks, notes)
    for record in records:
        record |= {field: json.dumps(record[field], separators=(",", ":")) for field in NESTED}
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(records, SCHEMA)
    # Readers trust neither Arrow's schema nor statistics, so the file has none.
    pq.write_table(table, buffer, ROWS, compression="zstd", store_schema=False, write_statistics=False)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / SCENARIOS, buffer.getvalue())
    for name, text in files.items():
        _replace(folder / name, text.encode())
    provenance = _provenance(results) | {
        "board": asdict(board),
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    _replace(folder / PROVENANCE, json.dumps(provenance, indent=2, sort_keys=True).encode() + b"\n")
    return list(results)


def merge(results: Sequence[Result], before: Sequence[Result]) -> list[Result]:
    """The results, followed by published rows (`before`) of the same protocol version and split that they lack.

    So publishing one attack removes nobody else's rows. A defense that was published as tuned stays marked as tuned
    (RULES 27), whoever scores it again.
    """
    have, editions = {_scenario(r) for r in results}, {_edition(r) for r in results}
    stay = [r for r in before if _edition(r) in editions]
    tuned = {r.defense: {"tuned": r.claims["tuned"]} for r in stay if "tuned" in r.claims}
    mine = [r.model_copy(update={"claims": tuned.get(r.defense, {}) | r.claims}) for r in results]
    return [*mine, *(r for r in stay if _scenario(r) not in have)]


def count_other_editions(results: Sequence[Result], before: Sequence[Result]) -> int:
    """How many published rows (`before`) are of another protocol version or split than the results."""
    editions = {_edition(r) for r in results}
    return sum(_edition(r) not in editions for r in before)


def _scenario(result: Result) -> tuple[str, str, str, int]:
    return result.task, result.attack, result.defense, result.seed


def _edition(result: Result) -> tuple[str, str, str]:
    return result.protocol, result.protocol_digest, split_of(result)


def publish_studies(own: Sequence[studies.Study], folder: Path, protocol: str) -> int:
    """Add one's own tuning studies of a protocol to the published ones; returns how many are published then.

    Raises ValueError, in one line, where the published file can't be read; it is not overwritten then.
    """
    all_of_them = studies.together((*studies.published(folder, protocol), *own))
    if all_of_them:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / studies.PUBLISHED, studies.as_file(all_of_them))
    return len(all_of_them)


def several_versions(results: Sequence[Result]) -> list[str]:
    """Names of entries whose rows were scored with several versions of their code, which their means then mix."""
    return sorted(name for name, sources in _versions(results).items() if len(sources) > 1)


def _versions(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """By entry, then by the digest of its code: the rows that were scored with it."""
    versions: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for r in results:
        for name, source in ((r.attack, "attack_source"), (r.defense, "defense_source")):
            if name and source in r.provenance:
                versions[name][r.provenance[source]].append(r)
    return versions


def rows_of_older_code(written: Sequence[Result], before: Sequence[Result]) -> dict[str, list[Result]]:
    """Entries for which this publication brings a new version of their code, each with its rows of other versions.

    written: what `publish` returned; before: the rows published before. Entries that mixed versions before and got no
    new one are left out.
    """
    old = {r.key: r for r in before}
    fresh, stay = (
        _versions([r for r in written if old.get(r.key) != r]),
        _versions([r for r in written if old.get(r.key) == r]),
    )
    versions, behind = _versions(written), {}
    for name in sorted(fresh):
        if new_versions := fresh[name].keys() - stay.get(name, {}).keys():
            newest = max(new_versions, key=lambda source: max(r.finished for r in fresh[name][source]))
            behind[name] = [r for source, rows in versions[name].items() if source != newest for r in rows]
    return {name: rows for name, rows in behind.items() if rows}


def rescoring_command(name: str, rows: Sequence[Result], protocol: str) -> str:
    """The command that scores these rows of an entry again; publishing the results then replaces the rows."""
    others = list(dict.fromkeys(r.defense if r.attack == name else r.attack for r in rows))
    named = [name, *others] if len(others) <= 5 and all(others) else [name]
    return shlex.join(["leakboard", "run", *named, "--protocol", protocol])


def edition_folder(results: Sequence[Result], folder: Path) -> Path:
    """The folder, inside a protocol's `folder`, in which these results are published: its own or `official`."""
    return folder / OFFICIAL if any(split_of(r) == "official" for r in results) else folder


def load(folder: Path) -> list[Result]:
    """The results of a published folder; [] where nothing was published.

    Raises ValueError, in one line, where the Parquet file is not the one that the provenance names.
    """
    return list(stream(folder))


def stream(folder: Path) -> Iterator[Result]:
    """As `load`, but one record at a time, with a row group in memory: a hundred thousand records would not fit."""
    row, read = 0, functools.lru_cache(1000)(parse_json)  # many rows have the same claims and provenance
    try:
        for group in _groups(folder):
            for values in zip(*group.values(), strict=True):
                row += 1
                yield _record(dict(zip(group, values, strict=True)), read)
    except ValueError as error:
        where = f"row {row}: " if row else ""
        raise ValueError(f"{folder / SCENARIOS} holds no results: {where}{plain(str(error), 300)}") from None


def columns_of(folder: Path, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """These columns of a published folder, row by row; only their sizes and types are checked.

    Raises ValueError as `load`.
    """
    try:
        for group in _groups(folder, only):
            for values in zip(*group.values(), strict=True):
                yield dict(zip(group, values, strict=True))
    except ValueError as error:
        raise ValueError(f"{folder / SCENARIOS} holds no results: {plain(str(error), 300)}") from None


def settings(folder: Path) -> Board:
    """The board's settings that were published with a protocol. Raises ValueError, in one line, if they are invalid."""
    where = f"{folder / PROVENANCE} holds no settings of a board"
    try:
        board = TypeAdapter(Board).validate_python(provenance(folder).get("board"))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{where}: {plain(': '.join([*map(str, first['loc']), first['msg']]), 200)}") from None
    most = max(len(board.required_attacks), len(board.required_defenses)) * len(board.seeds)
    if not (most <= SCENARIOS_REQUIRED and 0 <= board.utility_floor <= 1):
        raise ValueError(
            f"{where}: expected at most {SCENARIOS_REQUIRED} required scenarios of an entry and a floor in [0, 1]"
        )
    return board


def _groups(folder: Path, only: Sequence[str] | None = None) -> Iterator[dict[str, list[Any]]]:
    """The row groups of the Parquet file, if there is one. Raises ValueError unless its SHA-256 is the provenance's."""
    try:
        data = contents(folder / SCENARIOS, bounded.LARGEST)
    except FileNotFoundError:
        return
    if hashlib.sha256(data).hexdigest() != provenance(folder).get("sha256"):
        raise ValueError("it is not what was published (half written or changed): publish again")
    yield from bounded.groups(data, dict(zip(SCHEMA.names, SCHEMA.types, strict=True)), only)


def _record(fields: dict[str, Any], read: Callable[[str], Any]) -> Result:
    """One row as a record. Nested fields are parsed one by one, so that the text of one cannot set another."""
    for name in NESTED:
        if name in fields:  # older files have fewer fields
            text = fields[name]
            if type(text) is not str or len(text) > LONGEST:
                raise ValueError(f"{name}: expected JSON of at most {LONGEST} characters, given {short_repr(text)}")
            try:
                fields[name] = read(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return Result.from_fields(fields)


def provenance(folder: Path) -> dict[str, object]:
    """The content of provenance.json; {} where it is missing, or no JSON object of at most LARGEST_NOTE bytes."""
    try:
        content = parse_json(contents(folder / PROVENANCE, LARGEST_NOTE))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def papers(folder: Path) -> dict[str, Paper]:
    """The papers of defenses that a published folder names, by the entry's id; {} where it names none.

    So a page need not load the registry, which takes seconds.
    """
    try:
        return page.papers_of(parse_json(contents(folder / page.JSON, LARGEST_JSON)))
    except (OSError, ValueError):
        return {}


FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""Characters with which a spreadsheet begins a formula."""


def as_csv(table: pd.DataFrame) -> str:
    """A table as CSV. A text that a spreadsheet would take for a formula gets a ' in front; numbers in texts do not."""

    def safe(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.startswith(FORMULA):
            return value.replace("\r", " ")  # pandas does not quote \r, and readers would begin a new line there
        try:
            float(value)
        except ValueError:
            return f"'{value}".replace("\r", " ")
        return value

    texts = [
        c
        for c in table
        if not pd.api.types.is_numeric_dtype(table[c]) and not pd.api.types.is_datetime64_any_dtype(table[c])
    ]
    return table.assign(**{str(c): table[c].map(safe) for c in texts}).to_csv(index=False)


def pages(folder: Path, notes: page.Notes) -> dict[str, str]:
    """The page, the JSON file and kinds.csv of a published folder, by file name, made anew from its own rows and settings.

    Raises ValueError as `load` and `settings`, and where nothing is published.
    """
    if not (results := load(folder)):
        raise ValueError(f"{folder}: nothing is published")
    frame, board = scenarios(results), settings(folder)
    return _pages(results, frame, board, defense_table(frame, board), attacks_by_task(frame, board), notes)


# --- Marks ------------------------------------------------------------------------------------------

TOLERANCE = 1e-5
"""Largest difference between equal numbers: records hold 6 digits."""

FACTS = ("protocol", "protocol_digest", "task", "attack", "defense", "dataset", "architecture", "seed", "status",
         "access", "knowledge", "null_row")  # fmt: skip
"""Fields that are identical in two scorings of one scenario, because its key covers all that they depend on. So are the
claims, but for `tuned`, which is known only where the trials were run."""

_DISTRIBUTIONS = ("intervals", "null_auc", "null_tpr", "roc")
"""Fields that are compared by `_differ`: intervals, draws under the null, and curves."""
DISTANCE = 0.05
"""How far _DISTRIBUTIONS of two scorings may differ: labels are permuted by the same seed, but another device changes
some ranks."""


class Compared(NamedTuple):
    """One metric of a record beside that of a second scoring."""

    name: str
    before: float
    interval: tuple[float, float] | None
    now: float
    verdict: str
    """Whether `now` is "inside" or "OUTSIDE" the interval; without one "equal" (to TOLERANCE) or "different"."""


def compare(old: Result, new: Result) -> list[Compared]:
    """Each metric of `old` beside that of `new`; `now` is NaN where `new` lacks it."""
    compared = []
    for name, before in old.metrics.items():
        interval, now = old.intervals.get(name), new.metrics.get(name, float("nan"))
        low, high = interval or (before, before)
        same = low - TOLERANCE <= now <= high + TOLERANCE
        verdict = ("inside" if same else "OUTSIDE") if interval else ("equal" if same else "different")
        compared.append(Compared(name, before, interval, now, verdict))
    return compared


@dataclass
class Marking:
    """Published rows compared with one's own results. Each row is one of: agreed, differing, same, alone."""

    results: list[Result] = field(default_factory=list)
    """All published rows; those that agreed are marked `reproduced` if they were self-reported."""
    agreed: int = 0
    marked: int = 0
    """How many of those that agreed are newly marked."""
    differing: list[tuple[Result, str]] = field(default_factory=list)
    """Rows that did not agree, and in what."""
    same: int = 0
    """Rows that were published from this very result: both finished at the same time."""
    alone: int = 0
    """Rows without a result of the same key to compare with."""


def mark(published: Sequence[Result], own: Mapping[str, Result]) -> Marking:
    """Compare published rows with one's own results (by key), and mark as `reproduced` those that agree."""
    marking = Marking()
    for row in published:
        mine = own.get(row.key)
        if mine is None:
            marking.alone += 1
        elif mine.finished == row.finished:
            marking.same += 1
        elif difference := _difference(row, mine):
            marking.differing.append((row, difference))
        else:
            marking.agreed += 1
            if row.trust == "self-reported":
                marking.marked += 1
                row = row.model_copy(update={"trust": "reproduced"})
        marking.results.append(row)
    return marking


def _difference(published: Result, mine: Result) -> str:
    """In what two scorings of one scenario differ, in words; "" where they agree.

    Numbers are held against the intervals of both, for a published interval may be too wide, and a metric left out.
    """
    parts = [
        f"{n} {getattr(published, n)}, here {getattr(mine, n)}"
        for n in FACTS
        if getattr(published, n) != getattr(mine, n)
    ]
    claimed, here = ({k: v for k, v in r.claims.items() if k != "tuned"} for r in (published, mine))
    parts += [f"claims {claimed}, here {here}"] * (claimed != here)
    outside = [c for c in compare(published, mine) if c.verdict in ("OUTSIDE", "different")]
    parts += [f"{c.name} {_number_text(c.before, c.interval)}, here {c.now:.6g}" for c in outside]
    seen = {c.name for c in outside}
    outside_reversed = [
        c for c in compare(mine, published) if c.verdict in ("OUTSIDE", "different") and c.name not in seen
    ]
    parts += [f"{c.name} {c.now:.6g}, here {_number_text(c.before, c.interval)}" for c in outside_reversed]
    parts += [f"another {name}" for name in _DISTRIBUTIONS if _differ(getattr(published, name), getattr(mine, name))]
    return "; ".join(parts)


def _differ(first: Any, second: Any) -> bool:
    """Whether two sets of intervals, draws under the null or ROC curves differ by more than DISTANCE.

    Draws are compared by mean and 95 % quantile, curves by their mean distance in TPR: one changed rank may move a
    single corner far.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        both = first.keys() & second.keys()
        return any(abs(a - b) > DISTANCE for n in both for a, b in zip(first[n], second[n], strict=True))
    if not first or not second:
        return bool(first) != bool(second)
    if isinstance(first[0], tuple):
        a, b = (np.interp(np.linspace(0, 1, 1001), *curve) for curve in (first, second))
        return bool(np.abs(a - b).mean() > DISTANCE)
    a, b = (np.array([np.mean(draws), np.quantile(draws, 0.95)]) for draws in (first, second))
    return bool(np.abs(a - b).max() > DISTANCE)


def _number_text(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.6g}" + (f" ({interval[0]:.6g} to {interval[1]:.6g})" if interval else "")


def _keep_marks(results: Sequence[Result], before: Sequence[Result]) -> list[Result]:
    """The results; those that were published before as reproduced and have not changed are marked again."""
    marked = {r.key: _vouched(r) for r in before if r.trust == "reproduced"}
    unchanged = {r.key for r in results if r.trust == "self-reported" and marked.get(r.key) == _vouched(r)}
    return [r.model_copy(update={"trust": "reproduced"}) if r.key in unchanged else r for r in results]


def _vouched(result: Result) -> dict[str, Any]:
    """The fields that the mark `reproduced` covers, as stored: all but when, where and at what cost it was scored."""
    record: dict[str, Any] = json.loads(result.to_json())
    record["claims"].pop("tuned", None)
    return {k: v for k, v in record.items() if k not in ("trust", "finished", "cost", "provenance", "isolation", "log")}


# --- Tables -----------------------------------------------------------------------------------------


def all_attacks(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    """`ranking.attack_table` of every task, in one table."""
    return _joined(attacks_by_task(frame, board))


def attacks_by_task(frame: pd.DataFrame, board: Board) -> dict[str, pd.DataFrame]:
    """`ranking.attack_table` of every task, by task."""
    return {task: attack_table(frame, board, task) for task in TASK_METRICS}


def _joined(attacks: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    tables = [*attacks.values()]
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)


def _pages(
    results: Sequence[Result],
    frame: pd.DataFrame,
    board: Board,
    defenses: pd.DataFrame,
    attacks: Mapping[str, pd.DataFrame],
    notes: page.Notes | None,
) -> dict[str, str]:
    """The page, the JSON file and kinds.csv of these tables, by file name; the order of the results changes no byte."""
    first = readable(min(results, key=_scenario))
    membership = by_strength(attacks["membership"], attacks["membership"].attrs["metric"])
    by_kind = kind_table(frame, board)
    cells = matrix(frame[frame.task == "membership"], AUC, list(defenses.defense), membership)
    contents = page.Contents(
        first.protocol, first.protocol_digest, split_of(first), first.dataset, first.architecture, board, defenses,
        attacks, pair_table(frame, board), by_kind, cells, dict(sorted(Counter(r.trust for r in results).items())), min(r.finished for r in results), max(r.finished for r in results),
        notes or page.Notes(),
    )  # fmt: skip
    return {page.PAGE: page.as_html(contents), page.JSON: page.as_json(contents), KINDS: as_csv(by_kind)}


def _provenance(results: Sequence[Result]) -> dict[str, object]:
    """Counts, times and origin of the results; all their machines and versions are listed."""
    first = results[0]

    def seen(name: str) -> list[str]:
        return sorted({r.provenance[name] for r in results if name in r.provenance})

    return {
        "protocol": first.protocol,
        "protocol_digest": first.protocol_digest,
        "results": len(results),
        "statuses": dict(Counter(r.status for r in results)),
        "trust": dict(Counter(r.trust for r in results)),
        "attacks": len({r.attack for r in results if r.attack}),
        "defenses": len({r.defense for r in results}),
        "seeds": sorted({r.seed for r in results}),
        "several_versions": several_versions(results),
        "hours": round(sum(r.cost.get("train_seconds", r.cost.get("seconds", 0)) for r in results) / 3600, 3),
        "first_finished": min(r.finished for r in results),
        "last_finished": max(r.finished for r in results),
        # Only fields with few values: one that differs from result to result does not describe the whole.
        "seen": {n: seen(n) for n in sorted({n for r in results for n in r.provenance}) if 0 < len(seen(n)) <= 8},
    }


def _replace(path: Path, data: bytes) -> None:
    """Write beside the file, then rename over it: a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def main(protocols: Sequence[str]) -> None:
    """`python -m leaderboard.publish [PROTOCOL ...]`: write the pages of published boards and their kinds.csv anew; rows and other tables stay."""
    from benchmark import places
    from benchmark import protocol as definitions
    from benchmark.entries.registry import Registry

    entries = Registry(places.submissions(), places.baselines()).entries.values()
    for name in protocols or sorted(path.name for path in places.published().iterdir()):
        definition = definitions.load(name) if name in definitions.names() else None
        for folder in sorted(path.parent for path in (places.published() / name).rglob(SCENARIOS)):
            for file, text in pages(folder, page.Notes.of(definition, entries)).items():
                _replace(folder / file, text.encode())
                print(folder / file)


if __name__ == "__main__":
    main(sys.argv[1:])
