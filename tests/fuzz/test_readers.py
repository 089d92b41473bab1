"""What anybody may hand in (protocols, submissions, names, records, published folders) is read, or refused in one line."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import strategies as st

from benchmark import protocol
from benchmark.entries.registry import Registry, _split, read
from benchmark.entries.templates import TEMPLATES
from benchmark.errors import UserError
from benchmark.result import Result
from benchmark.run.tracking import _run_id
from benchmark.sandbox import wire
from benchmark.targets.store import Store, digest
from leaderboard import publish
from tests.fuzz.fuzzing import bounded, clean_line, fuzz

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(tempfile.mkdtemp(prefix="leakboard-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", "\0", "\ud800", "\x1b[2J", "\u202e", "<script>", "a" * 5000, "../../x", "'\"`", "{{7*7}}", "\r\n", "%s%n"]),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**4200), 2**63, 2**64, -1, 0, float("nan"), float("inf"), 1e308])
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@st.composite
def mutated(draw: st.DrawFn, text: str, pieces: st.SearchStrategy[str] = TEXTS, most: int = 4) -> str:
    """The text with some of its stretches replaced, doubled, moved or removed."""
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.sampled_from([0, 1, 2, 5, 20, 100])))
        how = draw(st.sampled_from(["replace", "double", "remove", "move"]))
        part = text[start:stop]
        middle = {"replace": draw(pieces), "double": part * 2, "remove": "", "move": ""}[how]
        text = text[:start] + middle + text[stop:]
        if how == "move":
            at = draw(st.integers(0, len(text)))
            text = text[:at] + part + text[at:]
    return text


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    return draw(mutated(content.decode("latin-1"), st.binary(max_size=8).map(lambda b: b.decode("latin-1")))).encode(
        "latin-1"
    )


# --- Protocols --------------------------------------------------------------------------------------

SMOKE = (protocol.FOLDER / "smoke.yaml").read_text()
YAML_PIECES = TEXTS | st.sampled_from([
    "&a [*a]", "*a", "<<: *a", "? [1]: 2", "!!python/object/apply:os.system [ls]", "!!int x", "!!timestamp x", "!!bool x",
    "2020-99-99", "1:99:99", "0x", "0b2", "1e999999", "9" * 5000, "[" * 500, "{" * 500, "- " * 500, "|\n", ">-\n", "--- ",
    "\t", "!!binary x", "!!set {a}", "!!omap [a: 1]", "=", "~", "*", "&", "!", "%YAML 9.9\n---\n", ".inf", ".nan",
])  # fmt: skip


def load_protocol(content: bytes) -> None:
    path = FOLDER / "own.yaml"
    path.write_bytes(content)
    try:
        loaded = protocol.load(str(path))
    except UserError as error:
        clean_line(str(error))
    else:
        assert len(loaded.measures) == 40


@fuzz(
    st.one_of(
        mutated(SMOKE, YAML_PIECES).map(lambda t: t.encode(errors="surrogatepass")), mutated_bytes(SMOKE.encode())
    )
)
def test_a_mutated_protocol(content: bytes) -> None:
    load_protocol(content)


@fuzz(st.tuples(st.sampled_from(sorted(yaml.safe_load(SMOKE))), JSON) | JSON)
def test_a_protocol_with_an_odd_value(change: Any) -> None:
    fields = yaml.safe_load(SMOKE)
    if isinstance(change, tuple):
        fields[change[0]] = change[1]
    with contextlib.suppress(ValueError):  # PyYAML refuses to write surrogates
        text = json.dumps(fields if isinstance(change, tuple) else change)
        load_protocol(text.encode(errors="surrogatepass"))


@fuzz(st.text(alphabet="[]{}:,-?&*!|>'\"%@` \n\tab0.#", max_size=200).map(str.encode) | st.binary(max_size=100))
def test_text_that_may_be_yaml(content: bytes) -> None:
    load_protocol(content)


@fuzz(TEXTS | TEXTS.map("{}.yaml".format))
def test_the_name_of_a_protocol(name: str) -> None:
    try:
        protocol.load(name)
    except UserError as error:
        clean_line(str(error))


# --- Submissions ------------------------------------------------------------------------------------

SOURCES = [TEMPLATES["attack"], TEMPLATES["defense"], *(p.read_text() for p in sorted(ROOT.glob("submissions/*/*.py")))]
ATOMS = st.sampled_from([
    "0", "1", "-1", "1.5", "1e999", "-1e999", "1j", "10**10**8", "9**9**9", "1 << 10**9", "'a' * 10**10", '"a"*10**10', "True", "None", "...",
    "''", "'x'", "b'x'", "f'{1}'", "'\\ud800'", "'\\x1b[2J'", "'\\0'", "'a\\nb'", "int", "float", "str", "bool", "Field", "Search", "Card",
    "Literal", "Annotated", "tuple", "frozenset", "object", "int | None", "1 | 2", "'a' | 'b'", "()", "[]", "{}", "{1: 2}", "lambda: 1",
    "[x for x in range(10**9)]", "open('/etc/passwd')", "__import__('os')", "x", "x.y", "9" * 4000, "9" * 5000, "0x" + "f" * 4000,
    "'(a+)+$'", "'" + "a" * 3000 + "'", "-" * 500 + "1", "not " * 200 + "1", "(" * 90 + ")" * 90,
])  # fmt: skip
NAMES = st.sampled_from([
    "gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "alias", "exclude", "default", "default_factory",
    "init", "frozen", "discriminator", "json_schema_extra", "strict", "title", "authors", "reference", "year", "null", "low", "high",
])  # fmt: skip


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    some = st.lists(inner, max_size=3)
    named = st.lists(st.tuples(NAMES, inner).map("=".join), max_size=3, unique_by=lambda t: t.split("=")[0])
    call = st.tuples(st.sampled_from(["Field", "Search", "Card", "frozenset", "print", "int"]), some, named)
    return st.one_of(
        call.map(lambda c: f"{c[0]}({', '.join([*c[1], *c[2]])})"),
        st.tuples(st.sampled_from(["Annotated", "Literal", "tuple", "list"]), some).map(lambda s: f"{s[0]}[{', '.join(s[1])}]"),
        some.map(lambda s: f"({', '.join(s)},)" if s else "()"),
        some.map(lambda s: f"{{{', '.join(s) or '1'}}}"),
        some.map(lambda s: f"[{', '.join(s)}]"),
        st.tuples(inner, st.sampled_from(["|", "*", "**", "+", "<<", "@", "and"]), inner).map(" ".join),
    )  # fmt: skip


EXPRESSIONS = st.recursive(ATOMS, _compound, max_leaves=8)
FIELDS = st.sampled_from([
    "power", "model_dump", "model_config", "model_fields", "copy", "json", "dict", "schema", "__class__", "__dict__", "__doc__", "__base__",
    "__config__", "__validators__", "__module__", "__cls_kwargs__", "_private", "class_", "self", "cls", "Params", "ﬁeld", "数",
])  # fmt: skip
CARD = 'Card(title="NAME", authors=("you",), reference="unpublished", year=None)'
FIELD = "power: Annotated[float, Field(gt=0), Search(0.5, 4, log=True)] = 1.0"


@st.composite
def declared(draw: st.DrawFn) -> str:
    """A submission whose declarations are odd expressions."""
    slots = {
        CARD: EXPRESSIONS | st.tuples(EXPRESSIONS, EXPRESSIONS).map(lambda t: f'Card(title={t[0]}, authors=({t[1]},), reference="r", year=1)'),
        '"posterior"  #': EXPRESSIONS.map("{}  #".format),
        "frozenset()": EXPRESSIONS,
        '"shadow"  # who': EXPRESSIONS.map("{}  # who".format),
        FIELD: st.tuples(FIELDS, EXPRESSIONS, EXPRESSIONS).map(lambda t: f"{t[0]}: {t[1]} = {t[2]}")
        | st.tuples(st.sampled_from(["int", "float", "str", "bool"]), EXPRESSIONS, ATOMS).map(lambda t: f"power: Annotated[{t[0]}, {t[1]}] = {t[2]}"),
    }  # fmt: skip
    text = TEMPLATES["attack"]
    for slot in draw(st.lists(st.sampled_from(sorted(slots)), min_size=1, max_size=2, unique=True)):
        assert slot in text
        text = text.replace(slot, draw(slots[slot]))
    return text


def read_submission(content: bytes, kind: Literal["attack", "defense"]) -> None:
    folder = FOLDER / "submissions" / f"{kind}s"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.py"
    path.write_bytes(content)
    entry = read(path, kind)
    if entry.error:
        clean_line(entry.error)
        return
    # What is not refused can be listed, named, stored under a key, and found again by its name.
    assert entry.card is not None and all(
        isinstance(t, str) for t in (entry.card.title, entry.card.reference, *entry.card.authors)
    )
    registry = Registry(path.parents[1])
    part = registry._part(kind, "mine", {})
    assert part.name == "mine" and len(digest(part.key)) == 40
    assert part.key["params"].keys() == entry.params.model_fields.keys()
    assert _split(part.name) == [("mine", {})]


KINDS: st.SearchStrategy[Any] = st.sampled_from(["attack", "defense"])


@fuzz(declared(), examples=500)
def test_odd_declarations(text: str) -> None:
    read_submission(text.encode(errors="surrogatepass"), "attack")


@fuzz(st.tuples(st.sampled_from(SOURCES).flatmap(lambda s: mutated(s, TEXTS | EXPRESSIONS)), KINDS), examples=300)
def test_a_mutated_submission(given: tuple[str, Any]) -> None:
    read_submission(given[0].encode(errors="surrogatepass"), given[1])


@fuzz(st.tuples(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode(errors="surrogatepass")), KINDS))
def test_text_that_may_be_python(given: tuple[bytes, Any]) -> None:
    read_submission(*given)


# --- Names ------------------------------------------------------------------------------------------


@functools.cache
def shipped() -> Registry:
    return Registry(ROOT / "submissions")


SPECS = st.one_of(
    TEXTS,
    st.text(alphabet="abz_0123456789[]=,+-.eE \n", max_size=60),
    mutated("label_smoothing[epsilon=0.1]+diffence[n=10,timestep=80]"),
    mutated("attribute_mlp[embedding=untrained]"),
    st.sampled_from(["+" * 900, "a[" * 400, "a[" + "=" * 900, "a[b=" + "9" * 900 + "]", "loss" + "+loss" * 190]),
)


@fuzz(SPECS, examples=400)
def test_the_name_of_an_entry(spec: str) -> None:
    registry = shipped()
    for use in (registry.attack, registry.kind_of, lambda s: registry.chain(s, "undefended")):
        try:
            found = use(spec)
        except UserError as error:
            clean_line(ascii(str(error)), 10_000)  # the terminal escapes it
        else:
            if not isinstance(found, str):
                assert use(found.name).name == found.name


# --- Records ----------------------------------------------------------------------------------------

RECORD = Result(
    key=digest("k"), protocol="p", protocol_digest="d", task="membership", attack="loss", defense="undefended", dataset="x",
    architecture="y", seed=0, status="ok", access="label", knowledge="none", metrics={"auc": 0.5}, intervals={"auc": (0.4, 0.6)},
    roc=((0.0, 1.0), (0.0, 1.0)), null_auc=(0.5,), claims={"epsilon": "8"}, cost={"seconds": 1.0}, provenance={"split": "abc"},
)  # fmt: skip


def read_record(text: str) -> None:
    try:
        result = Result.from_json(text)
    except ValueError:
        return
    store = Store(FOLDER / "store")
    kept = result.model_copy(update={"key": digest(result.key)})
    if kept.status in ("ok", "skipped"):
        store.save_result(kept)
        assert store.result(kept.key) is not None, "what is kept can be read again"


@fuzz(mutated(RECORD.to_json()), examples=300)
def test_a_mutated_record(text: str) -> None:
    read_record(text)


@fuzz(st.tuples(st.sampled_from([*sorted(Result.model_fields), "other"]), JSON), examples=300)
def test_a_record_with_an_odd_value(change: tuple[str, Any]) -> None:
    read_record(json.dumps(json.loads(RECORD.to_json()) | dict([change])))


@fuzz(st.binary(max_size=100) | mutated_bytes(b"0" * 64 + b'\n{"sha256": "0", "seconds": 1}'))
def test_files_of_the_store_and_the_ledger(content: bytes) -> None:
    store = Store(FOLDER / "odd")
    for kind, suffix in (("result", ".json"), ("kind", ".json"), ("kind", ".safetensors")):
        path = store.path(kind, "0" * 40, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert store.result("0" * 40) is None and store.load("kind", "0" * 40) is None and not store.has("kind", "0" * 40)
    assert _run_id(path) is None or isinstance(json.loads(content), dict)


@functools.cache
def published() -> dict[str, bytes]:
    from leaderboard.ranking import Board

    folder = FOLDER / "published"
    board = Board(("loss",), ("undefended",), (0,), "undefended", 0.0, ("auc",))
    publish.publish([RECORD], board, folder)
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def load_published(parquet: bytes, provenance: bytes | None) -> None:
    folder = FOLDER / "hostile"
    folder.mkdir(exist_ok=True)
    (folder / publish.SCENARIOS).write_bytes(parquet)
    if provenance is None:
        provenance = json.dumps({"sha256": hashlib.sha256(parquet).hexdigest()}).encode()
    (folder / publish.PROVENANCE).write_bytes(provenance)
    try:
        results = publish.load(folder)
    except ValueError as error:
        clean_line(ascii(str(error)))
    else:
        assert all(isinstance(r, Result) for r in results)


@fuzz(st.deferred(lambda: mutated_bytes(published()[publish.SCENARIOS])))
def test_a_mutated_table(parquet: bytes) -> None:
    load_published(parquet, None)


@functools.cache
def tables() -> list[bytes]:
    """The same rows as Parquet has them in several ways: dictionaries or none, other codecs, several groups and pages."""
    rows = [json.loads(RECORD.model_copy(update={"seed": i, "key": digest(str(i))}).to_json()) for i in range(5)]
    rows = [row | {name: json.dumps(row[name]) for name in publish.NESTED} for row in rows]
    found = []
    for options in (
        {}, {"use_dictionary": False}, {"compression": "none"}, {"compression": "snappy", "row_group_size": 2}, {"data_page_size": 1},
        {"data_page_version": "2.0"}, {"use_dictionary": False, "column_encoding": {"log": "DELTA_BYTE_ARRAY"}}, {"write_page_index": True},
    ):  # fmt: skip
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, publish.SCHEMA), sink, **({"compression": "zstd"} | options))
        found.append(bytes(sink.getvalue()))
    return found


# A varint of 2^31 - 1, of 2^64, without end; fields, structs and lists of Thrift's compact protocol.
THRIFT = st.sampled_from([
    b"\xfe\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\xff" * 30, b"\x00", b"\x15\x00", b"\x2c", b"\x19\xfc\xff\xff\x7f", b"\x1c" * 300,
    b"\x15\x80\x80\x80\x80\x02", b"\x11", b"\x16\x02", b"\x18\xff\xff\xff\xff\x07",
]) | st.binary(max_size=6)  # fmt: skip


@st.composite
def odd_tables(draw: st.DrawFn) -> bytes:
    """A table with its footer or a header of its pages changed: what says how large everything is."""
    data = bytearray(draw(st.sampled_from(tables())))
    length = int.from_bytes(data[-8:-4], "little")
    starts = [
        m.start() for m in re.finditer(rb"\x15[\x00\x04\x06]\x15", bytes(data[:-length]))
    ]  # headers of pages begin so
    for _ in range(draw(st.integers(1, 4))):
        footer = draw(st.booleans()) or not starts
        at = (
            len(data) - 8 - draw(st.integers(0, length))
            if footer
            else draw(st.sampled_from(starts)) + draw(st.integers(0, 24))
        )
        more, gone = draw(THRIFT), draw(st.sampled_from([0, 1, 2, 5]))
        before = len(data)
        data[max(at, 0) : max(at, 0) + gone] = more
        if footer and draw(st.booleans()):
            length = max(0, length + len(data) - before)
            data[-8:-4] = length.to_bytes(4, "little")
    return bytes(data)


@fuzz(st.deferred(odd_tables), examples=400)
def test_an_odd_footer_or_page(parquet: bytes) -> None:
    """In seconds at most, the collector's and other threads' included, and in some tens of megabytes, what Arrow takes included."""
    allocated = pa.default_memory_pool().max_memory()
    with bounded(4, 60):
        load_published(parquet, None)
    assert pa.default_memory_pool().max_memory() - allocated < 60 << 20


@fuzz(
    st.deferred(lambda: mutated_bytes(published()[publish.PROVENANCE]))
    | JSON.map(lambda v: json.dumps(v).encode())
    | st.binary(max_size=50)
)
def test_a_mutated_provenance(provenance: bytes) -> None:
    load_published(published()[publish.SCENARIOS], provenance)


# --- Messages of a sandbox --------------------------------------------------------------------------

MESSAGE = wire.pack(
    {"do": "answer", "with": {"n": 1}}, {"x": torch.arange(3.0), "y": torch.zeros(2, 0), "z": torch.tensor(True)}
)
TEXT_LENGTH = int.from_bytes(MESSAGE[:4], "big")
META, PAYLOAD = MESSAGE[12 : 12 + TEXT_LENGTH], MESSAGE[12 + TEXT_LENGTH :]
HEADER_LENGTH = int.from_bytes(PAYLOAD[:8], "little")
HEADER = json.loads(PAYLOAD[8 : 8 + HEADER_LENGTH])


def unpack(text: bytes, payload: bytes) -> None:
    try:
        meta, tensors = wire.unpack(text, payload)
    except wire.WireError as error:
        clean_line(str(error))
        return
    assert isinstance(meta, dict)
    assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(payload)
    for tensor in tensors.values():
        tensor.clone()  # every byte is there


@fuzz(
    st.tuples(
        mutated_bytes(META) | JSON.map(lambda v: json.dumps(v).encode()),
        mutated_bytes(PAYLOAD) | st.binary(max_size=100),
    ),
    examples=300,
)
def test_a_mutated_message(message: tuple[bytes, bytes]) -> None:
    unpack(*message)


SPAN = st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "F64", "BOOL", "U8", "BF16", "F16", "F8_E4M3", "F4", "I64", "C64", ""]) | JSON,
    "shape": st.lists(st.integers(0, 4) | st.sampled_from([2**40, 2**63, 2**64, -1, True, 1.0, None]), max_size=9) | JSON,
    "data_offsets": st.lists(st.integers(0, 40) | st.sampled_from([2**64 - 1, 2**64, -1]), min_size=2, max_size=2) | JSON,
})  # fmt: skip


@fuzz(
    st.tuples(
        st.dictionaries(TEXTS | st.just("__metadata__"), SPAN | JSON, max_size=4),
        st.binary(max_size=40),
        st.sampled_from([0, 1, -1, 2**63]),
    ),
    examples=300,
)
def test_an_odd_header(given: tuple[dict[str, Any], bytes, int]) -> None:
    header, data, more = given
    text = json.dumps(header).encode()
    unpack(b"{}", (len(text) + more).to_bytes(8, "little", signed=more < 0 and not text) + text + data)
