"""The local table: one Parquet file with all that was published of a protocol and all that MLflow has of it.

It is a copy, made so that the app opens without asking anybody: it may be deleted at any time. A write replaces the
file in one step, so a killed one changes nothing; pages carry checksums, so a damaged file is told from a whole one.
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
from leaderboard.records import FEW, SCHEMA, Records, columns, numbered

GROUP = 2000
"""Rows that are read at once where one record is opened."""
_NOTES = b"leakboard"
_CHUNKS = 50
"""A look that brings news adds a chunk; so many are made one, which copies them all."""
_STALE_SECONDS = 3600
"""What a killed write has left is removed after this time."""


@dataclass
class Notes:
    """What the table knows of where its rows come from."""

    protocol: str
    tracking: str
    """The MLflow that was asked."""
    published: dict[str, list[int]] = field(default_factory=dict)
    """What the files of each published folder looked like when they were read."""
    looked: float | None = None
    """When MLflow was last asked, in seconds since 1970: all that ended before is here."""
    deleted: list[str] = field(default_factory=list)
    """Runs that are here, but marked as deleted in MLflow: they may be restored."""


class Table:
    """Rows by where they come from ("" and "official": published; "mlflow"), in memory and in the file.

    Only columns are kept in memory: a record stays JSON in the file until it is opened.
    """

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.parts: dict[str, pa.Table] = {}
        self._texts = _Texts(None)

    @property
    def rows(self) -> Records:
        """All rows: published ones first, then those of MLflow in the order in which they came."""
        texts = self._texts
        parts = [self.parts[name] for name in sorted(self.parts, key=lambda name: (name == "mlflow", name))]
        table = pa.concat_tables(parts or [_EMPTY]).unify_dictionaries()
        return Records(table, lambda row: Result.model_validate_json(texts[row]))  # checked when it came

    def add(self, origin: str, results: Iterable[Result], replace: bool = False) -> int:
        """Add rows; their number. `replace`: instead of those of this origin. What no table can hold is left out."""
        found, left = [] if replace or origin not in self.parts else [self.parts[origin]], iter(results)
        before = sum(int(part.num_rows) for part in found)
        while batch := list(islice(left, GROUP)):
            fits = [r for r in batch if -(2**63) <= r.seed < 2**63]
            found.append(numbered(columns(fits), self._texts.add(to_json(r).decode() for r in fits)))
        table = pa.concat_tables(found or [_EMPTY]).unify_dictionaries()
        self.parts[origin] = table if table["key"].num_chunks < _CHUNKS else table.combine_chunks()
        return sum(int(part.num_rows) for part in found) - before

    def keep(self, origin: str, kept: NDArray[np.bool_]) -> None:
        """Drop the rows of an origin that are not `kept`."""
        self.parts[origin] = self.parts[origin].filter(pa.array(kept))

    def write(self, path: Path) -> None:
        """Replace the file. Raises OSError where that can't be done; the table stays as it is."""
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
            texts = _Texts(pq.ParquetFile(pa.OSFile(str(temporary)), **_CHECKED))  # this file, whoever replaces it next
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
            use_dictionary=[*FEW, "claims", "experiment_id", "origin"], write_page_checksum=True,
        )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Table | None:
        """The table of a file; None where there is none, or it was written by another version of this program.

        Raises ValueError, in one line, where the file is damaged, and FileExistsError where it is none of ours.
        """
        if not path.exists():
            return None
        try:
            opened = pa.OSFile(str(path))  # once: another process may replace the file meanwhile
            file = pq.ParquetFile(opened, **_CHECKED)
            said = (file.schema_arrow.metadata or {}).get(_NOTES, b"").decode()
        except Exception as error:  # damaged files raise many kinds
            raise ValueError(_line(path, error)) from None
        if not said:
            raise FileExistsError(
                f"{path} is a Parquet file, but none of leakboard's: it is left alone, nothing is kept"
            )
        try:
            digest, _, text = said.partition(" ")
            notes = json.loads(text)
            if digest != hashlib.sha256(text.encode()).hexdigest():
                raise ValueError("its notes were changed")
            if notes.pop("format") != _FORMAT:
                return None
            table = cls(Notes(**notes))
            table._texts = _Texts(file)
            with ThreadPoolExecutor(1) as beside:
                checked = beside.submit(table._texts.check)
                # A reader of its own: what it reads ahead stays as long as it does.
                ahead = pq.ParquetFile(opened, **_CHECKED, pre_buffer=True)
                whole = ahead.read([*SCHEMA.names, "origin"]).unify_dictionaries().combine_chunks()
                checked.result()
            if whole.num_rows != len(table._texts) or whole.schema.remove_metadata() != _COLUMNS:
                raise ValueError("its columns were changed")
        except Exception as error:
            raise ValueError(_line(path, error)) from None
        origins, whole = whole["origin"].combine_chunks(), numbered(whole.drop(["origin"]))
        for i, origin in enumerate(origins.dictionary.to_pylist()):  # they lie one after another
            mine = np.flatnonzero(origins.indices.to_numpy() == i)
            table.parts[origin] = whole.slice(mine[0], len(mine))
        return table


class _Texts:
    """Records as JSON by row: those of a file, then those that came since."""

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
        """The row of the first one."""
        first = len(self)
        self._more.extend(texts)
        return first

    def take(self, rows: NDArray[np.int64]) -> pa.Array:
        """Those of rows in rising order."""
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
        """Raises what Arrow raises where a page is damaged."""
        for group in range(len(self._starts) - 1):
            self._read(group)


def _line(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{path} was damaged or half written ({reason}): it is made anew"


_CHECKED = {"page_checksum_verification": True, "memory_map": False}
_COLUMNS = pa.schema([*SCHEMA, pa.field("origin", pa.dictionary(pa.int32(), pa.string()))])
_FILE = _COLUMNS.append(pa.field("record", pa.string()))
_FORMAT = hashlib.sha256(f"{_FILE} {sorted(Result.model_fields)} {list(METRICS.values())}".encode()).hexdigest()[:16]
"""Another program version may know other columns, other fields of a record, or other bounds of a metric."""
_EMPTY = numbered(columns([]))
