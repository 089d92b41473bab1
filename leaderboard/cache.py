"""The app's cache of a protocol: one Parquet file with all published rows and all rows in MLflow.

It is a copy, from which the app opens without querying MLflow; it may be deleted at any time. A write replaces the file
in one step, so a killed write changes nothing. Pages carry checksums, so damage is noticed.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic_core import to_json

from benchmark.metrics import METRICS
from benchmark.result import Result
from leaderboard.records import CATEGORIES, SCHEMA, Records, columns, numbered

GROUP = 2000
"""Rows of a row group: opening one record reads so many."""
_NOTES = b"leakboard"
"""Key of the file's metadata that holds the `Notes`."""
_CHUNKS = 50
"""Each update adds a chunk; at so many chunks they are copied into one."""
_STALE_SECONDS = 3600
"""Age at which the temporary file of a killed write is removed."""


@dataclass
class Notes:
    """Where the table's rows come from. Stored in the file's metadata under these names."""

    protocol: str
    tracking: str
    """Identifies the MLflow that the rows come from."""
    published: dict[str, list[int]] = field(default_factory=dict)
    """Times of change and sizes of the published files when they were read, by origin."""
    looked: float | None = None
    """When MLflow was last queried, in seconds since 1970: all runs that ended before are in the table."""
    deleted: list[str] = field(default_factory=list)
    """Runs in the table that are marked as deleted in MLflow. Their rows stay, for a run may be restored."""


class Table:
    """Rows by origin ("" and "official": published; "mlflow"), in memory and in the file.

    Only columns are in memory; the whole records stay in the file as JSON until they are opened.
    """

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.parts: dict[str, pa.Table] = {}
        self._texts = _Texts(None)

    @property
    def rows(self) -> Records:
        """All rows: published ones first, then those of MLflow in the order of arrival."""
        texts = self._texts
        parts = [self.parts[name] for name in sorted(self.parts, key=lambda name: (name == "mlflow", name))]
        table = pa.concat_tables(parts or [_EMPTY]).unify_dictionaries()
        return Records(table, lambda row: Result.model_validate_json(texts[row]))  # validated when it was added

    def add(self, origin: str, results: Iterable[Result], replace: bool = False) -> int:
        """Add rows of an origin, or `replace` them; returns how many. Rows with a seed beyond 64 bits are left out."""
        tables, left = [] if replace or origin not in self.parts else [self.parts[origin]], iter(results)
        before = sum(int(part.num_rows) for part in tables)
        while batch := list(islice(left, GROUP)):
            fits = [r for r in batch if -(2**63) <= r.seed < 2**63]
            tables.append(numbered(columns(fits), self._texts.add(to_json(r).decode() for r in fits)))
        table = pa.concat_tables(tables or [_EMPTY]).unify_dictionaries()
        self.parts[origin] = table if table["key"].num_chunks < _CHUNKS else table.combine_chunks()
        return sum(int(part.num_rows) for part in tables) - before

    def keep(self, origin: str, kept: NDArray[np.bool_]) -> None:
        """Drop the rows of an origin where `kept` (n,) is False."""
        self.parts[origin] = self.parts[origin].filter(pa.array(kept))

    def write(self, path: Path) -> None:
        """Write the table to its file in one step. Raises OSError where that fails; the table is unchanged then."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink(missing_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb") as file, self._writer(file) as writer:
                for origin, part in self.parts.items():
                    for start in range(0, part.num_rows, GROUP):
                        piece = part.slice(start, GROUP)
                        texts = self._texts.take(piece["row"].to_numpy())
                        names = pa.array([origin] * piece.num_rows).dictionary_encode()
                        piece = piece.drop(["row"]).append_column("origin", names).append_column("record", texts)
                        writer.write_table(piece.cast(_FILE), GROUP)
            # Opened before the rename: another process may replace the file right after it.
            texts = _Texts(pq.ParquetFile(pa.OSFile(str(temporary)), **_CHECKED))
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._texts = texts
        first = 0
        for origin, part in self.parts.items():
            self.parts[origin] = numbered(part.drop(["row"]), first)
            first += part.num_rows

    def _writer(self, file: object) -> pq.ParquetWriter:
        text = json.dumps(asdict(self.notes) | {"format": _FORMAT})
        notes = {_NOTES: f"{hashlib.sha256(text.encode()).hexdigest()} {text}"}
        return pq.ParquetWriter(
            file, _FILE.with_metadata(notes), compression="lz4", write_statistics=False,
            use_dictionary=[*CATEGORIES, "claims", "experiment_id", "origin"], write_page_checksum=True,
        )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Table | None:
        """The table in a file; None without a file, or with one that another version of this program wrote.

        Raises ValueError, in one line, where the file is damaged, and FileExistsError for a Parquet file of another
        program.
        """
        if not path.exists():
            return None
        try:
            opened = pa.OSFile(str(path))  # opened once: another process may replace the file meanwhile
            file = pq.ParquetFile(opened, **_CHECKED)
            stamp = (file.schema_arrow.metadata or {}).get(_NOTES, b"").decode()
        except Exception as error:  # damaged files raise many kinds
            raise ValueError(_line(path, error)) from None
        if not stamp:
            raise FileExistsError(
                f"{path} is a Parquet file, but none of leakboard's: it is left alone, nothing is kept"
            )
        try:
            digest, _, text = stamp.partition(" ")
            notes = json.loads(text)
            if digest != hashlib.sha256(text.encode()).hexdigest():
                raise ValueError("its notes were changed")
            if notes.pop("format") != _FORMAT:
                return None
            table = cls(Notes(**notes))
            table._texts = _Texts(file)
            with ThreadPoolExecutor(1) as beside:
                checked = beside.submit(table._texts.check)
                # A reader of its own, because buffers that are read ahead live as long as their reader.
                ahead = pq.ParquetFile(opened, **_CHECKED, pre_buffer=True)
                whole = ahead.read([*SCHEMA.names, "origin"]).unify_dictionaries().combine_chunks()
                checked.result()
            if whole.num_rows != len(table._texts) or whole.schema.remove_metadata() != _COLUMNS:
                raise ValueError("its columns were changed")
        except Exception as error:
            raise ValueError(_line(path, error)) from None
        origins, whole = whole["origin"].combine_chunks(), numbered(whole.drop(["origin"]))
        for i, origin in enumerate(origins.dictionary.to_pylist()):  # the rows of an origin are adjacent
            mine = np.flatnonzero(origins.indices.to_numpy() == i)
            table.parts[origin] = whole.slice(mine[0], len(mine))
        return table


class _Texts:
    """The records as JSON texts by row number: those in the file, then those added since."""

    def __init__(self, file: pq.ParquetFile | None) -> None:
        self._file, self._lock = file, threading.Lock()
        groups = range(file.metadata.num_row_groups) if file else range(0)
        self._starts = [0, *np.cumsum([file.metadata.row_group(i).num_rows for i in groups]).tolist()] if file else [0]
        self._more: list[str] = []
        self._group = functools.lru_cache(maxsize=16)(self._read)

    def _read(self, group: int) -> pa.Array:
        assert self._file is not None
        with self._lock:
            return self._file.read_row_group(group, ["record"], use_threads=False)["record"].combine_chunks()

    def __len__(self) -> int:
        return self._starts[-1] + len(self._more)

    def __getitem__(self, row: int) -> str:
        if row >= self._starts[-1]:
            return self._more[row - self._starts[-1]]
        group = bisect.bisect_right(self._starts, row) - 1
        return str(self._group(group)[row - self._starts[group]].as_py())

    def add(self, texts: Iterator[str]) -> int:
        """Append texts; returns the row number of the first one."""
        first = len(self)
        self._more.extend(texts)
        return first

    def take(self, rows: NDArray[np.int64]) -> pa.Array:
        """The texts of these rows, whose numbers rise."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        pieces = []
        for group in np.unique(groups).tolist():
            mine = rows[groups == group] - self._starts[group]
            at_hand = group == len(self._starts) - 1
            pieces.append(
                pa.array([self._more[i] for i in mine]) if at_hand else self._read(group).take(pa.array(mine))
            )
        return pa.concat_arrays(pieces)

    def check(self) -> None:
        """Read all texts once. Raises Arrow's error where a page's checksum is wrong."""
        for group in range(len(self._starts) - 1):
            self._read(group)


def _line(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{path} was damaged or half written ({reason}): it is made anew"


_CHECKED = {"page_checksum_verification": True, "memory_map": False}
_COLUMNS = pa.schema([*SCHEMA, pa.field("origin", pa.dictionary(pa.int32(), pa.string()))])
_FILE = _COLUMNS.append(pa.field("record", pa.string()))
_FORMAT = hashlib.sha256(f"{_FILE} {sorted(Result.model_fields)} {list(METRICS.values())}".encode()).hexdigest()[:16]
"""Digest of columns, record fields and metrics: a file that another version wrote is read anew from its sources."""
_EMPTY = numbered(columns([]))
