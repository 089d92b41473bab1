"""What the app shows: the published results of a protocol and what MLflow has since."""

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
from leaderboard.records import Records
from leaderboard.records import places as indices

Fetch = Callable[[str, "int | None"], Iterable[Result]]
"""fetch(protocol, since in ms since 1970 or None) -> the results that the tracking server has since."""
Gone = Callable[[str, "set[str]"], "tuple[set[str], set[str]]"]
"""gone(protocol, some runs) -> all runs that are marked as deleted, and those of `some` that are there no longer."""

OVERLAP_SECONDS, NEAR_SECONDS = 300, 30
"""A run may appear in the store after a run that finished later; clocks of machines differ. Runs cost 3 ms each: most
looks go back but a little."""
LOOK_SECONDS, CHECK_SECONDS = 8, 60
"""How often MLflow is asked for new runs; and for late and deleted ones."""
PAGE, CHECKED = 1000, 200
"""Runs that are taken in at once, and that are looked up by their id in one check."""


def published() -> list[Path]:
    """The folders of all published protocols, by name: the project's own, and those that come with the package."""
    found = {
        path.relative_to(root).parts[0]
        for root in places.boards()
        for pattern in ("*", f"*/{OFFICIAL}")
        for path in root.glob(f"{pattern}/{SCENARIOS}")
    }
    return [places.board(name) for name in sorted(found)]


def least_trust() -> Trust:
    """The weakest trust that is ranked unless somebody chooses otherwise: LEAKBOARD_PUBLIC makes the board strict."""
    return "reproduced" if os.environ.get("LEAKBOARD_PUBLIC", "0") not in ("", "0") else "self-reported"


def protocols() -> list[str]:
    """The names of all protocols, published ones first."""
    defined = sorted(path.stem for path in definitions.FOLDER.glob("*.yaml"))
    return list(dict.fromkeys([*(folder.name for folder in published()), *defined]))


@functools.cache
def fixed(protocol: str) -> tuple[str, str]:
    """The data set and the network that a protocol fixes; "" for each where it is not defined here."""
    try:
        found = definitions.load(protocol)
    except (errors.UserError, ValueError):
        return "", ""
    return found.dataset, found.architecture


def board_of(protocol: str) -> Board:
    """The board's settings, from the protocol or else from what was published with it.

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
    """The registry's entries by id; an attack and a defense may share one."""
    from benchmark.entries.registry import Registry

    found: dict[str, list[Any]] = {}
    for entry in Registry(places.submissions(), places.baselines()).entries.values():
        found.setdefault(entry.id, []).append(entry)
    return found


def newest(records: Records, least: Trust = "self-reported") -> Records:
    """One result a scenario, the last to finish; versions of the protocol and splits stay apart.

    Rows that are trusted less than `least` give way to those that are not. A row that was reproduced keeps
    its mark when the same scenario (the same key) gives the same numbers once more. Where the same scoring is
    there twice, published and from MLflow, the column `twin` has the other's row.
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
    level = indices(frame.trust, TRUST)
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
    found = records if len(chosen) == len(records) else records.take(chosen)
    return Records(found.table.append_column("twin", pa.array(_twins(frame, scenario)[chosen])), found.read)


def _twins(frame: pd.DataFrame, scenario: NDArray[np.int64]) -> NDArray[np.object_]:
    """The column `row` of another row of the same scenario, key and time; None where there is none."""
    found = np.full(len(frame), None, object)
    same = pd.DataFrame({"scenario": scenario, "key": frame.key, "finished": frame.finished})
    several = same[same.duplicated(keep=False)].sort_values(["scenario", "key", "finished"], kind="stable")
    group, rows = (
        several.groupby(["scenario", "key", "finished"], sort=False).ngroup().to_numpy(),
        frame.row.to_numpy()[several.index],
    )
    first = np.append(True, np.diff(group) != 0) if len(group) else np.empty(0, bool)
    found[several.index] = np.where(first, np.roll(rows, -1), np.roll(rows, 1))
    return found


def editions(results: Iterable[Result]) -> dict[str, Records]:
    """Results that may share a table, under a name each, the one with the newest result first."""
    records = results if isinstance(results, Records) else Records.of(results)
    found: dict[str, Records] = {}
    groups = records.groups("split", "protocol_digest")
    for (split, digest), rows in sorted(groups.items(), key=lambda pair: -max(pair[1].values("finished"))):
        name = f"{split} split, version {digest[:8]}"
        found[f"{split} split, version {digest}" if name in found else name] = rows
    return found


# --- The source of a protocol's results -------------------------------------------------------------


class Source:
    """The results of one protocol: a table kept in a file, brought up to date by increments."""

    def __init__(
        self, protocol: str, folder: Path | None, fetch: Fetch, gone: Gone | None = None, path: Path | None = None,
        tracking: str = "", every: float = 0,
    ) -> None:  # fmt: skip
        """folder: of all published protocols; None: wherever the board lies (`places.board`). path: of the table's file, which says which MLflow (`tracking`) it is of.

        every: seconds that pass, at least, before MLflow is asked again. What is in the file is there at once.
        """
        self.protocol = protocol
        self._folder, self._fetch, self._gone, self._path, self._every = folder, fetch, gone, path, every
        self._lock, self._messages = threading.Lock(), dict[str, str]()
        self._table = Table(Notes(protocol, tracking))
        self._look_at = self._check_at = self._looked_back = self._written = -math.inf
        """When MLflow is asked again for new runs, and for deleted ones; when it was asked for late ones; the last write."""
        self._held: set[int] | None = None
        self._failed: dict[str, tuple[list[int], str]] = {}
        self._unwritten, self._turn, self._opened = 0, 0, time.monotonic()
        self.results = self._rows = Records.of([])
        self._at: dict[Trust, Records] = {}
        if path is not None:
            self._open(path)

    @property
    def message(self) -> str:
        """What went wrong in the last look, in one line; "" where all is well."""
        return "; ".join(self._messages.values())

    def refresh(self) -> bool:
        """Look for news; whether there were any. What goes wrong is told in `message`."""
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
                        break  # who does not answer is not asked again
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
        """`results` for a visitor who ranks what is trusted so much: a newer row that is not hides none that is."""
        if least == least_trust():
            return self.results
        if least not in self._at:
            self._at[least] = newest(self._rows, least)
        return self._at[least]

    def _write(self) -> None:
        """Keep the table in its file: at once if much has come, else now and then."""
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
            self._choose()  # what was at hand lies in the file now, and need not be held
        self._unwritten = 0

    def _read(self, origin: str, folder: Path) -> None:
        """The published rows, if their files have changed."""
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
        """Say so where what is published was scored under another version of the protocol."""
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
        """What the protocol measures, as a digest; "" where it is not defined here."""
        try:
            return definitions.load(self.protocol).measures
        except errors.UserError:
            return ""

    def _look(self) -> None:
        """Take in what ended in MLflow since the last look."""
        now, notes = time.monotonic(), self._table.notes
        self._look_at = now + self._every
        held = self._runs()
        since, started = None, time.time()
        if held and notes.looked is not None:
            # A clock that once ran ahead must not hide what came after it was set back.
            late = now > self._looked_back + CHECK_SECONDS
            since = int((min(notes.looked, started) - (OVERLAP_SECONDS if late else NEAR_SECONDS)) * 1000)
            self._looked_back = now if late else self._looked_back
        left = iter(self._fetch(self.protocol, since))
        while page := list(islice(left, PAGE)):
            news = [readable(r) for r in page if r.protocol == self.protocol and hash(_run(r)) not in held]
            if runs := {run for run, *_ in map(_run, news) if run}:
                self._drop(runs)  # those that were here, and have changed
            self._unwritten += self._table.add("mlflow", news)
            held.update(hash(_run(r)) for r in news)
        notes.looked = started

    def _runs(self) -> set[int]:
        """Hashes of the run, key and time of each row of MLflow's."""
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
        """Reconcile what was deleted in MLflow: all that is marked so, and, a few at a time, what is gone for good."""
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
        if asked and lost == asked:  # another database, or none
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
    """When a file was changed and its size; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return [0, 0]
    return [found.st_mtime_ns, found.st_size]


def tracking_uri() -> str:
    """The MLflow of this process, as `benchmark.run.tracking.uri` has it."""
    return places.tracking()


def tracking_id() -> str:
    """What stands in a table's file for the MLflow that it is of, whose address may hold a password.

    It stays when the project is moved, with its tables; a folder of tables elsewhere may hold those of many projects.
    """
    named = tracking_uri() if os.environ.get("LEAKBOARD_TABLES") else places.lasting(tracking_uri())
    return hashlib.sha256(named.encode()).hexdigest()


def table_path(protocol: str) -> Path:
    """The file of a protocol's table: beside a local database, else in mlruns/; LEAKBOARD_TABLES names a folder."""
    database = sqlite_file(tracking_uri())
    local = database.parent if database else places.mlruns()
    folder = Path(os.environ.get("LEAKBOARD_TABLES") or local / "tables")
    return folder / f"{protocol}-{tracking_id()[:8]}.parquet"


@functools.cache
def source(protocol: str) -> Source:
    """The one source of a protocol in this process, read when it is first asked for."""
    found = Source(protocol, None, _fetch, _gone, table_path(protocol), tracking_id(), LOOK_SECONDS)
    found.refresh()
    return found


def _fetch(protocol: str, since_ms: int | None) -> Iterable[Result]:
    try:
        from benchmark.run.tracking import results_since
    except ImportError as error:
        raise ConnectionError(f"MLflow is not available: {error}") from None
    return results_since(protocol, since_ms)


def _gone(protocol: str, held: set[str]) -> tuple[set[str], set[str]]:
    from benchmark.run.tracking import gone_runs

    return gone_runs(protocol, held)
