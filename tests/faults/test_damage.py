"""Damage in any byte of the store is noticed, and mended by the next call."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmark.store import Store, digest
from benchmark.tracking import Tracker, fetch_results
from tests.conftest import Home, numbers
from tests.test_tracking import record, runs_of

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
    (mark,) = (home.store / "logged").rglob("*.json")
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
