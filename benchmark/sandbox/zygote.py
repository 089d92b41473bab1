"""The first process inside a sandbox. It has the libraries loaded and forks once for each piece of work.

Standard library alone until privileges are dropped and limits are set. It imports PyTorch and the
libraries that entries ask for, but never an entry's own code: that is loaded in the forks, so that no two
pieces of work, of one entry or of two, share more than libraries.

Started by `host.py` with two arguments: the descriptor of the control socket and a JSON configuration
(`host._config`). Requests on the socket are `F<number>`, fork, with two descriptors (the judge's stream, the log), and
`E<number>`, end that fork. Reports go back as JSON: `forked`, `ended` with a wait status, and `clean` with the number
of the last fork, once no process and no file of it is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import pkgutil
import resource
import shutil
import signal
import site
import socket
import sys
import time
from typing import Any

SCRATCH = ("/tmp", "/dev/shm")
_PR_SET_DUMPABLE = 4


def main() -> None:
    """Confine this process, load the libraries, then fork on request until the judge closes the socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(sys.argv[2])
    _confine(config)
    for folder in config["packages"]:
        site.addsitedir(folder)
    site.setquit()
    os.environ["PYTHONPATH"] = ":".join(config["packages"])  # for Pythons that a submission starts
    if config["probe"]:
        has_torch = importlib.util.find_spec("torch") is not None
        control.send(json.dumps({"torch": has_torch, "uid": os.getuid()}).encode())
        return
    gc.disable()  # imports make little garbage, and collecting it takes a tenth of the start-up time
    import torch

    from benchmark.sandbox import inside

    torch.set_num_threads(1)
    for name in config["libraries"]:
        with contextlib.suppress(Exception):  # the fork will fail the same way, and say so
            pkgutil.resolve_name(name)  # not only the module: some packages import lazily, when a name is looked up
    inside.warm_up()
    gc.enable()
    gc.freeze()  # a fork that collects garbage would copy every page that holds an object
    _Forks(control, inside.serve, config["seconds"]).loop()


def _confine(config: dict[str, Any]) -> None:
    """Become the sandbox's own user and set the hard limits, which can't be raised afterwards."""
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
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(limit, (value, value))


class _Forks:
    """Forks on request, reports how each fork ended, and cleans up when none is left."""

    def __init__(self, control: socket.socket, serve: object, seconds: int) -> None:
        self.control, self.serve, self.seconds = control, serve, seconds
        self.last = 0
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
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # a fork can die before it is in `pids`
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # output survives a sudden death
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            # Processor time counts from the fork, not from the start. SIGXCPU at the soft limit tells the judge the
            # cause of death; a process that ignores it is killed at the hard limit.
            resource.setrlimit(resource.RLIMIT_CPU, (self.seconds, self.seconds + 5))
            self.control.close()
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)  # a description of its own: flags set on a shared one would reach the next fork
            os.close(null)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            self.serve(socket.socket(fileno=stream))  # type: ignore[operator]
            sys.stdout.flush()
            os._exit(0)
        os.close(stream)
        os.close(log)
        self.pids[number], self.last = pid, number
        self._tell({"forked": number})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def _end(self, number: int) -> None:
        """Kill a fork and wait for it, so that nothing of it is left at the next request."""
        pid = self.pids.get(number)
        if pid is None:
            self._clean_if_alone()
            return
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # the handler `_reap` may have been faster
            os.kill(pid, signal.SIGKILL)
            self._ended(pid, os.waitpid(pid, 0)[1])

    def _reap(self, *_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        for number in [n for n, p in self.pids.items() if p == pid]:
            del self.pids[number]
            self._tell({"ended": number, "status": status})
        self._clean_if_alone()

    def _tell(self, report: dict[str, int]) -> None:
        with contextlib.suppress(OSError):  # the judge is gone, and this process will go with it
            self.control.send(json.dumps(report).encode())

    def _clean_if_alone(self) -> None:
        """Nothing of one piece of work reaches the next: neither processes nor files."""
        if self.pids:
            return
        try:
            _end_all()
            for folder in SCRATCH:
                _empty(folder)
        except Exception:
            os._exit(1)  # a sandbox that can't be cleaned must not serve anybody else
        self._tell({"clean": self.last})


def _end_all() -> None:
    """Kill every other process, and wait until none is left. Raises TimeoutError."""
    for _ in range(1000):
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.002)
    raise TimeoutError("processes that can't be killed")


def _empty(folder: str) -> None:
    """Delete a folder's contents, and reset its own attributes, mode and times where the sandbox's user owns it.

    Raises OSError.
    """
    for item in os.scandir(folder):
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path)
        else:
            os.unlink(item.path)
    if os.stat(folder).st_uid == os.getuid():
        for name in os.listxattr(folder):
            os.removexattr(folder, name)
        os.chmod(folder, 0o1777)
        os.utime(folder, (0, 0))
