"""How much memory a process and its descendants use (Linux): what a sandbox may not exceed and what a check reports."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def tree(pid: int) -> Iterator[int]:
    """The ids of a process and of all its descendants."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text("ascii").split():
                yield from tree(int(child))


def own(pid: int) -> int:
    """Bytes of memory of a process that no file backs; shared memory counts in full."""
    return _kilobytes(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:")) * 1024


def share(pid: int) -> int:
    """Bytes of memory of a process that no file backs; memory that n processes share counts 1/n for each."""
    try:
        return _kilobytes(f"/proc/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) * 1024
    except PermissionError:
        return own(pid)


def _kilobytes(file: str, names: tuple[str, ...]) -> int:
    try:
        lines = Path(file).read_text("utf-8", "replace").split("\n")  # a process may give itself any name
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(names))
