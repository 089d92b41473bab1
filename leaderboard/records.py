"""Results as columns, from which tables are computed. A whole record is read only where a field needs it."""

from __future__ import annotations

import functools
import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, cast, overload

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from benchmark.metrics import BY_TARGET, METRICS
from benchmark.result import Result

CATEGORIES = ("protocol", "protocol_digest", "task", "attack", "defense", "dataset", "architecture", "status", "reason",
       "access", "knowledge", "track", "trust", "isolation", "split")  # fmt: skip
"""Texts with few different values, kept as dictionaries."""
NUMBERS = tuple(dict.fromkeys(("seconds", "queries", "train_seconds", "members", "nonmembers", *METRICS)))
"""Costs and metrics that tables show; NaN where a record has none."""
LISTS = ("null_auc", "null_tpr", *(f"values_{name}" for name in BY_TARGET))
"""Lists: a metric under permuted labels, and metrics for each target."""
RUN_FIELDS = ("run_id", "experiment_id")
"""Fields of the provenance that name the record's run in MLflow; "" without a run."""

Floats = NDArray[np.float64]
_text = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [("key", pa.string()), ("seed", pa.int64()), ("null_row", pa.bool_()), ("finished", pa.float64())]
    + [(name, _text) for name in CATEGORIES]
    + [(name, pa.float64()) for name in NUMBERS]
    + [(name, pa.list_(pa.float64())) for name in LISTS]
    + [("claims", _text), ("numbers", pa.string())]  # JSON; a digest of all metrics
    + [("run_id", pa.string()), ("experiment_id", _text)]
)
_PLAIN = {"key", "seed", "null_row", "finished", *CATEGORIES} - {"split"}
"""The fields of a `Result` that are columns unchanged."""


def split_of(result: Result) -> str:
    """Official rows lie on a secret split, all others on the public one (RULES 26)."""
    return "official" if result.trust == "official" else "public"


def columns(results: Sequence[Result]) -> pa.Table:
    """The columns (SCHEMA) of these results, one row each. Texts should be readable already (`ranking.readable`)."""
    values: dict[str, list[Any]] = {name: [getattr(r, name) for r in results] for name in _PLAIN}
    values["split"] = [split_of(r) for r in results]
    for name in NUMBERS:
        values[name] = [r.metrics.get(name, r.cost.get(name)) for r in results]
    for name in LISTS:
        metric = name.removeprefix("values_")
        values[name] = [getattr(r, name) if name == metric else r.values.get(metric, ()) for r in results]
    values["claims"] = [to_json(r.claims).decode() for r in results]
    values["numbers"] = [hashlib.sha256(to_json(sorted(r.metrics.items()))).hexdigest()[:16] for r in results]
    for name in RUN_FIELDS:
        values[name] = [r.provenance.get(name, "") for r in results]
    return pa.table({f.name: pa.array(values[f.name], _plain_type(f.type)) for f in SCHEMA}).cast(SCHEMA)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


class Row:
    """One result of `Records`, with the fields of a `Result`. A field that is no column reads the whole record."""

    __slots__ = ("_opened", "_place", "_records")

    def __init__(self, records: Records, place: int) -> None:
        self._records, self._place = records, place
        self._opened: Result | None = None

    def __getattr__(self, name: str) -> Any:
        if name in _PLAIN:
            return self._records.values(name)[self._place]
        if name == "claims":
            return from_json(self._records.values(name)[self._place])
        if name.startswith("__"):  # numpy and others look for special methods; that need not read the record
            raise AttributeError(name)
        if self._opened is None:
            self._opened = self._records.open(self._place)
        return getattr(self._opened, name)

    def __eq__(self, other: object) -> bool:
        return bool(self.model_copy() == (other.model_copy() if isinstance(other, Row) else other))

    __hash__ = None  # type: ignore[assignment]


class Records(Sequence[Result]):
    """A sequence of results in columns; objects are made only for those that are accessed.

    table: SCHEMA and the column `row`. read(i): the whole record of the row with number i in that column.
    """

    def __init__(self, table: pa.Table, read: Callable[[int], Result]) -> None:
        self.table, self.read = table, read
        self._values: dict[str, list[Any]] = {}
        self._groups: dict[tuple[str, ...], dict[tuple[Any, ...], Records]] = {}

    @classmethod
    def of(cls, results: Iterable[Result]) -> Records:
        """Records of results in memory."""
        rows = list(results)
        return cls(numbered(columns(rows)), rows.__getitem__)

    def take(self, places: NDArray[np.intp]) -> Records:
        """The results at these positions, in this order."""
        return Records(self.table.take(pa.array(places)), self.read)

    def values(self, name: str) -> list[Any]:
        """One column as a list."""
        if name not in self._values:
            column = self.table[name].combine_chunks()
            if pa.types.is_dictionary(column.type):
                kinds = np.array(column.dictionary.to_pylist(), dtype=object)
                self._values[name] = kinds[column.indices.to_numpy()].tolist() if len(column) else []
            else:
                self._values[name] = column.to_pylist()
        return self._values[name]

    def lists(self, name: str) -> tuple[Floats, NDArray[np.int64]]:
        """A column of n lists: all values one after another (v,), and where each starts, then the last end (n + 1,)."""
        column = self.table[name].combine_chunks()
        return column.values.to_numpy(), np.asarray(column.offsets.to_numpy(), np.int64)

    def open(self, place: int) -> Result:
        """The whole record at this position.

        Where one scoring is there twice (column `twin`), the published record adds pictures and MLflow's record the
        run.
        """
        result = self.read(self.values("row")[place])
        if "twin" not in self.table.column_names or (twin := self.values("twin")[place]) is None:
            return result
        other = self.read(twin)
        where = {name: other.provenance[name] for name in RUN_FIELDS if name in other.provenance}
        more: dict[str, object] = {"provenance": where | result.provenance}
        return result.model_copy(update=more | ({} if result.pictures else {"pictures": other.pictures}))

    def distinct(self, *names: str) -> set[tuple[Any, ...]]:
        """The distinct combinations of values of these columns."""
        table = self.table.select(names).group_by(list(names)).aggregate([])
        return set(zip(*(table[name].to_pylist() for name in names), strict=True))

    def groups(self, *names: str) -> dict[tuple[Any, ...], Records]:
        """The results grouped by the values of these columns."""
        if names not in self._groups:
            frame = self.table.select(names).to_pandas()
            groups = frame.groupby(list(names), observed=True).indices.items()
            self._groups[names] = {tuple(k): self if len(groups) == 1 else self.take(places) for k, places in groups}
        return self._groups[names]

    @functools.cached_property
    def version(self) -> str:
        """A digest that changes with the results, and with the trust, claims and isolation of any."""
        digest = hashlib.sha256()
        for name in ("key", "finished", "trust", "isolation", "claims"):
            series = self.table[name].combine_chunks().to_pandas()
            digest.update(pd.util.hash_pandas_object(series, index=False).to_numpy().tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """The columns that tables are computed from, and in the column `result` the rows themselves.

        Lists are left out (see `lists`): as objects they would take half of all memory.
        """
        names = ["task", "attack", "defense", "seed", "status", "reason", "track", "null_row", "trust", "isolation"]
        names += [*NUMBERS, "claims"]
        frame: pd.DataFrame = self.table.select(names).to_pandas()
        collects = gc.isenabled()
        gc.disable()  # each collection would visit all objects, and so many new ones would start it again and again
        try:
            return frame.assign(result=np.fromiter(iter(self), object, len(self)))
        finally:
            if collects:
                gc.enable()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, place: int) -> Result: ...

    @overload
    def __getitem__(self, place: slice) -> Records: ...

    def __getitem__(self, place: int | slice) -> Result | Records:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        return cast(Result, Row(self, range(len(self))[place]))

    def __iter__(self) -> Iterator[Result]:
        return cast(Iterator[Result], map(Row, repeat(self), range(len(self))))


def lists(rows: pd.Series[Any], name: str) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """A column of lists of n rows of one `Records` (`frame.result`): all values (v,), starts (n,) and lengths (n,)."""
    if rows.empty:
        return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    values, starts = rows.iloc[0]._records.lists(name)
    at = np.fromiter((r._place for r in rows), np.intp, len(rows))
    return values, starts[at], starts[at + 1] - starts[at]


def positions(column: pd.Series[Any], names: Iterable[Any]) -> NDArray[np.intp]:
    """The index of each value (n,) among the names; -1 for a value that is none of them."""
    index = pd.Index(list(names))
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(np.append(index.get_indexer(column.cat.categories), -1)[column.cat.codes], np.intp)
    return np.asarray(index.get_indexer(pd.Index(column)), np.intp)


def numbered(table: pa.Table, first: int = 0) -> pa.Table:
    """The table with row numbers, from `first` on, in the column `row`."""
    return table.append_column("row", pa.array(np.arange(first, first + table.num_rows)))
