"""A Parquet file that others wrote, held to bounds before any of it is decompressed, and read a row group at a time.

What a file takes when it is read stands in three places, and each may lie: in the footer (rows, row groups, columns,
bytes), in the header of every page, and in the pages. Arrow believes a page's header, and a page that is larger than
its header says is an error there; so the headers are read here first, and their sums are what is bounded. Texts stay
dictionaries until their lengths are known: a row that repeats a text costs nothing in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LARGEST = 256 << 20
"""Bytes of a file. A hundred thousand records of ours are about 50 MB."""
FOOTER = 1 << 20
"""Bytes of its footer."""
GROUP = 64 << 20
"""Bytes of a row group, decompressed. Ours hold 2,000 rows, 5 MB."""
ITEMS = 1500
"""Items of any list in the footer: nested columns would nest Arrow's calls."""
FREE, RATIO = 4 << 20, 40
"""Bytes that any file may become, and how many more for each of its own: ours become six times as large."""
FREE_ROWS, ROW = 1000, 20
"""Rows that any file may have, and how many of its bytes each further one takes at least: the digest in its key."""

_NAMES = b"ARROW:schema"  # would let the file choose the types that Arrow reads it as, beyond what Parquet says
_PHYSICAL = {"string": "BYTE_ARRAY", "int64": "INT64", "double": "DOUBLE", "bool": "BOOLEAN"}
_CODECS = ("UNCOMPRESSED", "SNAPPY", "ZSTD")
_ENCODINGS = (0, 2, 3, 8)
"""parquet.thrift, Encoding: plain, dictionary; in pages of data also run lengths, of levels and truths, and dictionary by its newer name."""
_RLE = 3
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2  # parquet.thrift: PageType


def groups(
    data: bytes, columns: Mapping[str, pa.DataType], only: Sequence[str] | None = None
) -> Iterator[dict[str, list[Any]]]:
    """Each row group as lists by column, all of one length; `only` these columns, those that are there.

    columns: the names that the file may have, each with one of string, int64, float64 and bool. Raises ValueError, in one line, for
    anything else and for whatever is too large; also in the midst of reading.
    """
    try:
        file = _opened(data, columns)
        left = FREE + RATIO * len(data)
        for i in range(file.metadata.num_row_groups):
            left -= _walk(data, file.metadata.row_group(i), left)
        left = FREE + RATIO * len(data)
        for i in range(file.metadata.num_row_groups):
            table = file.read_row_group(i, only, use_threads=False)
            left -= sum(_length(c) for column in table.columns for c in column.chunks)
            if left < 0:
                raise ValueError(f"its texts are longer than {RATIO} times the file: expected fewer")
            found = {name: _values(column) for name, column in zip(table.column_names, table.columns, strict=True)}
            if {*map(len, found.values())} != {file.metadata.row_group(i).num_rows}:
                raise ValueError("its columns have not as many rows as it says")
            yield found
    except (pa.ArrowException, OSError, OverflowError, IndexError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _opened(data: bytes, columns: Mapping[str, pa.DataType]) -> pq.ParquetFile:
    """The file, once its footer holds what it may."""
    size = int.from_bytes(data[-8:-4], "little")
    if data[:4] != b"PAR1" or data[-4:] != b"PAR1":
        raise ValueError("expected a Parquet file, given something else")
    if not 0 < size <= min(FOOTER, len(data) - 12):
        raise ValueError(f"expected a footer of at most {min(FOOTER, len(data) - 12)} bytes, given {size}")
    start = len(data) - 8 - size
    source = pa.BufferReader(data[:start] + data[start:].replace(_NAMES, bytes(len(_NAMES))))
    metadata = pq.ParquetFile(source, thrift_string_size_limit=FOOTER, thrift_container_size_limit=ITEMS).metadata
    if not (metadata.created_by or "").startswith("parquet-cpp-arrow "):
        raise ValueError(f"expected a file that Arrow wrote, given one of {metadata.created_by!r:.60}")
    if not 0 <= metadata.num_rows <= FREE_ROWS + len(data) // ROW:
        most = FREE_ROWS + len(data) // ROW
        raise ValueError(f"expected at most {most} rows in {len(data)} bytes, given {metadata.num_rows}")
    if metadata.num_row_groups > FREE_ROWS:
        raise ValueError(f"expected at most {FREE_ROWS} row groups, given {metadata.num_row_groups}")
    for i in range(metadata.num_columns):
        _check_column(metadata.schema.column(i), columns)
    names = {metadata.schema.column(i).path for i in range(metadata.num_columns)}
    if len(names) < metadata.num_columns:
        raise ValueError("a column is there twice")
    texts = [name for name in names if columns[name] == pa.string()]
    source.seek(0)
    return pq.ParquetFile(
        source, read_dictionary=texts, pre_buffer=False, arrow_extensions_enabled=False,
        thrift_string_size_limit=FOOTER, thrift_container_size_limit=ITEMS,
    )  # fmt: skip


def _check_column(column: Any, columns: Mapping[str, pa.DataType]) -> None:
    kind = columns.get(column.path)
    if kind is None:
        raise ValueError(f"expected columns that this version knows, given {ascii(column.path)[:60]}")
    logical = "STRING" if kind == pa.string() else "NONE"
    given = (column.physical_type, column.logical_type.type, column.max_repetition_level)
    if given != (_PHYSICAL[str(kind)], logical, 0) or column.max_definition_level > 1:
        raise ValueError(
            f"{column.path}: expected {kind}, given {given[0]} ({given[1].lower()}), {given[2]} times nested"
        )


def _walk(data: bytes, group: Any, most: int) -> int:
    """The bytes that a row group becomes, by the headers of its pages. Raises ValueError where they are more than they may be."""
    total, most = 0, min(most, GROUP)
    for i in range(group.num_columns):
        chunk = group.column(i)
        if chunk.compression not in _CODECS or chunk.file_path:
            raise ValueError(f"{chunk.path_in_schema}: expected one of {', '.join(_CODECS)}, given {chunk.compression}")
        at = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
            at = chunk.dictionary_page_offset
        first, end, values = at, at + chunk.total_compressed_size, 0
        if not 4 <= at <= end <= len(data) - 12:
            raise ValueError(f"{chunk.path_in_schema}: expected pages inside the file, given bytes {at} to {end}")
        while at < end and values <= group.num_rows:
            page = _page(data, at, end)
            total += page.size
            if total > most:
                raise ValueError(f"a row group is larger than {most} bytes once it is decompressed: expected less")
            # What has a dictionary begins with it, and a text takes 4 bytes at least: Arrow makes room for as many as it says.
            if not (page.held > 0 if page.is_data else at == first and page.held * 4 <= page.size):
                raise ValueError(f"{chunk.path_in_schema}: expected pages of data, given one of {page.held} values")
            if page.encoding not in (_ENCODINGS if page.is_data else _ENCODINGS[:2]) or page.levels not in (None, _RLE):
                raise ValueError(
                    f"{chunk.path_in_schema}: expected plain values or a dictionary, given encoding {page.encoding}"
                )
            values += page.held * page.is_data
            at = page.begins + page.packed
        if at != end or values != group.num_rows or chunk.num_values != group.num_rows:
            raise ValueError(f"{chunk.path_in_schema}: expected {group.num_rows} values, given {values}")
    return total


class _Page(NamedTuple):
    is_data: bool
    size: int
    packed: int
    held: int
    encoding: int
    levels: object
    begins: int


def _page(data: bytes, at: int, end: int) -> _Page:
    """What the header of a page says (parquet.thrift: PageHeader), which lies before it."""
    header, begins = _struct(data, at, end, 3)
    kind = header.get(1)
    inner = header.get(5 if kind == _DATA_PAGE else 7)
    if isinstance(inner, dict) and kind in (_DATA_PAGE, _DICTIONARY_PAGE):
        numbers: list[Any] = [header.get(2), header.get(3), inner.get(1), inner.get(2)]
        if all(type(n) is int and 0 <= n < 2**31 for n in numbers) and begins + numbers[1] <= end:
            size, packed, count, encoding = numbers
            is_data = kind == _DATA_PAGE
            return _Page(is_data, size, packed, count, encoding, inner.get(3) if is_data else None, begins)
    raise ValueError("expected pages of data and of dictionaries, given another header of a page")


def _struct(data: bytes, at: int, end: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol by field: truths, integers, bytes, and structs in it; and where it ends.

    Stricter than Arrow, which skips what it does not know: fields rise, and none is there twice.
    """
    found: dict[int, Any] = {}
    field = 0
    while True:
        if at >= end:
            raise ValueError("a header of a page has no end")
        step, kind = data[at] >> 4, data[at] & 15
        at += 1
        if kind == 0:
            return found, at
        if not step:
            raise ValueError("a header of a page has unknown fields")
        field += step
        if kind in (1, 2):
            found[field] = kind == 1
        elif kind in (4, 5, 6):  # i16, i32 and i64 are written alike
            number, at = _varint(data, at, end)
            found[field] = (number >> 1) ^ -(number & 1)
        elif kind == 8:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError("a header of a page has no end")
            at += length
        elif kind == 12 and depth:
            found[field], at = _struct(data, at, end, depth - 1)
        else:
            raise ValueError("a header of a page has unknown fields")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise ValueError("a header of a page has a number without end")


def _length(chunk: pa.Array) -> int:
    """Bytes of a column's texts, each as often as rows have it."""
    if not isinstance(chunk, pa.DictionaryArray):
        return 8 * len(chunk)
    lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False)
    at = pc.drop_null(chunk.indices).to_numpy()
    return int(lengths.astype(np.int64)[at].sum()) if len(at) else 0


def _values(column: pa.ChunkedArray) -> list[Any]:
    found: list[Any] = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            texts = [*chunk.dictionary.to_pylist(), None]
            found += [texts[i] for i in pc.fill_null(chunk.indices, len(texts) - 1).to_pylist()]
        else:
            found += chunk.to_pylist()
    return found
