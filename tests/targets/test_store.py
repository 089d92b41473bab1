"""The store: what goes in comes out bit for bit, once; damage is noticed and mended."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.result import Result
from benchmark.targets.store import Store, digest, tensor_digest

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


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], ids=oct)
def test_the_umask_decides_about_modes(tmp_path: Path, record: Result, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "store")
        keep(store, record)
    finally:
        os.umask(before)
    made = list((tmp_path / "store").rglob("*"))
    assert {p.suffix for p in made} == {"", ".json", ".safetensors", ".lock", ".txt"}
    for path in made:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def keep(store: Store, record: Result) -> None:
    store.get("kind", KEY, tensors)
    store.save_result(record)
    store.note_tuned("p", "d", "3 trials")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of the group GROUP, in which new folders belong to the group too."""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    folder = Path(tempfile.mkdtemp(prefix="leakboard-shared-"))  # others can't enter pytest's own
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


GROUP, STRANGERS = 54321, 54322


def as_user(user: int, group: int, umask: int, do: Callable[[], None]) -> int:
    """The exit code of a process of that user that does this."""

    def become() -> None:
        os.umask(umask)
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
        do()

    process = multiprocessing.get_context("fork").Process(target=become)
    process.start()
    process.join(60)
    return int(process.exitcode if process.exitcode is not None else -1)


def test_two_users_share_a_store(shared: Path, record: Result) -> None:
    """What one has made the other reads, adds to, and mends; a lock and a half-written file of one stop nobody."""
    root = shared / "store"
    path = Store(root).path("kind", KEY, ".safetensors")

    def first() -> None:
        keep(Store(root), record)
        path.with_name(f".{path.name}.tmp").write_bytes(b"half")
        (root / "kind" / digest("another")[:2]).mkdir()

    def second() -> None:
        store = Store(root)
        assert store.result(KEY) == record and store.how_tuned("p", "d") == "3 trials"
        assert list(store.results("d")) == [record]
        assert torch.equal(store.get("kind", KEY, lambda: 1 / 0)["half"], tensors()["half"])  # type: ignore[return-value, arg-type]
        store.get("kind", digest("another"), tensors)
        store.note_tuned("p", "d", "4 trials")
        store.save_result(record)
        path.write_bytes(b"damaged")
        warnings.simplefilter("ignore")
        assert torch.equal(store.get("kind", KEY, tensors)["half"], tensors()["half"]) and len(store.made) == 2
        store.check_writable()

    assert as_user(1001, GROUP, 0o002, first) == 0
    assert as_user(1002, GROUP, 0o002, second) == 0
    assert as_user(1001, GROUP, 0o002, lambda: keep(Store(root), record)) == 0


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], ids=oct)
def test_one_line_says_that_another_user_has_no_right(shared: Path, record: Result, umask: int) -> None:
    """A stranger reads what he may, and what he may not is never taken for nothing."""
    root = shared / "store"

    def stranger() -> None:
        store = Store(root)
        asked: list[Callable[[], object]] = [lambda: store.get("other", KEY, tensors), store.check_writable]
        reads = [lambda: store.result(KEY), lambda: store.how_tuned("p", "d"), lambda: list(store.results("d"))]
        if umask == 0o077:
            asked += reads
        else:
            assert [read() for read in reads] == [record, "3 trials", [record]]
        for ask in asked:
            with pytest.raises(
                UserError, match=r"cannot be used .*Permission denied.*give this user the right"
            ) as told:
                ask()
            assert "\n" not in str(told.value)

    assert as_user(1001, GROUP, umask, lambda: keep(Store(root), record)) == 0
    assert as_user(1003, STRANGERS, 0o022, stranger) == 0
