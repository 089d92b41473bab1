"""What a pull request brings is bounded: files that take gigabytes, and records that say what no record can."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from benchmark.metrics import METRICS
from benchmark.result import Picture, Result
from leaderboard import publish
from leaderboard.bounded import groups
from leaderboard.publish import SCHEMA, load
from tests.leaderboard.conftest import APP, PUBLISHED, app_page, make_board, make_result, texts

ROW = make_result(
    "membership", "loss", "undefended", 0, metrics={"auc": 0.6, "balanced_accuracy_oracle": 0.58}, intervals={"auc": (0.55, 0.65)},
    roc=((0.0, 0.5, 1.0), (0.0, 0.8, 1.0)), histogram=((0.0, 1.0, 2.0), (3, 4), (4, 3)), null_auc=(0.5, 0.49), null_tpr=(0.01,),
    claims={"epsilon": "8"}, cost={"seconds": 1.0}, provenance={"commit": "abc"},
)  # fmt: skip
Flat = dict[str, Any]


def flat(**changes: Any) -> Flat:
    """The columns of ROW, some of them changed."""
    fields = json.loads(ROW.to_json())
    return fields | {n: json.dumps(fields[n]) for n in publish.NESTED} | changes


def seal(folder: Path, data: bytes) -> Path:
    """A published folder of these bytes, whose digest fits: whoever changes the one writes the other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / publish.SCENARIOS).write_bytes(data)
    (folder / publish.PROVENANCE).write_text(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))
    return folder


def parquet(rows: list[Flat] | pa.Table, **options: Any) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **({"compression": "zstd"} | options))
    return bytes(sink.getvalue())


# --- Records ----------------------------------------------------------------------------------------

AUC = "metrics: auc: expected a number from 0 to 1"
DEEP = "[" * 100_000 + "]" * 100_000
RECORDS: dict[str, tuple[Flat, str]] = {
    "NaN": ({"metrics": '{"auc":NaN}'}, "metrics: not JSON: NaN is no number"),
    "infinity": ({"metrics": '{"auc":Infinity}'}, "Infinity is no number"),
    "infinity in digits": ({"metrics": '{"auc":1e999}'}, f"{AUC}, given inf"),
    "huge": ({"metrics": '{"auc":1e300}'}, f"{AUC}, given 1e+300"),
    "huge and whole": ({"metrics": '{"auc":1' + "0" * 400 + "}"}, AUC),
    "too many digits": ({"metrics": '{"auc":' + "9" * 5000 + "}"}, "metrics: not JSON: a number has too many digits"),
    "negative": ({"metrics": '{"nonmembers":-1}'}, "metrics: nonmembers"),
    "half a sample": ({"metrics": '{"members":10.5}'}, "expected a whole number"),
    "a text": ({"metrics": '{"auc":"0.9"}'}, f"{AUC}, given '0.9'"),
    "a truth": ({"metrics": '{"auc":true}'}, f"{AUC}, given True"),
    "a list": ({"metrics": '{"auc":[0.9]}'}, AUC),
    "null": ({"metrics": '{"auc":null}'}, AUC),
    "no such metric": ({"metrics": '{"trust":1}'}, "expected a metric that this version knows, given 'trust'"),
    "twice": ({"metrics": '{"auc":0.5,"auc":0.9}'}, "'auc' is there twice"),
    "twice, further in": ({"pictures": '{"a":{"shape":[1,1,1,1],"shape":[1,1,1,1],"pixels":"AA=="}}'}, "'shape' is there twice"),
    "another field inside": ({"metrics": '{"auc":0.5},"trust":"official"'}, "metrics: not JSON"),
    "another field, closed": ({"metrics": '{"auc":0.5},"log":{"a":1}'}, "metrics: not JSON"),
    "two values": ({"claims": "{} {}"}, "claims: not JSON"),
    "no object": ({"metrics": "[]"}, "metrics: expected metrics by name"),
    "nested without end": ({"claims": DEEP}, "claims: "),
    "an interval upside down": ({"intervals": '{"auc":[0.7,0.5]}'}, "intervals: auc: expected numbers that do not fall"),
    "an interval too wide": ({"intervals": '{"auc":[-0.1,0.5]}'}, "intervals: auc: expected numbers from"),
    "an interval of three": ({"intervals": '{"auc":[0.1,0.2,0.3]}'}, "expected a list of 2 numbers"),
    "an interval of no metric": ({"intervals": '{"zzz":[0,1]}'}, "a metric that this version knows"),
    "a null beyond": ({"null_auc": "[0.5,1.5]"}, "null_auc: expected numbers from 0 to 1, given 1.5"),
    "a null of texts": ({"null_tpr": '["0.5"]'}, "null_tpr: expected numbers"),
    "a null without end": ({"null_auc": json.dumps([0.5] * 20_000)}, "null_auc: expected a list of 0 to 10000"),
    "a curve that falls": ({"roc": "[[0,0.5,0.2],[0,1,1]]"}, "roc: FPR: expected numbers that do not fall"),
    "a curve of two lengths": ({"roc": "[[0,1],[0,0.5,1]]"}, "roc: expected as many FPRs as TPRs"),
    "a curve beyond": ({"roc": "[[0,1],[0,2]]"}, "roc: TPR: expected numbers from 0 to 1"),
    "a curve of nothing": ({"roc": "[[],[]]"}, "roc: FPR: expected a list of 2 to 1000"),
    "a curve from nowhere": ({"roc": "[[0.5,1],[0,1]]"}, "the first FPR 0"),
    "a curve without end": ({"roc": json.dumps([[0] * 2000, [0] * 2000])}, "roc: FPR"),
    "bins that count less than nothing": ({"histogram": "[[0,1],[-1],[1]]"}, "histogram: members: expected whole numbers"),
    "bins that count halves": ({"histogram": "[[0,1],[0.5],[1]]"}, "histogram: members"),
    "bins without an edge": ({"histogram": "[[0,1],[1,1],[1,1]]"}, "one edge more than counts"),
    "edges at infinity": ({"histogram": "[[0,1e999],[1],[1]]"}, "histogram: edges"),
    "a cost below nothing": ({"cost": '{"seconds":-1}'}, "cost: seconds: expected a number from 0"),
    "a cost that is a metric": ({"cost": '{"auc":7}'}, "cost: expected a cost that this version knows, given 'auc'"),
    "a claim that is a number": ({"claims": '{"epsilon":8}'}, "claims: epsilon: expected a text, given 8"),
    "claims without end": ({"claims": json.dumps({str(i): "" for i in range(65)})}, "claims: expected at most 64"),
    "a claim without end": ({"claims": json.dumps({"a": "x" * 10_001})}, "claims: a: expected at most 10000 characters"),
    "a name without end": ({"defense": "x" * 2001}, "defense: expected at most 2000 characters"),
    "a log without end": ({"log": "x" * 100_001}, "log: expected at most"),
    "finished at no time": ({"finished": float("nan")}, "finished: expected a number from 0"),
    "finished at the end of time": ({"finished": 1e300}, "finished: expected a number from 0"),
    "no text": ({"reason": None}, "reason: expected a text, given None"),
    "no seed": ({"seed": None}, "seed: expected a whole number of at most 64 bits, given None"),
    "no trust": ({"trust": "holy"}, "trust: "),
    "a picture of another size": ({"pictures": '{"a":{"shape":[2,2,2,1],"pixels":"AAAA"}}'}, "expected pixels of shape"),
    "a picture in halves": ({"pictures": '{"a":{"shape":[1,1,1.5,2],"pixels":"AAAA"}}'}, "pictures: a: shape"),
    "a picture with more": ({"pictures": '{"a":{"shape":[1,1,1,3],"pixels":"AAAA","x":1}}'}, "pictures: a: expected a field"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_cannot_be(tmp_path: Path, name: str) -> None:
    """It is refused with its row and its field, from a published file and as JSON from MLflow or the store."""
    changes, message = RECORDS[name]
    other = flat() | {"seed": 1, "key": "other"}
    with pytest.raises(ValueError, match=r"holds no results: row 2: ") as caught:
        load(seal(tmp_path, parquet([other, flat(**changes)])))
    assert message in str(caught.value) and str(caught.value).isprintable() and "\n" not in str(caught.value)
    fields = {n: json.dumps(v) for n, v in json.loads(ROW.to_json()).items()}
    fields |= {n: v if n in publish.NESTED else json.dumps(v) for n, v in changes.items()}
    with pytest.raises(ValueError, match=r".") as caught:
        Result.from_json("{" + ",".join(f'"{n}":{v}' for n, v in fields.items()) + "}")
    assert "\n" not in str(caught.value)


def test_what_a_record_may_hold_it_holds(tmp_path: Path) -> None:
    """The ends of every range, also rounded to 6 digits; and every other row beside it."""
    picture = json.loads(Picture(shape=(1, 1, 1, 3), pixels="AAAA").model_dump_json())
    ends = [{m.name: float(f"{getattr(m, end):.6g}") for m in METRICS.values()} for end in ("low", "high")]
    rows = [
        flat(seed=i, key=str(i), metrics=json.dumps(m), intervals=json.dumps({n: [v, v] for n, v in m.items()}))
        for i, m in enumerate(ends)
    ]
    rows.append(
        flat(seed=2, key="2", roc="null", histogram="null", pictures=json.dumps({"a": picture}), log="x" * 1000)
    )
    assert [r.seed for r in load(seal(tmp_path, parquet(rows)))] == [0, 1, 2]


def test_older_files_know_fewer_columns(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([flat()], SCHEMA).drop_columns(["isolation", "pictures", "histogram"])
    (found,) = load(seal(tmp_path, parquet(table)))
    assert found == ROW.model_copy(update={"histogram": None})
    with pytest.raises(ValueError, match="task: Field required"):
        load(seal(tmp_path, parquet(table.drop_columns(["task"]))))


# --- Files ------------------------------------------------------------------------------------------


def column(name: str, values: pa.Array) -> pa.Table:
    """ROW with another column, or as many times ROW as there are values."""
    table = pa.Table.from_pylist([flat()] * len(values), SCHEMA)
    at = table.schema.get_field_index(name)
    return table.append_column(name, values) if at < 0 else table.set_column(at, name, values)


def lying(data: bytes, old: int, new: int) -> bytes:
    """The file with one number of a page's header replaced, as Thrift writes it (zigzag varint)."""
    before, after = (_varint(2 * n) for n in (old, new))
    assert len(before) == len(after) and data.count(b"\x15" + before) >= 1
    return data.replace(b"\x15" + before, b"\x15" + after, 1)


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


NEST = pa.list_(pa.list_(pa.string()))
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "one text of 200 million characters": (lambda: parquet([flat(log="x" * 200_000_000)]), "larger than"),
    "the same in a dictionary": (lambda: parquet([flat(log="x" * 50_000_000)] * 2, dictionary_pagesize_limit=2**30), "larger than"),
    "one text for many rows": (lambda: parquet([flat(claims='{"a":"' + "x" * 100_000 + '"}')] * 900), "longer than"),
    "a million rows": (lambda: parquet(pa.concat_tables([pa.Table.from_pylist([flat()] * 100, SCHEMA)] * 10_000), row_group_size=10**6), "rows in"),
    "rows that share what is before them": (
        lambda: parquet([flat(log="x" * 90_000 + str(i)) for i in range(900)], use_dictionary=False, column_encoding={"log": "DELTA_BYTE_ARRAY"}), "given encoding 7"
    ),
    "a page that is larger than it says": (lambda: lying(parquet([flat(log="x" * 100_000)], use_dictionary=False, write_statistics=False), 100_010, 90_010), ""),
    "a page that says it is large": (lambda: lying(parquet([flat(log="x" * 10_000_000)], use_dictionary=False, write_statistics=False), 10_000_010, 130_000_010), "larger than"),
    "a footer of 4 GB": (lambda: b"PAR1" + bytes(100) + b"\xff\xff\xff\xffPAR1", "expected a footer of at most"),
    "nothing but a footer": (lambda: b"PAR1" + b"\x01\0\0\0PAR1", "expected a footer of at most"),
    "a sealed footer": (lambda: parquet([flat()])[:-4] + b"PARE", "expected a Parquet file"),
    "text": (lambda: b"no Parquet", "expected a Parquet file"),
    "nothing": (lambda: b"", "expected a Parquet file"),
    "another column": (lambda: parquet(column("more", pa.array(["x"]))), "expected columns that this version knows"),
    "lists": (lambda: parquet(column("log", pa.array([[["x"]]], NEST))), "expected columns side by side"),
    "bytes": (lambda: parquet(column("log", pa.array([b"x"]))), "log: expected string"),
    "numbers for texts": (lambda: parquet(column("log", pa.array([1]))), "log: expected string"),
    "texts for numbers": (lambda: parquet(column("seed", pa.array(["1"]))), "seed: expected int64"),
    "a time for a number": (lambda: parquet(column("seed", pa.array([1], pa.timestamp("us")))), "seed: expected int64"),
    "a small number": (lambda: parquet(column("seed", pa.array([1], pa.int32()))), "seed: expected int64"),
    "gzip": (lambda: parquet([flat()], compression="gzip"), "expected compression by one of"),
    "pages of the second kind": (lambda: parquet([flat()], data_page_version="2.0"), "expected pages of data"),
    "a column twice": (lambda: parquet(pa.Table.from_arrays([pa.array(["x"])] * 2, ["key", "key"])), "twice"),
}  # fmt: skip

READ = """
import json, resource, sys, time
from pathlib import Path
from leaderboard.publish import load
load(Path(sys.argv[1]))
for folder in map(Path, sys.argv[2:]):
    start, before, said = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
    try:
        load(folder)
    except ValueError as error:
        said = str(error)
    spent, grown = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([folder.name, said, spent, grown / 1024]))
"""


def test_a_file_that_would_take_gigabytes(tmp_path: Path) -> None:
    """A small file is refused in a second and in some tens of megabytes, whatever it says of itself."""
    folders = [seal(tmp_path / name, make()) for name, (make, _) in FILES.items()]
    assert max((f / publish.SCENARIOS).stat().st_size for f in folders) < 200_000
    huge = seal(tmp_path / "huge", b"")
    os.truncate(huge / publish.SCENARIOS, 1 << 40)
    command = [sys.executable, "-c", READ, str(PUBLISHED / "digits-v2"), *map(str, [*folders, huge])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == [*FILES, "huge"]
    for name, said, spent, grown in found:
        expected = FILES[name][1] if name in FILES else "expected at most"
        assert said and expected in said and "\n" not in said and said.isprintable(), (name, said)
        assert spent < 1 and grown < 60, (name, spent, grown)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", [publish.SCENARIOS, publish.PROVENANCE])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str, name: str) -> None:
    """A pipe would never end; a link leads out of the repository."""
    folder = seal(tmp_path / "board", parquet([flat()]))
    assert load(folder)
    path = (folder / name).rename(tmp_path / name)
    {"link": (folder / name).symlink_to, "pipe": lambda _: os.mkfifo(folder / name), "folder": lambda _: (folder / name).mkdir()}[kind](path)  # fmt: skip
    with pytest.raises(ValueError, match=r"expected a file|is not what was published"):
        load(folder)


def test_arrows_own_schema_chooses_no_type() -> None:
    """Also not one that Arrow knows how to restore."""
    table = pa.Table.from_pylist([flat()], SCHEMA)
    columns = dict(zip(SCHEMA.names, SCHEMA.types, strict=True))
    odd = table.set_column(0, table.column_names[0], table.column(0).cast(pa.large_string()))
    for given in (
        odd,
        table.replace_schema_metadata({"pandas": "{"}),
        table.set_column(0, table.column_names[0], table.column(0).combine_chunks().dictionary_encode()),
    ):
        data = parquet(given)
        assert b"ARROW:schema" in data
        (found,) = groups(data, columns)
        assert found == {n: [v] for n, v in flat().items()}


def test_a_hundred_thousand_rows_stay_possible(tmp_path: Path) -> None:
    """In groups of 2,000, of which one is read at a time."""
    results, board = make_board()
    keys = [hashlib.sha1(str(i).encode()).hexdigest() for i in range(6000)]
    many = [results[0].model_copy(update={"seed": i, "key": key}) for i, key in enumerate(keys)]
    publish.publish(many, board, tmp_path)
    metadata = pq.read_metadata(tmp_path / publish.SCENARIOS)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2000, 2000, 2000]
    assert len(load(tmp_path)) == len(many)


def test_the_app_says_what_is_wrong_with_a_board_and_shows_the_others(folder: Path) -> None:
    publish.publish(*make_board(), folder / "toy-v1")
    row = flat(protocol="bad-v1", metrics='{"auc":NaN}')
    note = {"board": {"required_attacks": "x" * 9, "seeds": [[]], "no": 1}}
    seal(folder / "bad-v1", parquet([row]))
    path = folder / "bad-v1" / publish.PROVENANCE
    path.write_text(json.dumps(json.loads(path.read_text()) | note))
    for name, said in (("bad-v1", "holds no results: row 1: metrics: not JSON"), ("toy-v1", "results")):
        app = AppTest.from_file(APP, default_timeout=60)
        app.query_params["protocol"] = name
        app.run()
        assert not app.exception and said in texts(app), name
    with pytest.raises(ValueError, match="holds no settings of a board: required_attacks"):
        publish.settings(folder / "bad-v1")
    assert "bad-v1/scenarios.parquet can't be read: row 1" not in texts(app_page("submit").run()), "it reads no metric"
