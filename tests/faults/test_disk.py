"""A disk that is full, and a folder that cannot be written: one line says so, and nothing is lost."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.run.tracking import Tracker, fetch_results
from benchmark.targets.store import Store, digest
from tests.conftest import Ended, Home, numbers
from tests.faults.conftest import Disk
from tests.run.test_tracking import record

KEY = digest("a key")


def tensors() -> dict[str, Tensor]:
    return {"x": torch.arange(1000.0)}


def one_line(ended: Ended, text: str) -> None:
    """The command has ended with one error line that holds `text` and says how to go on."""
    errors = [line for line in ended.err.splitlines() if "error:" in line]
    assert ended.code == 2
    assert len(errors) == 1 and text in errors[0]
    assert "LEAKBOARD_STORE" in errors[0] and "run the same command again" in errors[0]
    assert "Traceback" not in ended.err + ended.out


class Failing:
    """From the n-th on, whatever makes or fills a file of the folder fails with `code`; -1 is never."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
        self.left, self.calls, self.folder, self.code = -1, 0, str(folder), code
        for module, name in ((os, "mkdir"), (os, "replace"), (os, "open"), (builtins, "open"), (io, "open")):
            patch.setattr(module, name, self.wrapped(getattr(module, name)))

    def wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            writes = real.__name__ != "open" or any(isinstance(a, str) and {*a} & {*"wx"} for a in arguments)
            writes |= any(isinstance(a, int) and a & os.O_CREAT for a in arguments)
            if writes and str(path).startswith(self.folder):
                self.calls += 1
                if 0 <= self.left < self.calls:
                    raise OSError(self.code, os.strerror(self.code), str(path))
            return real(path, *arguments, **named)

        return call


def keep(store: Store) -> None:
    store.get("kind", KEY, tensors)
    store.save_result(record(key=KEY))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_every_write_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Whichever call of the system is refused first: one line, no half-written file, and the next try succeeds."""
    counting = Failing(monkeypatch, tmp_path, code)
    keep(Store(tmp_path / "count"))
    calls = counting.calls
    assert calls >= 8
    for n in range(calls):
        store = Store(tmp_path / str(n))
        counting.left, counting.calls = n, 0
        with pytest.raises(UserError) as error:
            keep(store)
        full = code in (errno.ENOSPC, errno.EDQUOT)
        expected = f"the store {store.root} {'is full: ' if full else 'cannot be used ('}"
        assert str(error.value).startswith(expected) and "\n" not in str(error.value)
        counting.left = -1
        assert not [p for p in store.root.rglob("*") if p.suffix == ".tmp"]
        assert torch.equal(store.get("kind", KEY, tensors)["x"], tensors()["x"])
        store.save_result(record(key=KEY))
        assert store.result(KEY) == record(key=KEY)


def test_an_error_of_what_makes_the_tensors_is_its_own(tmp_path: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise OSError(errno.ENOSPC, "a data set's disk")

    with pytest.raises(OSError, match="a data set's disk"):
        Store(tmp_path).get("kind", KEY, fail)


@pytest.mark.parametrize("when", ["start", "middle"])
def test_a_full_disk(home: Home, inline: None, disk: Callable[[str], Disk], when: str) -> None:
    small = disk("300k")  # the networks need more
    if when == "middle":
        # It fills up after the look before the first job: the first job that can't store its work ends the run.
        home.patch.setattr(Store, "check_writable", lambda self: None)
    one_line(home.call("run", "--protocol", "smoke"), "is full: 0.")
    assert not list(small.folder.rglob("*.tmp")) and not list(small.folder.glob(".*"))
    assert not fetch_results("smoke"), "a full disk is no result"
    small.remount("size=64m")
    assert home.call("run", "--protocol", "smoke").code == 0
    assert len(home.results()) == len(fetch_results("smoke")) == 3


def test_mlflow_on_a_full_disk(scored: Home, disk_at: Callable[[Path, str], Disk], mlflow_template: Path) -> None:
    """The results are kept, and logged as soon as there is room."""
    small = disk_at(scored.folder / "small", "16m")
    (small.folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    scored.patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{small.folder}/mlflow.db")
    filler = small.folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    before = scored.results()
    ended = scored.call("run", "--protocol", "smoke")
    assert ended.code == 0 and "3 results are kept and will be logged by the next run" in " ".join(ended.out.split())
    filler.unlink()
    assert "are kept" not in scored.call("run", "--protocol", "smoke").out
    assert numbers(scored.results()) == numbers(before)
    assert sorted(r.key for r in fetch_results("smoke")) == sorted(r.key for r in before.values())


@pytest.fixture
def unwritable(home: Home, disk: Callable[[str], Disk]) -> Iterator[Callable[[], None]]:
    """unwritable() takes away the right to write to the store: from root, a file system mounted read-only."""
    changed = []
    small = disk("64m") if os.geteuid() == 0 else None

    def take() -> None:
        if small:
            small.remount("ro")
            return
        home.store.mkdir(exist_ok=True)
        for folder in (home.store, *(p for p in home.store.rglob("*") if p.is_dir())):
            changed.append(folder)
            folder.chmod(0o500)

    yield take
    for folder in changed:
        folder.chmod(0o700)


def test_a_read_only_store(
    home: Home, inline: None, smoke_store: Path, unwritable: Callable[[], None], disk: Callable[[str], Disk]
) -> None:
    shutil.copytree(smoke_store, home.store, dirs_exist_ok=True)
    wanted = home.results()
    unwritable()
    ended = home.call("run", "--protocol", "smoke")
    assert ended.code == 0 and "random_scores" in ended.out, "what is stored can be shown"
    assert "Traceback" not in ended.err
    assert "3 results are kept" in ended.out and "ledger" in ended.out, "but not logged, or it would be logged twice"
    assert fetch_results("smoke") == []
    assert numbers(home.results()) == numbers(wanted)
    home.attack("mine")
    one_line(home.call("run", "mine", "--protocol", "smoke"), "cannot be used (")
    assert numbers(home.results()) == numbers(wanted)


def test_an_empty_read_only_store(home: Home, inline: None, unwritable: Callable[[], None]) -> None:
    unwritable()
    one_line(home.call("run", "--protocol", "smoke"), "cannot be used (")
    assert list(home.store.iterdir()) == []


def test_a_store_below_a_file(home: Home, inline: None) -> None:
    (home.folder / "file").write_text("")
    home.patch.setenv("LEAKBOARD_STORE", str(home.folder / "file" / "store"))
    one_line(home.call("run", "--protocol", "smoke"), "cannot be used (Not a directory")


def test_the_ledger_may_fail_at_any_write(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk between MLflow and the ledger: the run is there once, whenever it strikes."""
    failing = Failing(monkeypatch, home.store, errno.ENOSPC)
    Tracker(home.store / "logged").log(record("lira"))
    calls = failing.calls
    assert calls >= 4
    for n in range(calls):
        shutil.rmtree(home.store)
        result = record("lira", key=str(n))
        failing.left, failing.calls = n, 0
        tracker = Tracker(home.store / "logged")
        tracker.log(result)
        assert tracker.pending == [result] and "cannot be written: No space left" in tracker.reason
        failing.left = -1
        if n % 2:
            tracker = Tracker(home.store / "logged")
            tracker.log(result)
        else:
            tracker.retry()
        assert not tracker.pending
    assert sorted(r.key for r in fetch_results("toy")) == sorted(["key-lira", *map(str, range(calls))])
