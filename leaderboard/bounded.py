"""Reads a Parquet file that others wrote within limits: checked before any of it is decompressed, then a row group at a
time.

How much memory a file takes is written in three places, and each may lie: the footer (rows, row groups, columns,
bytes), the header of every page, and the pages. Arrow trusts the page headers, and raises an error if a page is larger
than its header says. So footer and page headers are parsed here first, and their sums are what is limited. Arrow is not
called before, because a footer that contradicts itself crashes the process. Text columns stay dictionaries until their
lengths are known: rows that repeat a text cost nothing in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LARGEST = 256 << 20
"""Most bytes of a file. A hundred thousand records of ours take about 50 MB."""
FOOTER = 1 << 20
"""Most bytes of the footer."""
GROUP = 64 << 20
"""Most bytes of a decompressed row group. Ours hold 2,000 rows, 5 MB."""
ITEMS = 1500
"""Most items of any list in the footer. (A deeply nested schema would exhaust Arrow's call stack.)"""
FREE, RATIO = 4 << 20, 40
"""Bytes that any file may decompress to, plus RATIO for each byte of the file: ours become six times as large."""
FREE_ROWS, ROW = 1000, 20
"""Rows that any file may have, plus one for each ROW bytes of the file: a row has at least the digest in its key."""

_NAMES = b"ARROW:schema"  # metadata by which a file could choose other Arrow types than its Parquet types
# Numbers of parquet.thrift: Type, CompressionCodec, PageType.
_TYPES = {pa.bool_(): 0, pa.int64(): 2, pa.float64(): 5, pa.string(): 6}
_CODECS = {0: "none", 1: "snappy", 6: "zstd"}
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_ENCODINGS = (0, 2, 3, 8)
"""parquet.thrift, Encoding: plain and dictionary; in data pages also run lengths and dictionary by its newer number."""
_RLE = 3
"""Encoding of definition levels: run lengths."""


def groups(
    data: bytes, columns: Mapping[str, pa.DataType], only: Sequence[str] | None = None
) -> Iterator[dict[str, list[Any]]]:
    """Yields each row group: a list of values by column, all of one length.

    columns: the columns that the file may have, each string, int64, float64 or bool. only: read these columns, if the
    file has them. Raises ValueError, in one line, for any other file and for what is too large, also after some groups.
    """
    try:
        start, footer = _footer(data)
        names = _columns(footer, columns)
        sizes = _row_groups(footer, len(data))
        bytes_left = FREE + RATIO * len(data)
        for group in footer[4]:
            bytes_left -= _walk(data, group, names, columns, min(bytes_left, GROUP))
        texts = [name for name in names if columns[name] == pa.string()]
        file = pq.ParquetFile(
            pa.BufferReader(data[:start] + data[start:].replace(_NAMES, bytes(len(_NAMES)))), read_dictionary=texts, pre_buffer=False,
            arrow_extensions_enabled=False, thrift_string_size_limit=FOOTER, thrift_container_size_limit=ITEMS,
        )  # fmt: skip
        bytes_left = FREE + RATIO * len(data)
        for i, size in enumerate(sizes):
            table = file.read_row_group(i, only, use_threads=False)
            bytes_left -= sum(_length(c) for column in table.columns for c in column.chunks)
            if bytes_left < 0:
                raise ValueError(f"its texts are longer than {RATIO} times the file: expected fewer")
            lists = {name: _values(column) for name, column in zip(table.column_names, table.columns, strict=True)}
            if {*map(len, lists.values())} != {size}:
                raise ValueError("its columns have not as many rows as it says")
            yield lists
    except (pa.ArrowException, OSError, OverflowError, IndexError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _footer(data: bytes) -> tuple[int, dict[int, Any]]:
    """Where the footer begins, and its fields by their numbers (parquet.thrift: FileMetaData)."""
    size = int.from_bytes(data[-8:-4], "little")
    if data[:4] != b"PAR1" or data[-4:] != b"PAR1":
        raise ValueError("expected a Parquet file, given something else")
    if not 0 < size <= min(FOOTER, len(data) - 12):
        raise ValueError(f"expected a footer of at most {min(FOOTER, len(data) - 12)} bytes, given {size}")
    start = len(data) - 8 - size
    footer, end = _struct(data, start, len(data) - 8, 8)
    if end != len(data) - 8 or not footer.keys() <= {1, 2, 3, 4, 5, 6, 7}:
        raise ValueError("expected a plain footer, given one with unknown fields")
    made = footer.get(6)
    if not isinstance(made, bytes) or not made.startswith(b"parquet-cpp-arrow "):
        raise ValueError("expected a file that Arrow wrote, given another one")
    return start, footer


def _columns(footer: dict[int, Any], columns: Mapping[str, pa.DataType]) -> list[str]:
    """The names of the file's columns, all of which are known and of their type (parquet.thrift: SchemaElement)."""
    root, *elements = _structs(footer.get(2)) or [{}]
    if root.get(5) != len(elements) or 1 in root:
        raise ValueError("expected columns side by side, given nested ones")
    names = []
    for element in elements:
        name = element[4].decode(errors="replace") if isinstance(element.get(4), bytes) else ""
        kind = columns.get(name)
        if kind is None:
            raise ValueError(f"expected columns that this version knows, given {ascii(name)[:60]}")
        text = element.get(10) == {1: {}} or element.get(6) == 0
        other = element.keys() - ({1, 3, 4, 6, 10} if kind == pa.string() else {1, 3, 4})
        if element.get(1) != _TYPES[kind] or element.get(3) not in (0, 1) or other or (kind == pa.string()) != text:
            raise ValueError(f"{name}: expected {kind}, given a column of another type")
        names.append(name)
    if len({*names}) < len(names):
        raise ValueError("a column is there twice")
    return names


def _row_groups(footer: dict[int, Any], size: int) -> list[int]:
    """The number of rows of each row group; together no more than a file of `size` bytes may have."""
    groups = _structs(footer.get(4))
    rows: list[Any] = [group.get(3) for group in groups]
    most = FREE_ROWS + size // ROW
    if not all(type(n) is int and 0 <= n <= most for n in rows) or not footer.get(3) == sum(rows) <= most:
        raise ValueError(f"expected at most {most} rows in {size} bytes, given {footer.get(3)}")
    return rows


def _walk(data: bytes, group: dict[int, Any], names: list[str], columns: Mapping[str, pa.DataType], most: int) -> int:
    """Decompressed bytes of a row group, by its page headers. Raises ValueError where they are more than `most`."""
    total, rows, chunks = 0, group[3], _structs(group.get(1))
    if len(chunks) != len(names):
        raise ValueError(f"expected {len(names)} columns in each row group, given {len(chunks)}")
    for name, chunk in zip(names, chunks, strict=True):
        # parquet.thrift: ColumnChunk, ColumnMetaData
        meta = chunk.get(3)
        if (
            not isinstance(meta, dict)
            or chunk.keys() & {1, 8, 9}
            or meta.get(3) != [name.encode()]
            or meta.get(1) != _TYPES[columns[name]]
        ):
            raise ValueError(f"{name}: expected a column chunk of it in this file, given another one")
        if meta.get(4) not in [*_CODECS]:
            raise ValueError(f"{name}: expected compression by one of {', '.join(_CODECS.values())}, given another one")
        numbers: list[Any] = [*(meta.get(n) for n in (5, 6, 7, 9)), meta.get(11, 0)]
        if not all(type(n) is int and n >= 0 for n in numbers) or numbers[0] != rows:
            raise ValueError(f"{name}: expected {rows} values, given {numbers[0]}")
        _, _, packed, at, dictionary = numbers
        at = dictionary if 0 < dictionary < at else at
        first, end, values = at, at + packed, 0
        if not 4 <= at <= end <= len(data) - 12:
            raise ValueError(f"{name}: expected pages inside the file, given bytes {at} to {end}")
        while at < end and values <= rows:
            page = _page(data, at, end)
            total += page.size
            if total > most:
                raise ValueError(f"a row group is larger than {most} bytes once it is decompressed: expected less")
            # A dictionary page comes first. Its texts take at least 4 bytes each, and Arrow allocates as many as the
            # header says.
            if not (page.held > 0 if page.is_data else at == first and page.held * 4 <= page.size):
                raise ValueError(f"{name}: expected pages of data, given one of {page.held} values")
            if page.encoding not in (_ENCODINGS if page.is_data else _ENCODINGS[:2]) or page.levels not in (None, _RLE):
                raise ValueError(f"{name}: expected plain values or a dictionary, given encoding {page.encoding}")
            values += page.held * page.is_data
            at = page.begins + page.packed
        if at != end or values != rows:
            raise ValueError(f"{name}: expected {rows} values, given {values}")
    return total


def _structs(value: object) -> list[dict[int, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("expected a plain footer, given one of other types")
    return value


class _Page(NamedTuple):
    """A page header: bytes decompressed (`size`) and in the file (`packed`), values (`held`), where its data begins."""

    is_data: bool
    size: int
    packed: int
    held: int
    encoding: int
    levels: object
    begins: int


def _page(data: bytes, at: int, end: int) -> _Page:
    """The page header at this offset (parquet.thrift: PageHeader). Raises ValueError for a page that passes `end`."""
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
    """The fields of a struct in Thrift's compact protocol by number, and where it ends.

    Fields may be booleans, integers, bytes, lists and structs. Stricter than Arrow, which skips what it does not know:
    numbers rise, so that none occurs twice. depth: levels of nesting that are still allowed.
    """
    fields: dict[int, Any] = {}
    field = 0
    while True:
        if at >= end:
            raise ValueError("a footer or a header of a page has no end")
        field_step, kind = data[at] >> 4, data[at] & 15
        at += 1
        if kind == 0:
            return fields, at
        if not field_step:
            raise ValueError("a footer or a header of a page has unknown fields")
        field += field_step
        fields[field], at = (kind == 1, at) if kind in (1, 2) else _value(data, at, end, kind, depth)


def _value(data: bytes, at: int, end: int, kind: int, depth: int) -> tuple[Any, int]:
    """One value of a type (`kind`) of Thrift's compact protocol, and where it ends."""
    if kind in (4, 5, 6):  # i16, i32 and i64 are written alike
        number, at = _varint(data, at, end)
        return (number >> 1) ^ -(number & 1), at
    if kind == 8:
        length, at = _varint(data, at, end)
        if at + length > end:
            raise ValueError("a footer or a header of a page has no end")
        return data[at : at + length], at + length
    if kind == 9 and depth and at < end:
        count, inner = data[at] >> 4, data[at] & 15
        count, at = _varint(data, at + 1, end) if count == 15 else (count, at + 1)
        if count > ITEMS:
            raise ValueError(f"expected lists of at most {ITEMS} items in a footer, given {count}")
        values = []
        for _ in range(count):
            value, at = _value(data, at, end, inner, depth - 1)
            values.append(value)
        return values, at
    if kind == 12 and depth:
        return _struct(data, at, end, depth - 1)
    if kind in (1, 2) and at < end:  # in a list a boolean takes a byte
        return data[at] == 1, at + 1
    raise ValueError("a footer or a header of a page has unknown fields")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise ValueError("a footer or a header of a page has a number without end")


def _length(chunk: pa.Array) -> int:
    """Bytes of a column's texts, each counted for every row that has it; 8 a row for other columns."""
    if not isinstance(chunk, pa.DictionaryArray):
        return 8 * len(chunk)
    lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False)
    at = pc.drop_null(chunk.indices).to_numpy()
    return int(lengths.astype(np.int64)[at].sum()) if len(at) else 0


def _values(column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            texts = [*chunk.dictionary.to_pylist(), None]
            values += [texts[i] for i in pc.fill_null(chunk.indices, len(texts) - 1).to_pylist()]
        else:
            values += chunk.to_pylist()
    return values
