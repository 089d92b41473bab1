"""Content-addressed store: what was computed once is never computed again.

`<root>/<kind>/<key[:2]>/<key>.safetensors` holds tensors, a `.json` beside it their SHA-256 and what
they cost; results are JSON. Each JSON file starts with its own SHA-256, so that damage in any byte of the
store is noticed; a whole file that holds something else than it should counts as damaged too. A key covers
everything that made the content. Files appear whole or not at all (temporary file, then rename), the JSON last;
a lock a key keeps two processes from the same work and dies with its holder. Nothing is pickled. The umask says who
else may read and write what is made here.

A store that cannot be read or written is a UserError that names the folder, the cause and the way out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from benchmark.digests import digest as digest
from benchmark.errors import UserError, printable
from benchmark.result import Result

Tensors = dict[str, Tensor]
_KEPT = ("ok", "skipped")
_LONGEST = 1e9
"""Seconds that making something can have taken: 30 years."""


def tensor_digest(*tensors: Tensor) -> str:
    """40 hex digits of the SHA-256 of shapes, types and bytes."""
    state = hashlib.sha256()
    for t in tensors:
        t = t.detach().cpu().contiguous()
        state.update(f"{t.dtype}{tuple(t.shape)}".encode())
        state.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:40]


class StoreError(UserError):
    """The store can't be read or written: no job can go on."""


class Store:
    """A folder of tensors and results. `made` and `reused` count what this process did."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.made: list[tuple[str, float]] = []
        self.reused: list[str] = []
        self._making: set[tuple[str, str]] = set()

    def path(self, kind: str, key: str, suffix: str) -> Path:
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def has(self, kind: str, key: str) -> bool:
        """Whether it was made, by its note; the tensors are checked when they are loaded."""
        return self._note(kind, key) is not None

    def info(self, kind: str, key: str) -> dict[str, Any]:
        """What was noted when it was made: `sha256` and `seconds`.

        Raises UserError where there is no such note, or a damaged one.
        """
        note = self._note(kind, key)
        if note is None:
            path = self.path(kind, key, ".json")
            raise UserError(f"{path}: expected a note of what was made, given none; run the same command again")
        return note

    def load(self, kind: str, key: str) -> Tensors | None:
        """The tensors, or None where there are none or a file is damaged (with a warning)."""
        path = self.path(kind, key, ".safetensors")
        note, content = self._note(kind, key), self._read(path)
        if note is None or content is None:
            return None
        if hashlib.sha256(content).hexdigest() == note["sha256"]:
            with contextlib.suppress(Exception):  # a header may say anything, and readers raise many kinds
                return tensors_from_bytes(content)
        warnings.warn(f"{path} is damaged; it will be made again", stacklevel=2)
        return None

    def get(self, kind: str, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The stored tensors, made now if they are not there."""
        found = self.load(kind, key)
        if found is None:
            if (kind, key) in self._making:
                raise ValueError(f"expected {kind} to be made from other things, given one that is made from itself")
            with self.lock(kind, key):
                found = self.load(kind, key)
                if found is None:
                    start = time.perf_counter()
                    self._making.add((kind, key))
                    try:
                        made = make()
                    finally:
                        self._making.discard((kind, key))
                    seconds = time.perf_counter() - start
                    self.save(kind, key, made, seconds)
                    self.made.append((kind, seconds))
                    return made
        self.reused.append(kind)
        return found

    def save(self, kind: str, key: str, tensors: Tensors, seconds: float = 0.0) -> None:
        """Keep tensors, and how many seconds they took."""
        content = tensors_to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        self._write(self.path(kind, key, ".safetensors"), content)
        note = {"sha256": hashlib.sha256(content).hexdigest(), "seconds": seconds}
        self._write(self.path(kind, key, ".json"), _sealed(json.dumps(note, sort_keys=True)))

    @contextlib.contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Held by one process at a time; the kernel frees it when the holder dies."""
        path = self.path(kind, key, ".lock")
        held = FileLock(path)
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            held.acquire()
        try:
            yield
        finally:
            held.release()

    def result(self, key: str) -> Result | None:
        """A stored success, or None; a damaged record counts as none (with a warning)."""
        path = self.path("result", key, ".json")
        content = self._read(path)
        if content is None:
            return None
        if (found := _record(content)) is not None and found.key == key:
            return found
        warnings.warn(f"{path} is damaged; the scenario will be scored again", stacklevel=2)
        return None

    def results(self, version: str) -> Iterator[Result]:
        """Every stored success of a protocol version (`Result.protocol_digest`), whatever entries it is of; damaged ones are left out."""
        seal = f'"protocol_digest":"{version}"'.encode()  # most of a store is of other protocols: they are not parsed
        for path in self._records():
            content = self._read(path)
            if content is not None and seal in content:
                found = _record(content)
                if found is not None and (found.protocol_digest, found.key) == (version, path.stem):
                    yield found

    def save_result(self, result: Result) -> None:
        """Only success is kept: a failure is tried again."""
        if result.status in _KEPT:
            with self.lock("result", result.key):
                self._write(self.path("result", result.key, ".json"), _sealed(result.to_json()))

    def tuned(self, protocol: str, defense: str) -> Path:
        """The file that says how a defense's hyperparameters were tuned for a protocol, where they were (RULES 27)."""
        return self.root / "tuned" / f"{digest(protocol, defense)}.txt"

    def note_tuned(self, protocol: str, defense: str, how: str) -> None:
        """Note how a defense's hyperparameters were tuned for a protocol."""
        with self.lock("tuned", digest(protocol, defense)):
            self._write(self.tuned(protocol, defense), how.encode())

    def how_tuned(self, protocol: str, defense: str) -> str | None:
        """What `note_tuned` noted, as one line; None where it was not tuned here."""
        content = self._read(self.tuned(protocol, defense))
        return None if content is None else printable(content.decode(errors="replace"), 1000) or "in an unknown way"

    def check_writable(self) -> None:
        """Raises UserError where a megabyte cannot be written: hours of work would be lost at their end."""
        self._write(self.root / f".probe-{os.getpid()}", bytes(1 << 20))
        with contextlib.suppress(OSError):
            (self.root / f".probe-{os.getpid()}").unlink()

    def _note(self, kind: str, key: str) -> dict[str, Any] | None:
        path = self.path(kind, key, ".json")
        content = self._read(path)
        if content is None:
            return None
        with contextlib.suppress(ValueError, RecursionError):
            note = json.loads(_opened(content))
            if _is_note(note):
                return note  # type: ignore[no-any-return]
        warnings.warn(f"{path} is damaged; it will be made again", stacklevel=2)
        return None

    def _read(self, path: Path) -> bytes | None:
        with self._told(), contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def _records(self) -> list[Path]:
        """The files of all results. A folder that cannot be read is told: a glob would leave it out."""
        with self._told(), contextlib.suppress(FileNotFoundError):
            folders = [folder for folder in (self.root / "result").iterdir() if folder.is_dir()]
            return sorted(path for folder in folders for path in folder.iterdir() if path.suffix == ".json")
        return []

    def _write(self, path: Path, content: bytes) -> None:
        """The caller holds the key's lock: what a killed writer has left is overwritten, never piled up."""
        temporary = path.with_name(f".{path.name}.tmp")
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)  # another user's could not be overwritten
            try:
                with open(temporary, "xb") as file:
                    file.write(content)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the system refuses becomes one line that says how to go on."""
        try:
            yield
        except OSError as problem:
            way = "then run the same command again: what is stored is kept"
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(_existing(self.root)).free / 1e6
                what, mend = f"is full: {free:.1f} MB free", "make room"
            else:
                cause = f"{problem.strerror or problem}: {problem.filename or self.root}"
                what, mend = f"cannot be used ({cause})", "give this user the right to read and write it"
            folder = "or set LEAKBOARD_STORE to another folder"
            raise StoreError(f"the store {self.root} {what}; {mend}, {folder}, {way}") from None


def _sealed(body: str) -> bytes:
    """The text behind its own SHA-256."""
    content = body.encode()
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _opened(content: bytes) -> str:
    """What `_sealed` has sealed. Raises ValueError where a byte has changed."""
    head, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != head:
        raise ValueError("damaged")
    return body.decode()


def _is_note(note: Any) -> bool:
    if not isinstance(note, dict) or not isinstance(note.get("sha256"), str):
        return False
    seconds: Any = note.get("seconds")
    return type(seconds) in (int, float) and 0 <= seconds <= _LONGEST


def _record(content: bytes) -> Result | None:
    """A record as `save_result` keeps it; None for one that is damaged, or of another version."""
    try:
        found = Result.from_json(_opened(content))
    except (ValueError, RecursionError):
        return None
    return found if found.status in _KEPT else None


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())
