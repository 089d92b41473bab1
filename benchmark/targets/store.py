"""Content-addressed store: what was computed once is never computed again.

`<root>/<kind>/<key[:2]>/<key>.safetensors` holds tensors, a `.json` beside it, the note, their SHA-256 and the seconds
that they took; results are JSON. Each JSON file starts with its own SHA-256, so that damage in any byte of the
store is noticed; an intact file with unexpected content counts as damaged too. A key covers
everything that made the content. Files appear whole or not at all (temporary file, then rename), the JSON last.
One lock for each key keeps two processes from the same work; it is released when its holder dies. Nothing is pickled.
The umask decides who else may read and write these files.

A store that cannot be read or written raises StoreError, which names the folder, the cause and the way out.
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
_KEPT_STATUSES = ("ok", "skipped")
"""Of the results that are stored: a failure is tried again."""
_MAX_SECONDS = 1e9
"""Seconds that a note may state at most: 30 years."""


def tensor_digest(*tensors: Tensor) -> str:
    """40 hex digits of the SHA-256 of shapes, types and bytes."""
    sha256 = hashlib.sha256()
    for t in tensors:
        t = t.detach().cpu().contiguous()
        sha256.update(f"{t.dtype}{tuple(t.shape)}".encode())
        sha256.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()[:40]


class StoreError(UserError):
    """The store can't be read or written: no job can go on."""


class Store:
    """A folder of tensors and results.

    `made`: kind and seconds of what this process computed; `reused`: kind of what it loaded instead.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.made: list[tuple[str, float]] = []
        self.reused: list[str] = []
        self._making: set[tuple[str, str]] = set()

    def path(self, kind: str, key: str, suffix: str) -> Path:
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def has(self, kind: str, key: str) -> bool:
        """Whether there is a note of it; the tensors are checked only when they are loaded."""
        return self._note(kind, key) is not None

    def info(self, kind: str, key: str) -> dict[str, Any]:
        """The note that was written with the tensors: `sha256` and `seconds`.

        Raises UserError where there is no note, or a damaged one.
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
            with contextlib.suppress(Exception):  # a damaged header raises many kinds of error
                return tensors_from_bytes(content)
        warnings.warn(f"{path} is damaged; it will be made again", stacklevel=2)
        return None

    def get(self, kind: str, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The stored tensors; if there are none, those of `make`, which are stored.

        Raises ValueError where `make` asks for itself.
        """
        tensors = self.load(kind, key)
        if tensors is None:
            if (kind, key) in self._making:
                raise ValueError(f"expected {kind} to be made from other things, given one that is made from itself")
            with self.lock(kind, key):
                tensors = self.load(kind, key)
                if tensors is None:
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
        return tensors

    def save(self, kind: str, key: str, tensors: Tensors, seconds: float = 0.0) -> None:
        """Store tensors, and the seconds that they took to make."""
        content = tensors_to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        self._write(self.path(kind, key, ".safetensors"), content)
        note = {"sha256": hashlib.sha256(content).hexdigest(), "seconds": seconds}
        self._write(self.path(kind, key, ".json"), _sealed(json.dumps(note, sort_keys=True)))

    @contextlib.contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Held by one process at a time; the kernel frees it when the holder dies."""
        path = self.path(kind, key, ".lock")
        file_lock = FileLock(path)
        with self._os_errors_explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            file_lock.acquire()
        try:
            yield
        finally:
            file_lock.release()

    def result(self, key: str) -> Result | None:
        """A stored result, ok or skipped, or None; a damaged record counts as none (with a warning)."""
        path = self.path("result", key, ".json")
        content = self._read(path)
        if content is None:
            return None
        if (result := _parse_record(content)) is not None and result.key == key:
            return result
        warnings.warn(f"{path} is damaged; the scenario will be scored again", stacklevel=2)
        return None

    def results(self, version: str) -> Iterator[Result]:
        """Every stored result of a version of a protocol (`Result.protocol_digest`); damaged ones are left out."""
        marker = f'"protocol_digest":"{version}"'.encode()  # most records are of other protocols, and parsing is slow
        for path in self._record_paths():
            content = self._read(path)
            if content is not None and marker in content:
                result = _parse_record(content)
                if result is not None and (result.protocol_digest, result.key) == (version, path.stem):
                    yield result

    def save_result(self, result: Result) -> None:
        """Store a result that is ok or skipped. A failure is not stored: it is tried again."""
        if result.status in _KEPT_STATUSES:
            with self.lock("result", result.key):
                self._write(self.path("result", result.key, ".json"), _sealed(result.to_json()))

    def tuned_path(self, protocol: str, defense: str) -> Path:
        """The file that notes how a defense's hyperparameters were tuned for a protocol; it exists only if they were
        (RULES 27)."""
        return self.root / "tuned" / f"{digest(protocol, defense)}.txt"

    def note_tuned(self, protocol: str, defense: str, how: str) -> None:
        """Note how a defense's hyperparameters were tuned for a protocol."""
        with self.lock("tuned", digest(protocol, defense)):
            self._write(self.tuned_path(protocol, defense), how.encode())

    def how_tuned(self, protocol: str, defense: str) -> str | None:
        """What `note_tuned` noted, as one line; None where it was not tuned here."""
        content = self._read(self.tuned_path(protocol, defense))
        return None if content is None else printable(content.decode(errors="replace"), 1000) or "in an unknown way"

    def check_writable(self) -> None:
        """Raises StoreError where a megabyte cannot be written: better now than after hours of work."""
        self._write(self.root / f".probe-{os.getpid()}", bytes(1 << 20))
        with contextlib.suppress(OSError):
            (self.root / f".probe-{os.getpid()}").unlink()

    def _note(self, kind: str, key: str) -> dict[str, Any] | None:
        path = self.path(kind, key, ".json")
        content = self._read(path)
        if content is None:
            return None
        with contextlib.suppress(ValueError, RecursionError):
            note = json.loads(_unsealed(content))
            if _is_valid_note(note):
                return note  # type: ignore[no-any-return]
        warnings.warn(f"{path} is damaged; it will be made again", stacklevel=2)
        return None

    def _read(self, path: Path) -> bytes | None:
        with self._os_errors_explained(), contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def _record_paths(self) -> list[Path]:
        """The files of all results.

        Raises StoreError for a folder that cannot be read: a glob would skip it silently.
        """
        with self._os_errors_explained(), contextlib.suppress(FileNotFoundError):
            folders = [folder for folder in (self.root / "result").iterdir() if folder.is_dir()]
            return sorted(path for folder in folders for path in folder.iterdir() if path.suffix == ".json")
        return []

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file whole or not at all.

        The caller holds the key's lock, so a temporary file that is there was left by a killed writer.
        """
        temporary = path.with_name(f".{path.name}.tmp")
        with self._os_errors_explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)  # opening another user's file for writing would fail
            try:
                with open(temporary, "xb") as file:
                    file.write(content)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise

    @contextlib.contextmanager
    def _os_errors_explained(self) -> Iterator[None]:
        """Turns an OSError into a StoreError: one line with the cause and the way out."""
        try:
            yield
        except OSError as error:
            afterwards = "then run the same command again: what is stored is kept"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(_nearest_folder(self.root)).free / 1e6
                state, remedy = f"is full: {free:.1f} MB free", "make room"
            else:
                cause = f"{error.strerror or error}: {error.filename or self.root}"
                state, remedy = f"cannot be used ({cause})", "give this user the right to read and write it"
            alternative = "or set LEAKBOARD_STORE to another folder"
            raise StoreError(f"the store {self.root} {state}; {remedy}, {alternative}, {afterwards}") from None


def _sealed(body: str) -> bytes:
    """The text as bytes, after a line with its SHA-256."""
    content = body.encode()
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _unsealed(content: bytes) -> str:
    """The text of `_sealed`. Raises ValueError where a byte has changed."""
    head, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != head:
        raise ValueError("damaged")
    return body.decode()


def _is_valid_note(note: Any) -> bool:
    if not isinstance(note, dict) or not isinstance(note.get("sha256"), str):
        return False
    seconds: Any = note.get("seconds")
    return type(seconds) in (int, float) and 0 <= seconds <= _MAX_SECONDS


def _parse_record(content: bytes) -> Result | None:
    """The result in a file of `save_result`; None if it is damaged, or of another version of the record."""
    try:
        result = Result.from_json(_unsealed(content))
    except (ValueError, RecursionError):
        return None
    return result if result.status in _KEPT_STATUSES else None


def _nearest_folder(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())
