"""The store: what goes in comes out bit for bit, once; damage is noticed and mended."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark.result import Result
from benchmark.store import Store, digest, tensor_digest

KEY = digest("a key")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def record() -> Result:
    fields = {"protocol": "p", "protocol_digest": "d", "task": "membership", "attack": "a", "defense": "b"}
    return Result(key=KEY, dataset="x", architecture="y", seed=0, status="ok", metrics={"auc": 0.5}, **fields)  # type: ignore[arg-type]


def tensors() -> dict[str, Tensor]:
    return {
        "double": torch.tensor([0.1, float("nan"), -0.0, float("-inf")], dtype=torch.float64),
        "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3).t(),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


def bits(t: Tensor) -> bytes:
    return bytes(t.contiguous().view(-1).view(torch.uint8).numpy())


def test_tensors_come_back_bit_for_bit(store: Store) -> None:
    store.save("kind", KEY, tensors(), seconds=2.0)
    found = store.load("kind", KEY)
    assert found is not None and found.keys() == tensors().keys()
    for name, t in tensors().items():
        assert (found[name].dtype, found[name].shape, bits(found[name])) == (t.dtype, t.shape, bits(t))
    assert store.info("kind", KEY)["seconds"] == 2.0
    assert store.has("kind", KEY)
    assert store.load("kind", digest("another")) is None
    assert store.load("other", KEY) is None


def test_made_once(store: Store) -> None:
    calls = []

    def make() -> dict[str, Tensor]:
        calls.append(1)
        return {"x": torch.ones(2)}

    for fresh in (store, store, Store(store.root)):
        assert torch.equal(fresh.get("kind", KEY, make)["x"], torch.ones(2))
    assert len(calls) == 1
    assert [kind for kind, _ in store.made] == ["kind"]
    assert store.reused == ["kind"]


def _make_slowly(root: Path) -> None:
    def make() -> dict[str, Tensor]:
        with (root / "calls").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return {"x": torch.ones(1)}

    Store(root).get("kind", KEY, make)


def test_two_processes_do_not_make_the_same(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_make_slowly, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: bytes([b[0] ^ 1]) + b[1:]], ids=["cut", "empty", "bit"]
)  # fmt: skip
def test_a_damaged_file_is_made_again(store: Store, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    store.get("kind", KEY, tensors)
    path = store.path("kind", KEY, suffix)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged; it will be made again"):
        again = store.get("kind", KEY, tensors)
    assert bits(again["double"]) == bits(tensors()["double"])
    assert len(store.made) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.load("kind", KEY) is not None


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_missing_file_is_made_again(store: Store, suffix: str) -> None:
    store.get("kind", KEY, tensors)
    store.path("kind", KEY, suffix).unlink()
    store.get("kind", KEY, tensors)
    assert len(store.made) == 2


def test_a_failure_leaves_nothing(store: Store) -> None:
    def fail() -> dict[str, Tensor]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.get("kind", KEY, fail)
    with pytest.raises(AttributeError):
        store.save("kind", KEY, {"x": "not a tensor"})  # type: ignore[dict-item]
    assert not store.has("kind", KEY)
    assert [p.suffix for p in store.root.rglob("*") if p.is_file()] in ([], [".lock"])
    store.get("kind", KEY, tensors)  # the lock is free


def test_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(frozenset({"x", "y"})) == digest(["x", "y"])
    apart = [
        digest(1),
        digest(1.0),
        digest("1"),
        digest([1]),
        digest(),
        digest(None),
        digest(True),
        digest("", "1"),
        digest("1", ""),
    ]
    assert len(set(apart)) == len(apart)
    assert all(len(d) == 40 and set(d) <= set("0123456789abcdef") for d in apart)
    with pytest.raises(TypeError, match="a key cannot hold Tensor"):
        digest(torch.ones(1))


def test_digests_of_tensors() -> None:
    x = torch.arange(6.0)
    apart = [
        tensor_digest(x),
        tensor_digest(x.double()),
        tensor_digest(x.view(2, 3)),
        tensor_digest(x + 1e-6),
        tensor_digest(-0.0 * x),
    ]
    assert len(set(apart)) == len(apart)
    assert tensor_digest(x.view(2, 3).t().t()) == tensor_digest(x.view(2, 3))
    assert tensor_digest(x.view(2, 3).t()) == tensor_digest(x.view(2, 3).t().contiguous())


def test_results(store: Store, record: Result) -> None:
    assert store.result(KEY) is None
    for status in ("failed", "timeout", "out-of-memory"):
        store.save_result(record.model_copy(update={"status": status}))
        assert store.result(KEY) is None, "a failure is tried again"
    store.save_result(record)
    assert store.result(KEY) == record


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "old", "binary"])
def test_a_damaged_result_is_dropped(store: Store, record: Result, damage: str) -> None:
    store.save_result(record)
    path = store.path("result", KEY, ".json")
    text = path.read_text()
    old = '{"a": "record of another version"}'
    path.write_bytes(
        {
            "cut": text[: len(text) // 2].encode(),
            "empty": b"",
            "other": text.replace("0.5", "0.9").encode(),
            "old": f"{hashlib.sha256(old.encode()).hexdigest()}\n{old}".encode(),
            "binary": b"\xff\xfe",
        }[damage]
    )
    with pytest.warns(UserWarning, match="the scenario will be scored again"):
        assert store.result(KEY) is None
    store.save_result(record)
    assert store.result(KEY) == record
