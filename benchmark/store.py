"""Content-addressed store: what was computed once is never computed again.

`<root>/<kind>/<key[:2]>/<key>.safetensors` holds tensors, a `.json` beside it their SHA-256 and what
they cost; results are JSON with their own digest. A key covers everything that made the content.
Files appear whole or not at all (temporary file, then rename), the JSON last; a lock a key keeps two
processes from the same work and dies with its holder. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from benchmark.result import Result

Tensors = dict[str, Tensor]


def digest(*parts: Any) -> str:
    """40 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def tensor_digest(*tensors: Tensor) -> str:
    """40 hex digits of the SHA-256 of shapes, types and bytes."""
    state = hashlib.sha256()
    for t in tensors:
        t = t.detach().cpu().contiguous()
        state.update(f"{t.dtype}{tuple(t.shape)}".encode())
        state.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:40]


class Store:
    """A folder of tensors and results. `made` and `reused` count what this process did."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.made: list[tuple[str, float]] = []
        self.reused: list[str] = []

    def path(self, kind: str, key: str, suffix: str) -> Path:
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def has(self, kind: str, key: str) -> bool:
        return self.path(kind, key, ".json").exists()

    def info(self, kind: str, key: str) -> dict[str, Any]:
        """What was noted when it was made: `sha256`, `seconds`, and the maker's own numbers."""
        loaded: dict[str, Any] = json.loads(self.path(kind, key, ".json").read_text())
        return loaded

    def load(self, kind: str, key: str) -> Tensors | None:
        """The tensors, or None where there are none or the file is damaged (with a warning)."""
        try:
            info = self.info(kind, key)
            content = self.path(kind, key, ".safetensors").read_bytes()
        except FileNotFoundError:
            return None
        except (ValueError, UnicodeDecodeError):
            info, content = {}, b""
        if hashlib.sha256(content).hexdigest() != info.get("sha256"):
            warnings.warn(f"{self.path(kind, key, '.safetensors')} is damaged; it will be made again", stacklevel=2)
            self.path(kind, key, ".json").unlink(missing_ok=True)
            return None
        return tensors_from_bytes(content)

    def get(self, kind: str, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The stored tensors, made now if they are not there."""
        found = self.load(kind, key)
        if found is None:
            with self.lock(kind, key):
                found = self.load(kind, key)
                if found is None:
                    start = time.perf_counter()
                    made = make()
                    seconds = time.perf_counter() - start
                    self.save(kind, key, made, seconds=seconds)
                    self.made.append((kind, seconds))
                    return made
        self.reused.append(kind)
        return found

    def save(self, kind: str, key: str, tensors: Tensors, **info: Any) -> None:
        content = tensors_to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        _write(self.path(kind, key, ".safetensors"), content)
        note = {"sha256": hashlib.sha256(content).hexdigest(), **info}
        _write(self.path(kind, key, ".json"), json.dumps(note, sort_keys=True).encode())

    def lock(self, kind: str, key: str) -> FileLock:
        path = self.path(kind, key, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def result(self, key: str) -> Result | None:
        """A stored success, or None; a damaged record is dropped with a warning."""
        path = self.path("result", key, ".json")
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = ""
        head, _, body = text.partition("\n")
        if hashlib.sha256(body.encode()).hexdigest() == head:
            with contextlib.suppress(ValueError):  # a record of another version
                return Result.from_json(body)
        warnings.warn(f"{path} is damaged; the scenario will be scored again", stacklevel=2)
        path.unlink(missing_ok=True)
        return None

    def save_result(self, result: Result) -> None:
        """Only success is kept: a failure is tried again."""
        if result.status in ("ok", "skipped"):
            body = result.to_json()
            head = hashlib.sha256(body.encode()).hexdigest()
            _write(self.path("result", result.key, ".json"), f"{head}\n{body}".encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a key cannot hold {type(value).__name__}")
