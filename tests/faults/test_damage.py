"""Damage in any byte of the store is noticed, and mended by the next call; so is a whole file that holds something else."""

from __future__ import annotations

import hashlib
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import UserError
from benchmark.run.tracking import Tracker, fetch_results
from benchmark.targets.store import Store, _sealed, digest
from tests.conftest import Home, numbers
from tests.run.test_tracking import record, runs_of

KEY = digest("a key")


def damages(content: bytes, most: int = 1500) -> Iterator[bytes]:
    """The content with one bit flipped, a byte replaced, or cut; at every byte, or at `most` of them, spread evenly."""
    for i in range(0, len(content), max(1, len(content) // most)):
        yield content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :]
        yield content[:i] + b"\0" + content[i + 1 :]
        yield content[:i]
    yield content + b"\n"
    yield content + content


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_a_damaged_byte_of_a_record(tmp_path: Path) -> None:
    store, result = Store(tmp_path), record(key=KEY)
    store.save_result(result)
    path = store.path("result", KEY, ".json")
    whole = path.read_bytes()
    for damaged in damages(whole):
        path.write_bytes(damaged)
        assert store.result(KEY) is None or damaged == whole
    store.save_result(result)
    assert store.result(KEY) == result


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_byte_of_tensors(tmp_path: Path, suffix: str) -> None:
    store, tensors = Store(tmp_path), {"x": torch.arange(100.0), "flags": torch.tensor([True, False])}
    store.get("kind", KEY, lambda: tensors)
    path = store.path("kind", KEY, suffix)
    whole = path.read_bytes()
    for damaged in damages(whole):
        path.write_bytes(damaged)
        assert store.load("kind", KEY) is None or damaged == whole
        assert store.has("kind", KEY) == (suffix == ".safetensors" or damaged == whole)
    made = store.get("kind", KEY, lambda: tensors)
    assert torch.equal(made["x"], tensors["x"]) and path.read_bytes() != damaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.load("kind", KEY) is not None
        assert store.info("kind", KEY)["seconds"] >= 0


def test_a_damaged_byte_of_the_ledger(home: Home) -> None:
    Tracker(home.store / "logged").log(record())
    (mark,) = (p for p in (home.store / "logged").rglob("*.json") if not p.name.startswith("experiment"))
    whole = mark.read_bytes()
    for damaged in damages(whole):
        mark.write_bytes(damaged)
        tracker = Tracker(home.store / "logged")
        tracker.log(record())
        assert not tracker.pending, tracker.reason
    assert len(runs_of("scenario")) == len(fetch_results("toy")) == 1


def flip(content: bytes, random: random.Random) -> bytes:
    i = random.randrange(len(content))
    return content[:i] + bytes([content[i] ^ 1 << random.randrange(8)]) + content[i + 1 :]


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("kind", ["answers", "networks", "result", "logged", "*"])
@pytest.mark.parametrize(
    "damage", [flip, lambda content, _: content[: len(content) // 2], lambda *_: b""], ids=["flip", "cut", "empty"]
)
def test_a_run_mends_its_store(scored: Home, kind: str, damage: Callable[[bytes, random.Random], bytes]) -> None:
    """Every file of a kind damaged at once, its locks too: the same numbers, each logged once."""
    assert scored.call("run", "--protocol", "smoke").code == 0
    wanted = scored.results()
    draw = random.Random(0)
    damaged = [p for p in scored.store.glob(f"{kind}/**/*") if p.is_file()]
    assert damaged
    for path in damaged:
        path.write_bytes(damage(path.read_bytes() or b"?", draw))
    ended = scored.call("run", "--protocol", "smoke")
    assert ended.code == 0 and "Traceback" not in ended.err
    assert numbers(scored.results()) == numbers(wanted)
    assert sorted(r.key for r in fetch_results("smoke")) == sorted(r.key for r in wanted.values())
    again = scored.call("run", "--protocol", "smoke")
    assert re.search(r"0 trained, 3 reused; 0 scenarios scored, 3 reused", again.out), again.out
    assert "is damaged" not in again.err


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_networks_that_only_the_cost_of_training_is_asked_of(scored: Home, suffix: str) -> None:
    """Answers are stored, the note of the training is not: the utility is scored all the same."""
    (path,) = scored.store.glob(f"networks/*/*{suffix}")
    path.write_bytes(flip(path.read_bytes(), random.Random(1)))
    for result in scored.store.glob("result/*/*.json"):
        result.unlink()
    ended = scored.call("run", "--protocol", "smoke")
    assert ended.code == 0, ended.err
    assert len(scored.results()) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WHOLE = {"sha256": "0" * 64, "seconds": 1.0}
ODD_NOTES = [
    "", "{}", "[]", "null", "0", "NaN", '"text"', "[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "\ufeff{}",
    *(json.dumps({k: v for k, v in WHOLE.items() if k != left}) for left in WHOLE),
    *(json.dumps(WHOLE | {"seconds": v}) for v in (None, True, "1", [], {}, -1, float("nan"), float("inf"), 1e300, 10**400)),
    *(json.dumps(WHOLE | {"sha256": v}) for v in (None, 1, [], {})),
]  # fmt: skip
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def check_note(store: Store, text: str) -> None:
    """A sealed note of this text: whoever asks gets a note, none, or one line; and the tensors are made again."""
    store.save("kind", KEY, {"x": torch.ones(3)})
    store.path("kind", KEY, ".json").write_bytes(_sealed(text))
    if store.has("kind", KEY):
        assert 0 <= float(store.info("kind", KEY)["seconds"]) / 3 < float("inf")
    else:
        with pytest.raises(UserError, match=r"^[^\n]*expected a note of what was made[^\n]*$"):
            store.info("kind", KEY)
    assert store.load("kind", KEY) is None
    assert torch.equal(store.get("kind", KEY, lambda: {"x": torch.ones(3)})["x"], torch.ones(3))
    assert store.load("kind", KEY) is not None


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("text", ODD_NOTES, ids=lambda t: t[:40] or "empty")
def test_a_sealed_note_that_is_none(tmp_path: Path, text: str) -> None:
    check_note(Store(tmp_path), text)


@pytest.mark.filterwarnings("ignore:.*is damaged")
@quick
@given(st.dictionaries(st.sampled_from(["sha256", "seconds", "x"]), JSON) | JSON)
def test_a_sealed_note_of_anything(tmp_path_factory: pytest.TempPathFactory, note: Any) -> None:
    check_note(Store(tmp_path_factory.getbasetemp() / "notes"), json.dumps(note))


def header(fields: Any, length: int | None = None, body: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def one(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


LYING = [
    b"", b"\0" * 7, b"\0" * 8, b"\xff" * 8, b"\xff" * 100, header({}, 2**64 - 1), header({}, 2**63), header({}, 1), header([]),
    header(None), header({"x": 1}), header(one(), body=b"123"), header(one(), body=b"12345"), header(one(shape=(2**62, 4)), body=b"1234"),
    header(one(shape=(-1,)), body=b"1234"), header(one("F31"), body=b"1234"), header(one("F4"), body=b"1234"), header(one(offsets=(4, 0)), body=b"1234"),
    header(one(offsets=(0, 2**64)), body=b"1234"), header(one(shape=(0, 2**62), offsets=(0, 0))), header(one(shape=[1] * 100), body=b"1234"),
    header(one("BOOL", (4,)), body=b"1234"), header(one("F8_E5M2FNUZ", (4,)), body=b"1234"), b"\x08\0\0\0\0\0\0\0" + b"[" * 8,
]  # fmt: skip


def check_tensors(store: Store, content: bytes) -> None:
    """Tensors of these bytes, with a note that vouches for them: read, or made again; nothing else is raised."""
    store.path("kind", KEY, ".safetensors").parent.mkdir(parents=True, exist_ok=True)
    store.path("kind", KEY, ".safetensors").write_bytes(content)
    note = WHOLE | {"sha256": hashlib.sha256(content).hexdigest()}
    store.path("kind", KEY, ".json").write_bytes(_sealed(json.dumps(note)))
    found = store.load("kind", KEY)
    assert found is None or all(isinstance(t, torch.Tensor) for t in found.values())
    assert found is not None or torch.equal(store.get("kind", KEY, lambda: {"x": torch.ones(3)})["x"], torch.ones(3))


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("content", LYING, ids=lambda c: ascii(c[:60]))
def test_a_header_that_lies(tmp_path: Path, content: bytes) -> None:
    check_tensors(Store(tmp_path), content)


@pytest.mark.filterwarnings("ignore:.*is damaged")
@quick
@given(
    st.binary(max_size=60) | st.builds(header, JSON, st.none() | st.integers(0, 2**64 - 1), st.binary(max_size=9))
    | st.builds(lambda d, s, o, b: header(one(d, s, o), body=b), st.sampled_from(["F32", "BF16", "I64", "C64"]) | JSON, JSON | st.lists(st.integers(-1, 9), max_size=3), JSON | st.tuples(st.integers(0, 9), st.integers(0, 9)), st.binary(max_size=9))
)  # fmt: skip
def test_tensors_of_anything(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_tensors(Store(tmp_path_factory.getbasetemp() / "tensors"), content)


def odd_records() -> dict[str, str]:
    """Sealed texts that stand where a record should."""
    fields = json.loads(record(key=KEY).to_json())
    return {
        "another key": json.dumps(fields | {"key": "0" * 40}),
        "a failure": json.dumps(fields | {"status": "failed"}),
        "without a field": json.dumps({k: v for k, v in fields.items() if k != "seed"}),
        "one field more": json.dumps(fields | {"more": 1}),
        "a list": json.dumps([fields]),
        "nested": "[" * 100_000,
        "a long number": json.dumps(fields).replace('"seed": 0', f'"seed": {"1" * 10_000}'),
    }


@pytest.mark.parametrize("text", odd_records().values(), ids=odd_records())
def test_a_sealed_record_that_is_none(tmp_path: Path, text: str) -> None:
    store, result = Store(tmp_path), record(key=KEY)
    store.save_result(result)
    store.path("result", KEY, ".json").write_bytes(_sealed(text))
    with pytest.warns(UserWarning, match="the scenario will be scored again"):
        assert store.result(KEY) is None
    assert list(store.results(result.protocol_digest)) == []
    store.save_result(result)
    assert list(store.results(result.protocol_digest)) == [store.result(KEY)] == [result]


@pytest.mark.filterwarnings("ignore:.*is damaged")
@quick
@given(st.dictionaries(st.sampled_from(sorted(record().model_dump())), JSON, max_size=3))
def test_a_sealed_record_of_anything(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "records")
    store.save_result(record(key=KEY))
    store.path("result", KEY, ".json").write_bytes(
        _sealed(json.dumps(json.loads(record(key=KEY).to_json()) | {"key": KEY} | changes))
    )
    found = store.result(KEY)
    assert found is None or (found.key == KEY and found.status in ("ok", "skipped"))
    assert list(store.results(record().protocol_digest)) in ([], [found])


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("text", [ODD_NOTES[1], ODD_NOTES[2], json.dumps({"sha256": "0" * 64})], ids=["{}", "[]", "no seconds"])  # fmt: skip
def test_a_run_mends_sealed_files_that_hold_something_else(scored: Home, text: str) -> None:
    """Of every kind at once: the same numbers, and not a traceback."""
    wanted = scored.results()
    for path in scored.store.glob("*/*/*.json"):
        path.write_bytes(_sealed(text))
    ended = scored.call("run", "--protocol", "smoke")
    assert ended.code == 0 and "Traceback" not in ended.err, ended.err
    assert numbers(scored.results()) == numbers(wanted)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\x1b[2J" * 1000, b"a\nb"], ids=ascii)
def test_an_odd_note_of_tuning_is_one_line_and_still_says_so(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    assert store.how_tuned("p", "d") is None
    store.note_tuned("p", "d", "3 trials")
    assert store.how_tuned("p", "d") == "3 trials"
    store.tuned_path("p", "d").write_bytes(content)
    said = store.how_tuned("p", "d")
    assert said and said.isprintable() and len(said) <= 1000
