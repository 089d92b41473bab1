"""The process inside a sandbox that is warm and forks once for each piece of work on one entry.

Standard library alone until privileges are dropped and limits are set. It imports PyTorch and the
libraries that the entry asks for, but never the entry's own code: that is loaded in the forks, so that
no two pieces of work share more than libraries. Started by `isolation.py`, as
`main(control socket, configuration)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import sys

SCRATCH = ("/tmp", "/dev/shm")
_PR_SET_DUMPABLE = 4


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(sys.argv[2])
    _confine(config)
    if config["probe"]:
        found = importlib.util.find_spec("torch") is not None
        control.send(json.dumps({"torch": found, "uid": os.getuid()}).encode())
        return
    import torch

    from benchmark import sandbox

    torch.set_num_threads(1)
    for name in config["libraries"]:
        with contextlib.suppress(Exception):  # the fork will fail the same way, and say so
            importlib.import_module(name)
    _Forks(control, sandbox.serve).loop()


def _confine(config: dict[str, int]) -> None:
    """Become the sandbox's own user, and take the limits: from here on they can't be raised again."""
    if config["uid"]:
        os.setgroups([])
        os.setresgid(config["uid"], config["uid"], config["uid"])
        os.setresuid(config["uid"], config["uid"], config["uid"])
    # Neither a fork nor its children may read or change this process through /proc.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    megabyte = 1 << 20
    for limit, value in (
        (resource.RLIMIT_DATA, config["memory_mb"] * megabyte),  # not the address space: PyTorch needs 3 GB of that
        (resource.RLIMIT_NPROC, config["processes"]),
        (resource.RLIMIT_NOFILE, config["files"]),
        (resource.RLIMIT_FSIZE, config["scratch_mb"] * megabyte),
        (resource.RLIMIT_CPU, config["seconds"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(limit, (value, value))


class _Forks:
    """Forks on request, reports how each fork ended, and cleans up when none is left."""

    def __init__(self, control: socket.socket, serve: object) -> None:
        self.control, self.serve = control, serve
        self.pids: dict[int, int] = {}

    def loop(self) -> None:
        signal.signal(signal.SIGCHLD, self._reap)
        while True:
            request, fds, _, _ = socket.recv_fds(self.control, 64, 2)
            if not request:
                return
            verb, number = request[:1], int(request[1:])
            if verb == b"F":
                self._fork(number, *fds)
            else:
                self._end(number)

    def _fork(self, number: int, stream: int, log: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # a fork can die before it is on the list
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            self.control.close()
            os.setsid()
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            self.serve(socket.socket(fileno=stream))  # type: ignore[operator]
            sys.stdout.flush()
            os._exit(0)
        os.close(stream)
        os.close(log)
        self.pids[number] = pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def _end(self, number: int) -> None:
        pid = self.pids.get(number)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        elif not self.pids:
            self._clean()

    def _reap(self, *_: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for number in [n for n, p in self.pids.items() if p == pid]:
                del self.pids[number]
                with contextlib.suppress(OSError):
                    self.control.send(json.dumps({"ended": number, "status": status}).encode())
        if not self.pids:
            self._clean()

    def _clean(self) -> None:
        """Nothing of one piece of work reaches the next: neither processes nor files."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)
        for folder in SCRATCH:
            for item in os.scandir(folder):
                if item.is_dir(follow_symlinks=False):
                    shutil.rmtree(item.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(item.path)
            if os.listdir(folder):
                os._exit(1)  # what can't be wiped goes with the sandbox
