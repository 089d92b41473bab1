"""The published folder of a protocol: every scenario in one Parquet file, the tables, and their provenance.

    scenarios.parquet   one row a result; nested fields as JSON text
    defenses.csv        `ranking.defense_table`
    attacks.csv         `ranking.attack_table` of every task
    provenance.json     counts, protocol, board, machines, hours, versions, SHA-256 of scenarios.parquet
    studies.json        Optuna's studies of the protocol, where there are any
    official/           the same files of the rows on a secret split, without studies

A row of the public split is published as self-reported, marked `reproduced` once a second scoring of it has given
the same numbers (`mark`), and keeps the mark as long as its numbers stay as they are. The tables are computed from the records as they are stored, so anybody can recompute them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shlex
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
from benchmark.text import contents, given, parsed, plain
from leaderboard import bounded
from leaderboard.ranking import Board, attack_table, defense_table, scenarios, split_of

NESTED = (
    "metrics",
    "intervals",
    "roc",
    "histogram",
    "pictures",
    "null_auc",
    "null_tpr",
    "claims",
    "cost",
    "provenance",
)
SCENARIOS, PROVENANCE = "scenarios.parquet", "provenance.json"
SCHEMA = pa.schema([(name, pa.string()) for name in sorted(Result.model_fields)])
for _name, _kind in {"seed": pa.int64(), "null_row": pa.bool_(), "finished": pa.float64()}.items():
    SCHEMA = SCHEMA.set(SCHEMA.get_field_index(_name), pa.field(_name, _kind))
LARGEST_NOTE = 1 << 20
"""Bytes of a provenance.json."""
SCENARIOS_REQUIRED = 2_000
"""Opponents times seeds, at most, that a published board asks of an entry."""
ROWS = 2000
"""In a row group: what is read at once."""
OFFICIAL = "official"
"""The folder, inside a protocol's, of the edition on a secret split: no edition takes the other's place."""


def publish(results: Sequence[Result], board: Board, folder: Path) -> list[Result]:
    """Write the folder and return what it holds, marks of the rows before it included.

    Each file replaces its predecessor in one step; the provenance comes last. Raises ValueError without
    results, or where they don't belong in one table (`ranking.scenarios`).
    """
    if not results:
        raise ValueError("there is nothing to publish: no results")
    with contextlib.suppress(ValueError):  # a damaged folder has no marks to keep; publishing is what mends it
        results = _keep_marks(results, load(folder))
    records = [json.loads(r.to_json()) for r in sorted(results, key=lambda r: (r.task, r.attack, r.defense, r.seed))]
    frame = scenarios(map(Result.from_fields, records))
    tables = {"defenses.csv": defense_table(frame, board), "attacks.csv": all_attacks(frame, board)}
    for record in records:
        record |= {field: json.dumps(record[field], separators=(",", ":")) for field in NESTED}
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(records, SCHEMA)
    # Nothing that the file says of itself is used: not Arrow's schema, nor statistics.
    pq.write_table(table, buffer, ROWS, compression="zstd", store_schema=False, write_statistics=False)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / SCENARIOS, buffer.getvalue())
    for name, table in tables.items():
        _replace(folder / name, as_csv(table).encode())
    provenance = _provenance(results) | {
        "board": asdict(board),
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    _replace(folder / PROVENANCE, json.dumps(provenance, indent=2, sort_keys=True).encode() + b"\n")
    return list(results)


def merge(results: Sequence[Result], before: Sequence[Result]) -> list[Result]:
    """The results, and the rows of the same protocol version and split that were there and that they lack.

    Whoever scored one attack publishes that attack: nobody else's rows go. A defense that was tuned stays so (RULES 27),
    whoever scores it again.
    """
    have, editions = {_scenario(r) for r in results}, {_edition(r) for r in results}
    stay = [r for r in before if _edition(r) in editions]
    tuned = {r.defense: {"tuned": r.claims["tuned"]} for r in stay if "tuned" in r.claims}
    mine = [r.model_copy(update={"claims": tuned.get(r.defense, {}) | r.claims}) for r in results]
    return [*mine, *(r for r in stay if _scenario(r) not in have)]


def strangers(results: Sequence[Result], before: Sequence[Result]) -> int:
    """How many rows that were there can share no table with the results: another protocol version, or split."""
    editions = {_edition(r) for r in results}
    return sum(_edition(r) not in editions for r in before)


def _scenario(result: Result) -> tuple[str, str, str, int]:
    return result.task, result.attack, result.defense, result.seed


def _edition(result: Result) -> tuple[str, str, str]:
    return result.protocol, result.protocol_digest, split_of(result)


def publish_studies(found: Sequence[studies.Study], folder: Path, protocol: str) -> int:
    """Write a protocol's studies and trials beside those of other machines, and return how many studies are there then.

    Raises ValueError, in one line, where the file that is there can't be read: nothing is overwritten.
    """
    all_of_them = studies.together((*studies.published(folder, protocol), *found))
    if all_of_them:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / studies.PUBLISHED, studies.as_file(all_of_them))
    return len(all_of_them)


def several_versions(results: Sequence[Result]) -> list[str]:
    """Entries whose rows were scored with more than one version of their code, by name: their means mix them."""
    return sorted(name for name, sources in _versions(results).items() if len(sources) > 1)


def _versions(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """The rows of each entry by the version of its code that they were scored with."""
    found: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for r in results:
        for name, source in ((r.attack, "attack_source"), (r.defense, "defense_source")):
            if name and source in r.provenance:
                found[name][r.provenance[source]].append(r)
    return found


def left_behind(written: Sequence[Result], before: Sequence[Result]) -> dict[str, list[Result]]:
    """Entries of which this publication brings another version of their code, and their rows of other versions.

    written: what `publish` returned; before: what was there. What was mixed before and got no new version is left out.
    """
    old = {r.key: r for r in before}
    fresh, stay = (
        _versions([r for r in written if old.get(r.key) != r]),
        _versions([r for r in written if old.get(r.key) == r]),
    )
    every, found = _versions(written), {}
    for name in sorted(fresh):
        if brought := fresh[name].keys() - stay.get(name, {}).keys():
            newest = max(brought, key=lambda source: max(r.finished for r in fresh[name][source]))
            found[name] = [r for source, rows in every[name].items() if source != newest for r in rows]
    return {name: rows for name, rows in found.items() if rows}


def again(name: str, rows: Sequence[Result], protocol: str) -> str:
    """The command that scores these rows of an entry again, which takes their places and drops nothing."""
    others = list(dict.fromkeys(r.defense if r.attack == name else r.attack for r in rows))
    named = [name, *others] if len(others) <= 5 and all(others) else [name]
    return shlex.join(["leakboard", "run", *named, "--protocol", protocol])


def edition_folder(results: Sequence[Result], folder: Path) -> Path:
    """Where in a protocol's folder these results are published."""
    return folder / OFFICIAL if any(split_of(r) == "official" for r in results) else folder


def load(folder: Path) -> list[Result]:
    """The results of a published folder; [] where nothing was published.

    Raises ValueError, in one line, where the Parquet file is not the one that the provenance names.
    """
    return list(stream(folder))


def stream(folder: Path) -> Iterator[Result]:
    """`load`, a batch of rows at a time: a hundred thousand records at once fill a memory."""
    row, read = 0, functools.lru_cache(1000)(parsed)  # many rows share their claims and their provenance
    try:
        for group in _groups(folder):
            for values in zip(*group.values(), strict=True):
                row += 1
                yield _record(dict(zip(group, values, strict=True)), read)
    except ValueError as error:
        where = f"row {row}: " if row else ""
        raise ValueError(f"{folder / SCENARIOS} holds no results: {where}{plain(str(error), 300)}") from None


def columns_of(folder: Path, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """These columns of a published folder, row by row, as they are: nothing of them is checked but their sizes and types.

    Raises ValueError as `load`.
    """
    try:
        for group in _groups(folder, only):
            for values in zip(*group.values(), strict=True):
                yield dict(zip(group, values, strict=True))
    except ValueError as error:
        raise ValueError(f"{folder / SCENARIOS} holds no results: {plain(str(error), 300)}") from None


def settings(folder: Path) -> Board:
    """The board's settings that were published with a protocol. Raises ValueError, in one line, where they are none."""
    where = f"{folder / PROVENANCE} holds no settings of a board"
    try:
        found = TypeAdapter(Board).validate_python(provenance(folder).get("board"))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{where}: {plain(': '.join([*map(str, first['loc']), first['msg']]), 200)}") from None
    most = max(len(found.required_attacks), len(found.required_defenses)) * len(found.seeds)
    if not (most <= SCENARIOS_REQUIRED and 0 <= found.utility_floor <= 1):
        raise ValueError(
            f"{where}: expected at most {SCENARIOS_REQUIRED} required scenarios of an entry and a floor in [0, 1]"
        )
    return found


def _groups(folder: Path, only: Sequence[str] | None = None) -> Iterator[dict[str, list[Any]]]:
    """The row groups of the file that the provenance names; none without a file."""
    try:
        data = contents(folder / SCENARIOS, bounded.LARGEST)
    except FileNotFoundError:
        return
    if hashlib.sha256(data).hexdigest() != provenance(folder).get("sha256"):
        raise ValueError("it is not what was published (half written or changed): publish again")
    yield from bounded.groups(data, dict(zip(SCHEMA.names, SCHEMA.types, strict=True)), only)


def _record(fields: dict[str, Any], read: Callable[[str], Any]) -> Result:
    """One row as a record. Its nested fields are JSON texts, each read for itself: none can say anything of another."""
    for name in NESTED:
        if name in fields:  # older files know fewer
            text = fields[name]
            if type(text) is not str or len(text) > LONGEST:
                raise ValueError(f"{name}: expected JSON of at most {LONGEST} characters, given {given(text)}")
            try:
                fields[name] = read(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return Result.from_fields(fields)


def provenance(folder: Path) -> dict[str, object]:
    """What `publish` wrote about itself; {} where it is missing or no JSON object of at most a megabyte."""
    try:
        found = parsed(contents(folder / PROVENANCE, LARGEST_NOTE))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def as_csv(table: pd.DataFrame) -> str:
    """A table as CSV that a spreadsheet computes nothing of: a text that would be a formula there begins with '.

    Numbers stay numbers, also in texts.
    """

    def safe(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.startswith(FORMULA):
            return value.replace("\r", " ")  # pandas does not quote it, and a line would begin behind it
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


# --- Marks ------------------------------------------------------------------------------------------

TOLERANCE = 1e-5
"""Records hold 6 digits."""

FACTS = ("protocol", "protocol_digest", "task", "attack", "defense", "dataset", "architecture", "seed", "status",
         "access", "knowledge", "null_row")  # fmt: skip
"""What two scorings of one scenario have in common to the letter, because its key covers all that makes it; and so the
claims, but for `tuned`: that is known where the trials were."""


_SHAPES = ("intervals", "null_auc", "null_tpr", "roc")
SHAPE = 0.05
"""How far these may be apart: labels are permuted by the same seed, but another device changes a rank here and there."""


class Compared(NamedTuple):
    """One number of a record beside that of a second scoring."""

    name: str
    before: float
    interval: tuple[float, float] | None
    now: float
    verdict: str
    """"inside" or "OUTSIDE" the interval; without one "equal" (to 1e-5) or "different"."""


def compare(old: Result, new: Result) -> list[Compared]:
    """Each metric of `old` beside that of `new`, NaN where `new` lacks it."""
    found = []
    for name, before in old.metrics.items():
        interval, now = old.intervals.get(name), new.metrics.get(name, float("nan"))
        low, high = interval or (before, before)
        same = low - TOLERANCE <= now <= high + TOLERANCE
        verdict = ("inside" if same else "OUTSIDE") if interval else ("equal" if same else "different")
        found.append(Compared(name, before, interval, now, verdict))
    return found


@dataclass
class Marking:
    """What a comparison of published rows with one's own scorings found; every row is in exactly one count."""

    results: list[Result] = field(default_factory=list)
    """All the rows; those that agreed are at least `reproduced`."""
    agreed: int = 0
    marked: int = 0
    """How many of those that agreed were self-reported before."""
    differing: list[tuple[Result, str]] = field(default_factory=list)
    """What did not agree, and how."""
    same: int = 0
    """The one's own scoring is the published one: it finished at the very same time."""
    alone: int = 0
    """Nothing of the same key is there to compare with."""


def mark(published: Sequence[Result], own: Mapping[str, Result]) -> Marking:
    """Compare published rows with one's own results, by key, and mark as `reproduced` those that agree."""
    found = Marking()
    for row in published:
        mine = own.get(row.key)
        if mine is None:
            found.alone += 1
        elif mine.finished == row.finished:
            found.same += 1
        elif difference := _difference(row, mine):
            found.differing.append((row, difference))
        else:
            found.agreed += 1
            if row.trust == "self-reported":
                found.marked += 1
                row = row.model_copy(update={"trust": "reproduced"})
        found.results.append(row)
    return found


def _difference(published: Result, mine: Result) -> str:
    """In what two scorings of one scenario differ, in words; "" where they agree.

    Both ways, for a published interval may be as wide as its publisher likes, and a metric be left out.
    """
    parts = [
        f"{n} {getattr(published, n)}, here {getattr(mine, n)}"
        for n in FACTS
        if getattr(published, n) != getattr(mine, n)
    ]
    claimed, here = ({k: v for k, v in r.claims.items() if k != "tuned"} for r in (published, mine))
    parts += [f"claims {claimed}, here {here}"] * (claimed != here)
    bad = [c for c in compare(published, mine) if c.verdict in ("OUTSIDE", "different")]
    parts += [f"{c.name} {_figure(c.before, c.interval)}, here {c.now:.6g}" for c in bad]
    seen = {c.name for c in bad}
    back = [c for c in compare(mine, published) if c.verdict in ("OUTSIDE", "different") and c.name not in seen]
    parts += [f"{c.name} {c.now:.6g}, here {_figure(c.before, c.interval)}" for c in back]
    parts += [f"another {name}" for name in _SHAPES if _apart(getattr(published, name), getattr(mine, name))]
    return "; ".join(parts)


def _apart(first: Any, second: Any) -> bool:
    """Whether two sets of intervals, draws of a null or ROC curves are not about the same.

    Of draws mean and 95 % quantile count, of curves the mean distance: one rank more or less moves a single corner far.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        both = first.keys() & second.keys()
        return any(abs(a - b) > SHAPE for n in both for a, b in zip(first[n], second[n], strict=True))
    if not first or not second:
        return bool(first) != bool(second)
    if isinstance(first[0], tuple):
        a, b = (np.interp(np.linspace(0, 1, 1001), *curve) for curve in (first, second))
        return bool(np.abs(a - b).mean() > SHAPE)
    a, b = (np.array([np.mean(draws), np.quantile(draws, 0.95)]) for draws in (first, second))
    return bool(np.abs(a - b).max() > SHAPE)


def _figure(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.6g}" + (f" ({interval[0]:.6g} to {interval[1]:.6g})" if interval else "")


def _keep_marks(results: Sequence[Result], before: Sequence[Result]) -> list[Result]:
    """The results, those that stand there unchanged and reproduced marked as before."""
    marked = {r.key: _numbers(r) for r in before if r.trust == "reproduced"}
    again = {r.key for r in results if r.trust == "self-reported" and marked.get(r.key) == _numbers(r)}
    return [r.model_copy(update={"trust": "reproduced"}) if r.key in again else r for r in results]


def _numbers(result: Result) -> dict[str, Any]:
    """What a mark vouches for, as it is stored: all but when, where and at what cost it was scored."""
    record: dict[str, Any] = json.loads(result.to_json())
    record["claims"].pop("tuned", None)
    return {k: v for k, v in record.items() if k not in ("trust", "finished", "cost", "provenance", "isolation", "log")}


# --- Tables -----------------------------------------------------------------------------------------


def all_attacks(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    """The attacks of every task in one table."""
    tables = [attack_table(frame, board, task) for task in TASK_METRICS]
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)


def _provenance(results: Sequence[Result]) -> dict[str, object]:
    """What the results say of where they come from; several machines or versions are all listed."""
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
        # What differs from one result to the next says nothing of the whole.
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
