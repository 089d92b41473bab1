"""The results that the app shows: the published ones of a protocol, and those logged in MLflow since."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmark import errors, places
from benchmark import protocol as definitions
from benchmark.addresses import sqlite_file
from benchmark.result import Result, Trust
from benchmark.text import NAME, plain
from leaderboard.cache import Notes, Table
from leaderboard.publish import OFFICIAL, PROVENANCE, SCENARIOS, settings, stream
from leaderboard.ranking import TRUST, Board, readable
from leaderboard.records import Records, positions

Fetch = Callable[[str, "int | None"], Iterable[Result]]
"""fetch(protocol, since) -> results that MLflow has of it; since: in ms since 1970, or None for all."""
Gone = Callable[[str, "set[str]"], "tuple[set[str], set[str]]"]
"""gone(protocol, runs) -> all runs that are marked as deleted, and those of `runs` that no longer exist."""

OVERLAP_SECONDS, NEAR_SECONDS = 300, 30
"""How far before its last query MLflow is queried again, now and then, and usually. A run may appear in the store after
one that finished later, and clocks differ. Reading a run takes 3 ms, so most queries go back only a little."""
LOOK_SECONDS, CHECK_SECONDS = 8, 60
"""Seconds between queries to MLflow for new runs; and for late and deleted ones."""
PAGE, CHECKED = 1000, 200
"""Runs that are added to the table at once; runs whose existence one check verifies."""


def published() -> list[Path]:
    """The folders of all published protocols, by name: the project's own, and those that come with the package."""
    names = {
        path.relative_to(root).parts[0]
        for root in places.boards()
        for pattern in ("*", f"*/{OFFICIAL}")
        for path in root.glob(f"{pattern}/{SCENARIOS}")
    }
    return [places.board(name) for name in sorted(names)]


def least_trust() -> Trust:
    """The weakest trust that is ranked by default: "reproduced" where LEAKBOARD_PUBLIC is set."""
    return "reproduced" if os.environ.get("LEAKBOARD_PUBLIC", "0") not in ("", "0") else "self-reported"


def protocols() -> list[str]:
    """The names of all protocols, published ones first, and of each kind the quickstart's."""
    kinds = [folder.name for folder in published()], sorted(path.stem for path in definitions.FOLDER.glob("*.yaml"))
    ordered = [name for names in kinds for name in sorted(names, key=lambda n: n != definitions.QUICKSTART)]
    return list(dict.fromkeys(ordered))


@functools.cache
def data_and_network(protocol: str) -> tuple[str, str]:
    """The data set and the network of a protocol; ("", "") where the protocol is not defined here."""
    try:
        definition = definitions.load(protocol)
    except (errors.UserError, ValueError):
        return "", ""
    return definition.dataset, definition.architecture


def plants_canaries(protocol: str) -> bool:
    """Whether the members of a protocol's targets are canaries, whose leakage is not that of other samples."""
    try:
        return definitions.load(protocol).canaries is not None
    except (errors.UserError, ValueError):
        return False


def board_of(protocol: str) -> Board:
    """The board's settings, from the protocol's definition, else from its published provenance.

    Raises ValueError where neither has them.
    """
    try:
        return Board(**definitions.load(protocol).board())
    except (errors.UserError, ValueError) as error:
        try:
            return settings(places.board(protocol))
        except ValueError:
            raise ValueError(f"no board settings for {protocol}: {str(error).splitlines()[0]}") from None


def cards() -> dict[str, list[Any]]:
    """The registry's entries by id; an attack and a defense may have the same id."""
    from benchmark.entries.registry import Registry

    entries: dict[str, list[Any]] = {}
    for entry in Registry(places.submissions(), places.baselines()).entries.values():
        entries.setdefault(entry.id, []).append(entry)
    return entries


def newest(records: Records, least: Trust = "self-reported") -> Records:
    """One result for each scenario, protocol version and split: the last to finish.

    Rows with less trust than `least` are taken only where there are no others. A reproduced row stays where a later
    row of the same key has the same numbers. Where one scoring is there twice, published and from MLflow, the column
    `twin` has the number of the other row.
    """
    names = [
        "protocol_digest",
        "split",
        "task",
        "attack",
        "defense",
        "seed",
        "key",
        "numbers",
        "finished",
        "trust",
        "row",
    ]
    frame = records.table.select(names).to_pandas()
    level = positions(frame.trust, TRUST)
    scenario = frame.groupby(names[:6], observed=True, sort=False).ngroup().to_numpy()
    order = np.lexsort((frame.finished, level >= list(TRUST).index(least), scenario))
    ends = np.flatnonzero(np.append(np.diff(scenario[order]), 1)) + 1 if len(order) else order
    chosen = order[ends - 1]
    marked = pd.Series(level).groupby(scenario)
    for i in np.flatnonzero((marked.max() > marked.min()).to_numpy()):
        best = -1
        for row in order[ends[i - 1] if i else 0 : ends[i]]:
            same = best >= 0 and frame.key[best] == frame.key[row] and frame.numbers[best] == frame.numbers[row]
            best = best if same and level[best] > level[row] else row
        chosen[i] = best
    chosen = np.sort(chosen)
    chosen_rows = records if len(chosen) == len(records) else records.take(chosen)
    return Records(chosen_rows.table.append_column("twin", pa.array(_twins(frame, scenario)[chosen])), chosen_rows.read)


def _twins(frame: pd.DataFrame, scenario: NDArray[np.int64]) -> NDArray[np.object_]:
    """The number (column `row`) of another row of the same scenario, key and time of finish; None without one."""
    twins = np.full(len(frame), None, object)
    same = pd.DataFrame({"scenario": scenario, "key": frame.key, "finished": frame.finished})
    several = same[same.duplicated(keep=False)].sort_values(["scenario", "key", "finished"], kind="stable")
    group, rows = (
        several.groupby(["scenario", "key", "finished"], sort=False).ngroup().to_numpy(),
        frame.row.to_numpy()[several.index],
    )
    first = np.append(True, np.diff(group) != 0) if len(group) else np.empty(0, bool)
    twins[several.index] = np.where(first, np.roll(rows, -1), np.roll(rows, 1))
    return twins


def editions(results: Iterable[Result]) -> dict[str, Records]:
    """Results by edition (split and protocol version), which share a table; that with the newest result first."""
    records = results if isinstance(results, Records) else Records.of(results)
    by_name: dict[str, Records] = {}
    groups = records.groups("split", "protocol_digest")
    for (split, digest), rows in sorted(groups.items(), key=lambda pair: -max(pair[1].values("finished"))):
        name = f"{split} split, version {digest[:8]}"
        by_name[f"{split} split, version {digest}" if name in by_name else name] = rows
    return by_name


# --- The source of a protocol's results -------------------------------------------------------------


class Source:
    """The results of one protocol: a table that is cached in a file and updated in increments."""

    def __init__(
        self, protocol: str, folder: Path | None, fetch: Fetch, gone: Gone | None = None, path: Path | None = None,
        tracking: str = "", every: float = 0,
    ) -> None:  # fmt: skip
        """Load what the file holds; `refresh` looks for more.

        folder: of all published protocols; None: where `places.board` finds the board. path: of the table's file, or
        None to keep none. tracking: identifies the MLflow; a file of another one is not used. every: least seconds
        between two queries to MLflow.
        """
        self.protocol = protocol
        self._folder, self._fetch, self._gone, self._path, self._every = folder, fetch, gone, path, every
        self._lock, self._messages = threading.Lock(), dict[str, str]()
        self._table = Table(Notes(protocol, tracking))
        self._look_at = self._check_at = self._looked_back = self._written = -math.inf
        """Monotonic times: next query for new runs, next for deleted ones, last query for late ones, last write."""
        self._held: set[int] | None = None
        self._failed: dict[str, tuple[list[int], str]] = {}
        self._unwritten, self._turn, self._opened = 0, 0, time.monotonic()
        self.results = self._rows = Records.of([])
        self._at: dict[Trust, Records] = {}
        if path is not None:
            self._open(path)

    @property
    def message(self) -> str:
        """What went wrong in the last refresh, in one line; "" if nothing did."""
        return "; ".join(self._messages.values())

    def refresh(self) -> bool:
        """Look for new results; returns whether there were any. Errors do not raise: they are in `message`."""
        with self._lock:
            before, known = self.results.version, self._unwritten
            folder = self._folder / self.protocol if self._folder else places.board(self.protocol)
            steps = {"": lambda: self._read("", folder), OFFICIAL: lambda: self._read(OFFICIAL, folder / OFFICIAL)}
            if time.monotonic() >= self._look_at:
                steps["mlflow"] = self._look
            if time.monotonic() >= max(self._look_at, self._check_at):
                steps["deleted"] = self._check
            for name, step in steps.items():
                try:
                    step()
                    self._messages.pop(name, None)
                except (ValueError, ConnectionError) as error:
                    self._messages[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
                    if name == "mlflow":
                        break  # if MLflow does not answer, it is not queried for deleted runs either
            self._compare_versions(folder)
            if self._unwritten != known:
                self._choose()
            self._write()
            return self.results.version != before

    def _open(self, path: Path) -> None:
        try:
            table = Table.read(path)
        except FileExistsError as error:
            self._messages["file"], self._path = str(error), None
            return
        except ValueError as error:
            self._messages["file"] = str(error)
            return
        if table is None or (table.notes.protocol, table.notes.tracking) != (self.protocol, self._table.notes.tracking):
            return
        self._table, self._written = table, time.monotonic()
        self._look_at = time.monotonic() + self._every
        self._choose()

    def _choose(self) -> None:
        rows, deleted = self._table.rows, self._table.notes.deleted
        if deleted:
            rows = rows.take(np.flatnonzero(~pc.is_in(rows.table["run_id"], _strings(deleted)).to_numpy()))
        self._rows, self.results = rows, newest(rows, least_trust())
        self._at = {}

    def at(self, least: Trust) -> Records:
        """As `results`, for this least trust: a newer row with less trust does not hide an older one with enough."""
        if least == least_trust():
            return self.results
        if least not in self._at:
            self._at[least] = newest(self._rows, least)
        return self._at[least]

    def _write(self) -> None:
        """Write the table to its file: at once after large changes, else at most once in CHECK_SECONDS."""
        if time.monotonic() > self._opened + CHECK_SECONDS:
            self._messages.pop("file", None)
        much = self._unwritten * 100 >= len(self.results)
        if self._path is None or not self._unwritten or not (much or time.monotonic() > self._written + CHECK_SECONDS):
            return
        self._written = time.monotonic()
        try:
            self._table.write(self._path)
        except OSError as error:
            self._messages["file"] = f"{self._path}: the table can't be kept there: {error.strerror or error}"
            return
        if self._unwritten * 10 >= len(self.results):
            self._choose()  # the records are in the file now, and need not stay in memory
        self._unwritten = 0

    def _read(self, origin: str, folder: Path) -> None:
        """Read the published rows, if their files have changed. Raises ValueError, each time, for damaged files."""
        stamps = [n for name in (SCENARIOS, PROVENANCE) for n in _stamp(folder / name)]
        if stamps == self._table.notes.published.get(origin, [0] * 4):
            return
        if self._failed.get(origin, ([], ""))[0] != stamps:
            try:
                self._unwritten += 1 + self._table.add(origin, self._published(folder), replace=True)
            except ValueError as error:
                self._failed[origin] = stamps, str(error)
            else:
                self._table.notes.published[origin] = stamps
                return
        raise ValueError(self._failed[origin][1])

    def _published(self, folder: Path) -> Iterator[Result]:
        for r in stream(folder):
            if r.protocol != self.protocol:
                other = plain(r.protocol, NAME)
                raise ValueError(f"{folder} holds results of {other}, expected {self.protocol}: none of them is shown")
            yield readable(r)

    def _compare_versions(self, folder: Path) -> None:
        """Set or clear the message that the published rows are of another version of the protocol."""
        rows = self._table.parts.get("")
        version = self._version() if rows else ""
        others = [d for d in rows["protocol_digest"].unique().to_pylist() if d != version] if rows and version else []
        if others:
            self._messages["version"] = (
                f"{folder} was published under version {others[0][:8]} of the protocol, which is {version[:8]} now: "
                f"they stay apart; score and publish again"
            )
        else:
            self._messages.pop("version", None)

    def _version(self) -> str:
        """The digest of what the protocol measures; "" where it is not defined here."""
        try:
            return definitions.load(self.protocol).measures
        except errors.UserError:
            return ""

    def _look(self) -> None:
        """Add the runs that ended in MLflow since the last query. Raises ConnectionError."""
        now, notes = time.monotonic(), self._table.notes
        self._look_at = now + self._every
        held = self._runs()
        since, started = None, time.time()
        if held and notes.looked is not None:
            # At most now: if the clock ran ahead and was set back, later runs must not be missed.
            late = now > self._looked_back + CHECK_SECONDS
            since = int((min(notes.looked, started) - (OVERLAP_SECONDS if late else NEAR_SECONDS)) * 1000)
            self._looked_back = now if late else self._looked_back
        left = iter(self._fetch(self.protocol, since))
        while page := list(islice(left, PAGE)):
            news = [readable(r) for r in page if r.protocol == self.protocol and hash(_run(r)) not in held]
            if runs := {run for run, *_ in map(_run, news) if run}:
                self._drop(runs)  # runs that were here and have changed
            self._unwritten += self._table.add("mlflow", news)
            held.update(hash(_run(r)) for r in news)
        notes.looked = started

    def _runs(self) -> set[int]:
        """Hashes of run, key and time of finish of all rows from MLflow."""
        if self._held is None:
            rows = self._table.parts.get("mlflow")
            columns = [rows[n].to_pylist() for n in ("run_id", "key", "finished")] if rows else [[], [], []]
            self._held = set(map(hash, zip(*columns, strict=True)))
        return self._held

    def _drop(self, runs: set[str]) -> None:
        part = self._table.parts.get("mlflow")
        if not part:
            return
        gone = pc.is_in(part["run_id"], _strings(runs)).to_numpy()
        if gone.any():
            self._unwritten += int(gone.sum())
            self._table.keep("mlflow", ~gone)

    def _check(self) -> None:
        """Find runs deleted in MLflow: all that are marked as deleted, and, among some at each check, those erased."""
        rows, notes, started = self._table.parts.get("mlflow"), self._table.notes, time.monotonic()
        self._check_at = started + CHECK_SECONDS
        if self._gone is None or not rows:
            return
        runs, order = rows["run_id"], np.argsort(rows["finished"].to_numpy(), kind="stable")
        start = self._turn if self._turn < len(order) else 0
        self._turn = start + CHECKED
        some = np.append(order[start : start + CHECKED], order[-1])
        asked = ({*runs.take(pa.array(some)).to_pylist()} | {*notes.deleted}) - {""}
        deleted, lost = self._gone(self.protocol, asked)
        self._check_at = time.monotonic() + max(CHECK_SECONDS, 50 * (time.monotonic() - started))
        if asked and lost == asked:  # none of the runs exists: it is another database, or an empty one
            self._unwritten += len(order)
            self._table.keep("mlflow", np.zeros(len(order), bool))
            self._held, notes.deleted, notes.looked = None, [], None
            self._look()
            return
        if lost:
            self._drop(lost)
            self._held = None
        marked = sorted({*runs.filter(pc.is_in(runs, _strings(deleted))).to_pylist()} - lost)
        self._unwritten += marked != notes.deleted
        notes.deleted = marked


def _strings(names: Iterable[str]) -> pa.Array:
    return pa.array(sorted(names), pa.string())


def _run(r: Result) -> tuple[str, str, float]:
    return r.provenance.get("run_id", ""), r.key, r.finished


def _stamp(path: Path) -> list[int]:
    """Time of change in ns and size of a file; zeros without a file."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_mtime_ns, status.st_size]


def tracking_uri() -> str:
    """The address of MLflow for this process, as in `benchmark.run.tracking.uri`."""
    return places.tracking()


def tracking_id() -> str:
    """A digest that identifies MLflow in a table's file, because its address may hold a password.

    It stays the same when the project is moved together with its tables. Where LEAKBOARD_TABLES names a folder, that
    may serve many projects, so the whole address counts.
    """
    named = tracking_uri() if os.environ.get("LEAKBOARD_TABLES") else places.lasting(tracking_uri())
    return hashlib.sha256(named.encode()).hexdigest()


def table_path(protocol: str) -> Path:
    """The file of a protocol's table: in LEAKBOARD_TABLES, else tables/ beside a local database or in mlruns/."""
    database = sqlite_file(tracking_uri())
    local = database.parent if database else places.mlruns()
    folder = Path(os.environ.get("LEAKBOARD_TABLES") or local / "tables")
    return folder / f"{protocol}-{tracking_id()[:8]}.parquet"


@functools.cache
def source(protocol: str) -> Source:
    """The `Source` of a protocol, one for this process; read at the first call."""
    new_source = Source(protocol, None, _fetch, _gone, table_path(protocol), tracking_id(), LOOK_SECONDS)
    new_source.refresh()
    return new_source


def _fetch(protocol: str, since_ms: int | None) -> Iterable[Result]:
    try:
        from benchmark.run.tracking import results_since
    except ImportError as error:
        raise ConnectionError(f"MLflow is not available: {error}") from None
    return results_since(protocol, since_ms)


def _gone(protocol: str, held: set[str]) -> tuple[set[str], set[str]]:
    from benchmark.run.tracking import gone_runs

    return gone_runs(protocol, held)
