"""Faults on order: a small disk, a folder that cannot be written, an MLflow server that dies and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


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


@dataclass
class Server:
    """MLflow's own server on a free port of this machine."""

    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--artifacts-destination", str(self.folder / "a"),
        ]  # fmt: skip
        # `sys.path` for the test is not for the server, and neither is the address of the server itself.
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, start_new_session=True, stdout=log, stderr=log, cwd=self.folder, env=environment
            )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        """The server and its workers, at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, mlflow_template: Path) -> Iterator[Server]:
    """Not started yet; its database is migrated already."""
    (tmp_path / "server.db").write_bytes(mlflow_template.read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(tmp_path, port)
    yield server
    server.kill()
