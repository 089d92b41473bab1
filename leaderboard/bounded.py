"""A Parquet file that others wrote, held to bounds before any of it is decompressed, and read a row group at a time.

What a file takes when it is read stands in three places, and each may lie: in the footer (rows, row groups, columns,
bytes), in the header of every page, and in the pages. Arrow believes a page's header, and a page that is larger than
its header says is an error there; so footer and headers are read here first, and their sums are what is bounded. Arrow
is asked nothing before: a footer that contradicts itself ends its process. Texts stay dictionaries until their lengths
are known: a row that repeats a text costs nothing in the file.
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
# Numbers of parquet.thrift: Type, CompressionCodec, PageType.
_TYPES = {pa.bool_(): 0, pa.int64(): 2, pa.float64(): 5, pa.string(): 6}
_CODECS = {0: "none", 1: "snappy", 6: "zstd"}
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_ENCODINGS = (0, 2, 3, 8)
"""parquet.thrift, Encoding: plain, dictionary; in pages of data also run lengths, of levels and truths, and dictionary by its newer name."""
_RLE = 3


def groups(
    data: bytes, columns: Mapping[str, pa.DataType], only: Sequence[str] | None = None
) -> Iterator[dict[str, list[Any]]]:
    """Each row group as lists by column, all of one length; `only` these columns, those that are there.

    columns: the names that the file may have, each with one of string, int64, float64 and bool. Raises ValueError, in one line, for
    anything else and for whatever is too large; also in the midst of reading.
    """
    try:
        start, footer = _footer(data)
        names = _columns(footer, columns)
        sizes = _row_groups(footer, len(data))
        left = FREE + RATIO * len(data)
        for group in footer[4]:
            left -= _walk(data, group, names, columns, min(left, GROUP))
        texts = [name for name in names if columns[name] == pa.string()]
        file = pq.ParquetFile(
            pa.BufferReader(data[:start] + data[start:].replace(_NAMES, bytes(len(_NAMES)))), read_dictionary=texts, pre_buffer=False,
            arrow_extensions_enabled=False, thrift_string_size_limit=FOOTER, thrift_container_size_limit=ITEMS,
        )  # fmt: skip
        left = FREE + RATIO * len(data)
        for i, size in enumerate(sizes):
            table = file.read_row_group(i, only, use_threads=False)
            left -= sum(_length(c) for column in table.columns for c in column.chunks)
            if left < 0:
                raise ValueError(f"its texts are longer than {RATIO} times the file: expected fewer")
            found = {name: _values(column) for name, column in zip(table.column_names, table.columns, strict=True)}
            if {*map(len, found.values())} != {size}:
                raise ValueError("its columns have not as many rows as it says")
            yield found
    except (pa.ArrowException, OSError, OverflowError, IndexError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _footer(data: bytes) -> tuple[int, dict[int, Any]]:
    """Where the footer begins, and what it says by field (parquet.thrift: FileMetaData)."""
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
    """The names of its columns, each known and of its type (parquet.thrift: SchemaElement)."""
    root, *elements = _structs(footer.get(2)) or [{}]
    if root.get(5) != len(elements) or 1 in root:
        raise ValueError("expected columns side by side, given nested ones")
    found = []
    for element in elements:
        name = element[4].decode(errors="replace") if isinstance(element.get(4), bytes) else ""
        kind = columns.get(name)
        if kind is None:
            raise ValueError(f"expected columns that this version knows, given {ascii(name)[:60]}")
        text = element.get(10) == {1: {}} or element.get(6) == 0
        other = element.keys() - ({1, 3, 4, 6, 10} if kind == pa.string() else {1, 3, 4})
        if element.get(1) != _TYPES[kind] or element.get(3) not in (0, 1) or other or (kind == pa.string()) != text:
            raise ValueError(f"{name}: expected {kind}, given a column of another type")
        found.append(name)
    if len({*found}) < len(found):
        raise ValueError("a column is there twice")
    return found


def _row_groups(footer: dict[int, Any], size: int) -> list[int]:
    """How many rows each row group has; together no more than a file of this size may have."""
    groups = _structs(footer.get(4))
    rows: list[Any] = [group.get(3) for group in groups]
    most = FREE_ROWS + size // ROW
    if not all(type(n) is int and 0 <= n <= most for n in rows) or not footer.get(3) == sum(rows) <= most:
        raise ValueError(f"expected at most {most} rows in {size} bytes, given {footer.get(3)}")
    return rows


def _walk(data: bytes, group: dict[int, Any], names: list[str], columns: Mapping[str, pa.DataType], most: int) -> int:
    """The bytes that a row group becomes, by the headers of its pages. Raises ValueError where they are more than `most`."""
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
            # What has a dictionary begins with it, and a text takes 4 bytes at least: Arrow makes room for as many as it says.
            if not (page.held > 0 if page.is_data else at == first and page.held * 4 <= page.size):
                raise ValueError(f"{name}: expected pages of data, given one of {page.held} values")
            if page.encoding not in (_ENCODINGS if page.is_data else _ENCODINGS[:2]) or page.levels not in (None, _RLE):
                raise ValueError(f"{name}: expected plain values or a dictionary, given encoding {page.encoding}")
            values += page.held * page.is_data
            at = page.begins + page.packed
        if at != end or values != rows:
            raise ValueError(f"{name}: expected {rows} values, given {values}")
    return total


def _structs(found: object) -> list[dict[int, Any]]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("expected a plain footer, given one of other types")
    return found


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
    """A struct of Thrift's compact protocol by field, and where it ends: truths, integers, bytes, lists and structs.

    Stricter than Arrow, which skips what it does not know: fields rise, and none is there twice.
    """
    found: dict[int, Any] = {}
    field = 0
    while True:
        if at >= end:
            raise ValueError("a footer or a header of a page has no end")
        step, kind = data[at] >> 4, data[at] & 15
        at += 1
        if kind == 0:
            return found, at
        if not step:
            raise ValueError("a footer or a header of a page has unknown fields")
        field += step
        found[field], at = (kind == 1, at) if kind in (1, 2) else _value(data, at, end, kind, depth)


def _value(data: bytes, at: int, end: int, kind: int, depth: int) -> tuple[Any, int]:
    """One value of a kind of Thrift's compact protocol, and where it ends."""
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
    if kind in (1, 2) and at < end:  # in a list a truth takes a byte
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
