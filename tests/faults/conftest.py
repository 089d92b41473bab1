"""Faults on order: a small disk, a folder that cannot be written, an MLflow server that dies and comes back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.servers import Server, free_port


@dataclass
class Disk:
    """A file system of its own at `folder`."""

    folder: Path

    def remount(self, options: str) -> None:
        """`size=8m`, `ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)


@pytest.fixture
def disk_at() -> Iterator[Callable[[Path, str], Disk]]:
    """disk_at(folder, size) mounts a file system of that size; without the right to do that, the test is skipped."""
    mounted = []

    def mount(folder: Path, size: str) -> Disk:
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, check=False
        )
        if done.returncode:
            folder.rmdir()
            pytest.skip("mounting is not allowed here; the patched faults are tested all the same")
        mounted.append(folder)
        return Disk(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path, disk_at: Callable[[Path, str], Disk]) -> Callable[[str], Disk]:
    """disk(size) mounts a file system where the store of `home` lies."""
    return lambda size: disk_at(tmp_path / "store", size)


@pytest.fixture
def server(tmp_path: Path, mlflow_template: Path) -> Iterator[Server]:
    """Not started yet; its database is migrated already."""
    (tmp_path / "server.db").write_bytes(mlflow_template.read_bytes())
    server = Server(tmp_path, free_port())
    yield server
    server.kill()
