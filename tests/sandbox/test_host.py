"""Isolation: what runs in a sandbox sees nothing, changes nothing, outlives nothing, and ends as a status."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import Fault, UserError
from benchmark.protocol import Limits
from benchmark.sandbox import host, memory
from benchmark.sandbox.host import Launcher, Sandbox, Sandboxes, Session, probe, seccomp_filter
from tests.conftest import alive

ROOT = Path(__file__).resolve().parents[2]

# --- The system-call filter -------------------------------------------------------------------------

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
MACHINES = [("x86_64", X86_64, 0), ("aarch64", AARCH64, 1)]


def verdict(program: bytes, machine: int, number: int, first: int = 0, second: int = 0) -> int:
    """What the kernel does with a call: an interpreter of the few instructions that the filter needs.

    linux/seccomp.h lays `struct seccomp_data` out as number, architecture, address and six arguments.
    """
    data = struct.pack("=IIQ6Q", number, machine, 0, first, second, *[0] * 4)
    steps = [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)]
    at = value = 0
    while True:
        code, true, false, k = steps[at]
        at += 1
        match code:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                assert k % 4 == 0
                (value,) = struct.unpack_from("=I", data, k)
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                at += true if value == k else false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                at += true if value >= k else false
            case 0x45:  # BPF_JMP | BPF_JSET | BPF_K
                at += true if value & k else false
            case 0x06:  # BPF_RET | BPF_K
                return k
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def program(machine: str) -> bytes:
    found = seccomp_filter(machine)
    assert found is not None
    return found


# From the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
WORK = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "ioctl": 16, "fork": 57, "vfork": 58, "execve": 59, "exit": 60, "kill": 62, "openat": 257, "prctl": 157, "futex": 202, "sendmsg": 46, "recvmsg": 47, "setresuid": 117},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "ioctl": 29, "execve": 221, "exit": 93, "kill": 129, "openat": 56, "prctl": 167, "futex": 98, "sendmsg": 211, "recvmsg": 212, "setresuid": 147},
}  # fmt: skip
HOSTILE = {
    "x86_64": {"socket": 41, "connect": 42, "ptrace": 101, "mount": 165, "unshare": 272, "setns": 308, "process_vm_readv": 310, "memfd_create": 319, "bpf": 321, "io_uring_setup": 425, "keyctl": 250, "shmget": 29, "userfaultfd": 323},
    "aarch64": {"socket": 198, "connect": 203, "ptrace": 117, "mount": 40, "unshare": 97, "setns": 268, "process_vm_readv": 270, "memfd_create": 279, "bpf": 280, "io_uring_setup": 425, "keyctl": 219, "shmget": 194, "userfaultfd": 282},
}  # fmt: skip


@pytest.mark.parametrize(("machine", "audit", "column"), MACHINES)
def test_the_filter_denies_what_it_names_and_nothing_else(machine: str, audit: int, column: int) -> None:
    code = program(machine)
    denied = {numbers[column] for numbers in host._DENIED.values()}
    clone3, clone = host._CLONE3[column], host._CLONE[column]
    for number in range(600):
        wanted = EPERM if number in denied else ENOSYS if number == clone3 else ALLOW
        assert verdict(code, audit, number) == wanted, number
    assert HOSTILE[machine].items() <= {n: numbers[column] for n, numbers in host._DENIED.items()}.items()
    assert not set(WORK[machine].values()) & (denied | {clone3, clone})


@pytest.mark.parametrize(("machine", "audit", "column"), MACHINES)
def test_the_filter_refuses_new_namespaces(machine: str, audit: int, column: int) -> None:
    code, clone = program(machine), host._CLONE[column]
    flags = {
        "NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000, "NEWUSER": 0x10000000,
        "NEWPID": 0x20000000, "NEWNET": 0x40000000,
    }  # fmt: skip
    for flag in flags.values():
        assert verdict(code, audit, clone, flag | signal.SIGCHLD) == EPERM
    thread = 0x3D0F00  # what pthread_create asks for
    for fine in (signal.SIGCHLD, thread, 0x4111):
        assert verdict(code, audit, clone, fine) == ALLOW


@pytest.mark.parametrize(("machine", "audit", "column"), MACHINES)
def test_the_filter_reads_what_is_asked_of_limits_and_descriptors(machine: str, audit: int, column: int) -> None:
    code, prlimit, fcntl = program(machine), host._PRLIMIT[column], host._FCNTL[column]
    assert verdict(code, audit, prlimit, 0) == ALLOW, "its own"
    assert {verdict(code, audit, prlimit, pid) for pid in (1, 2, 77, 0xFFFFFFFF)} == {EPERM}
    for command in range(2048):  # the descriptor is the first argument, and anything
        wanted = ALLOW if command in host._FCNTL_ALLOWED else EPERM
        assert verdict(code, audit, fcntl, 9, command) == wanted, command
    locks, size_of_a_pipe, seals = (5, 6, 7, 36, 37, 38), 1031, 1033
    assert not {*locks, size_of_a_pipe, seals} & set(host._FCNTL_ALLOWED)


@pytest.mark.parametrize(("machine", "audit", "column"), MACHINES)
def test_the_filter_kills_other_calling_conventions(machine: str, audit: int, column: int) -> None:
    code = program(machine)
    for other in {X86_64, AARCH64, I386} - {audit}:
        assert verdict(code, other, WORK[machine]["read"]) == KILL
    x32 = verdict(code, audit, 0x40000000 | WORK[machine]["read"])
    assert x32 == (KILL if machine == "x86_64" else ALLOW), "only x86_64 has a second table"


def test_a_machine_without_a_table_has_no_filter() -> None:
    assert seccomp_filter("riscv64") is None


# --- The command ------------------------------------------------------------------------------------


def command(launcher: Launcher) -> list[str]:
    return launcher.command(7, host._config(Limits(), 61200, [], [], probe=False), 8)


def binds(arguments: list[str]) -> dict[Path, Path]:
    """What is bound, by where it lies inside."""
    at = [i for i, a in enumerate(arguments) if a in ("--ro-bind", "--bind", "--dev-bind", "--ro-bind-try")]
    assert all(arguments[i].startswith("--ro-bind") for i in at), "nothing can be written"
    return {Path(arguments[i + 2]): Path(arguments[i + 1]) for i in at}


@pytest.mark.parametrize("user_namespace", [True, False])
def test_what_the_command_promises(user_namespace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in host._ARITHMETIC:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")  # else the same work gives other digits in a sandbox than outside
    monkeypatch.setenv("LEAKBOARD_SPLIT_SECRET", "x")
    arguments = command(Launcher(user_namespace, proc=True))
    for flag in ("--die-with-parent", "--new-session", "--clearenv", "--seccomp"):
        assert flag in arguments
    if user_namespace:
        assert {"--unshare-all", "--disable-userns"} <= set(arguments)
    else:
        assert {"--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"} <= set(arguments)
        assert "ALL" in arguments[arguments.index("--cap-drop") :][:2]
    last = len(arguments) - 1 - arguments[::-1].index("--remount-ro")
    assert arguments[last + 1] == "/", "no bind comes after the root is read-only"
    assert not {"--bind", "--dev-bind", "--share-net"} & set(arguments)
    names = {arguments[i + 1] for i, a in enumerate(arguments) if a == "--setenv"}
    assert names == {*host._ENVIRONMENT, *host._python().environment, "MKL_CBWR"} and "COMPATIBLE" in arguments
    assert not any("LEAKBOARD" in n or "MLFLOW" in n for n in names)
    assert ("--proc" in arguments) and "--proc" not in command(Launcher(user_namespace, proc=False))


def test_nothing_private_is_bound() -> None:
    """With the virtual environment inside the checkout, as `make quickstart` has it."""
    bound = binds(command(Launcher(True, True)))
    private = [ROOT, ROOT / "mlruns", ROOT / "submissions", ROOT / "tests", ROOT / ".git", Path.home(), Path("/etc")]
    for outside in bound.values():
        for path in private:
            assert not path.is_relative_to(outside), f"{path} is seen through {outside}"
    assert bound[Path(host._INSIDE) / "benchmark"] == ROOT / "benchmark"


def installed(folder: Path, module: str = "leakprobe") -> Path:
    """A folder of installed packages with one in it, as pip leaves it."""
    (folder / f"{module}-1.0.dist-info").mkdir(parents=True)
    (folder / f"{module}.py").write_text("here = __file__\n")
    return folder


def test_a_checkout_with_its_environment_inside_shows_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "checkout" / ".venv"
    monkeypatch.syspath_prepend(installed(environment / "lib" / "python3.11" / "site-packages"))
    monkeypatch.syspath_prepend(tmp_path / "checkout")
    monkeypatch.setattr(sys, "prefix", str(environment))
    bound = binds(command(Launcher(False, True)))
    inside = [p for p in bound.values() if p.is_relative_to(tmp_path)]
    assert inside == [environment / "lib"]


@pytest.mark.parametrize("where", ["home", "project", "above the project", "store"])
def test_packages_that_lie_beside_what_is_private_are_not_shown(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment in the project's own folder, or `pip install --target .`, makes nothing of it visible."""
    home = tmp_path / "home"
    project = home / "project"
    (project / "mlruns" / "store").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(project)
    elsewhere = tmp_path / "elsewhere"
    folder = {"home": home, "project": project, "above the project": tmp_path, "store": elsewhere}[where]
    if where == "store":
        monkeypatch.setenv("LEAKBOARD_STORE", str(elsewhere / "store"))
    monkeypatch.syspath_prepend(installed(folder))
    monkeypatch.setattr(sys, "prefix", str(folder))
    (folder / "lib").mkdir()
    assert not [p for p in binds(command(Launcher(False, True))).values() if p.is_relative_to(tmp_path)]


def test_the_size_of_scratch_is_stated() -> None:
    arguments = command(Launcher(False, True))
    sizes = [arguments[i : i + 6] for i, a in enumerate(arguments) if a == "--perms"]
    assert [(s[3], s[5]) for s in sizes] == [(str(512 << 20), "/tmp"), (str(512 << 20), "/dev/shm")]


# --- Whether it works here --------------------------------------------------------------------------


def test_what_the_probe_says_is_so(launcher: Launcher) -> None:
    assert host._try(launcher) is None
    assert host.launcher() == launcher


def test_links_are_followed_and_odd_paths_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sandbox has of its own at a place, or Python can't have in a path, is no place for packages."""
    real = installed(tmp_path / "a:b")
    (tmp_path / "link").symlink_to(real)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "link" / ".." / "link"), str(real)])
    found = host._python()
    last = found.packages[-1]
    assert found.binds[last] == real and last.startswith("/leakboard/outside/")
    assert not [p for p in found.binds if any(Path(p).is_relative_to(own) for own in ("/tmp", "/dev", "/proc", "/sys"))]


def test_the_interpreter_may_be_called_by_any_path(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """`../.venv/bin/python` is no path inside the sandbox, where the folder that it starts from is missing."""
    prefix = Path(sys.prefix)
    around = f"{prefix}/../{prefix.name}"
    monkeypatch.setattr(sys, "executable", f"{around}/bin/{Path(sys.executable).name}")
    monkeypatch.setattr(sys, "_base_executable", f"{around}/bin/{Path(sys.executable).name}")
    monkeypatch.setattr(sys, "prefix", around)
    assert probe.__wrapped__() == launcher


def told(monkeypatch: pytest.MonkeyPatch, mode: str = "auto") -> str:
    """The error where no sandbox starts."""
    monkeypatch.setattr(host, "probe", probe.__wrapped__)
    with pytest.raises(UserError) as error:
        host.launcher(mode)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("system", "machine", "cause", "advice"),
    [
        ("linux", "x86_64", "bubblewrap is not installed", "apt-get install bubblewrap"),
        ("linux", "riscv64", "there is no system-call filter for riscv64", "x86_64 or aarch64"),
        ("darwin", "arm64", "there is no sandbox on", "Linux"),
    ],
)
def test_without_bubblewrap_the_error_says_so(
    system: str, machine: str, cause: str, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    text = told(monkeypatch)
    assert f"given: {cause}" in text and advice in text and text.endswith("add --trust")
    assert ("install it" in text) == ("not installed" in cause)


UID_MAP, NEW = (
    "bwrap: setting up uid map: Permission denied",
    "bwrap: Creating new namespace failed: Operation not permitted",
)


@pytest.mark.parametrize(
    ("said", "settings", "container", "cause", "advice"),
    [
        (UID_MAP, {"kernel.apparmor_restrict_unprivileged_userns": "1"}, False, "AppArmor forbids", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ("bwrap: No permissions to create new namespace", {"kernel.unprivileged_userns_clone": "0"}, False, "the system forbids", "kernel.unprivileged_userns_clone=1"),
        ("bwrap: Creating new namespace failed: No space left on device", {"user.max_user_namespaces": "0"}, True, "the system forbids", "user.max_user_namespaces=15000"),
        (NEW, {}, True, "this container's seccomp filter", "--security-opt seccomp=unconfined"),
        (UID_MAP, {"kernel.apparmor_restrict_unprivileged_userns": "1"}, True, "this container's", "--security-opt apparmor=unconfined"),
        (UID_MAP, {"kernel.apparmor_restrict_unprivileged_userns": "0"}, False, "AppArmor or a seccomp filter", "allow user namespaces"),
        ("bwrap: Unknown option --disable-userns", {}, False, "too old", "0.8"),
        ("bwrap: \x1b[31mCan't mkdir \xe9", {}, False, r"fails (bwrap: \x1b[31mCan't mkdir", "try it alone"),
        ("", {}, False, "it gave no answer", "try it alone"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_where_bubblewrap_fails_the_error_names_the_cause(
    said: str, settings: dict[str, str], container: bool, cause: str, advice: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The binary alone is not enough; and nobody is told to install what is installed."""
    (tmp_path / "words").write_bytes(said.encode("latin-1"))
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n/bin/cat '{tmp_path}/words' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host, "_setting", lambda name: settings.get(name, ""))
    monkeypatch.setattr(host, "_container", lambda: container)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    text = told(monkeypatch, mode)
    assert "given: bubblewrap is installed, but " in text and cause in text and advice in text
    assert "install it" not in text and "add --trust" in text
    assert ("leave --isolation always out" in text) == (mode == "always")


def test_a_bubblewrap_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "bubblewrap can't be started: Exec format error" in told(monkeypatch)


def test_packages_that_no_sandbox_may_see_are_named(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`pip install --target .` in the project: it says what lies where, and what to do."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    installed(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: importlib.machinery.PathFinder.find_spec(name, [str(tmp_path)])
    )
    text = told(monkeypatch)
    assert f"PyTorch lies beside what is private, in {tmp_path}" in text and "virtual environment of its own" in text


# --- Inside -----------------------------------------------------------------------------------------

SUBMISSION = '''
import ctypes, errno, json, mmap, os, resource, signal, socket, stat, subprocess, sys, threading, time
from pathlib import Path
import torch
from benchmark.api import AttributeAttack

libc = ctypes.CDLL(None, use_errno=True)

def refused(do):
    """The name of the error that it ends with, or its value."""
    try:
        return repr(do())
    except BaseException as error:
        return type(error).__name__ + (f" {errno.errorcode[error.errno]}" if isinstance(error, OSError) else "")

class Probe(AttributeAttack):
    def predict(self, x):
        return torch.tensor(list(json.dumps(self.found()).encode()), dtype=torch.uint8)

    def found(self):
BODY
'''
LIMITS = Limits(seconds=60, memory_mb=1024, processes=16, files=64, scratch_mb=16, output_mb=1)


def opened(sandboxes: Sandboxes, body: str, entry: str = "one") -> Session:
    """A fork of the sandbox of `entry` whose `predict` runs `body`."""
    session = sandboxes.session(entry, [])
    text = SUBMISSION.replace("BODY", textwrap.indent(textwrap.dedent(body).strip(), " " * 8))
    session.call(
        "open",
        {
            "module": "submissions.attacks.probe", "path": "attacks/probe.py", "text": text, "class": "Probe",
            "params": {}, "architecture": "small_cnn", "classes": 10, "shape": [1, 8, 8], "simple": {}, "device": "cpu",
        },
    )  # fmt: skip
    return session


def inside(sandboxes: Sandboxes, body: str, entry: str = "one") -> Any:
    """What `body` returns there, as JSON."""
    session = opened(sandboxes, body, entry)
    try:
        value = session.call("answer", {"arguments": [{"tensor": "x"}]}, {"x": torch.zeros(1)})[1]["value"]
    finally:
        session.close()
    return json.loads(bytes(value.tolist()))


@pytest.fixture(scope="module")
def sandboxes(launcher: Launcher) -> Iterator[Sandboxes]:
    """One warm sandbox, `one`, that the tests fork; a test that breaks it pays for the next."""
    made = Sandboxes(launcher, LIMITS, "cpu")
    yield made
    made.close()


@pytest.fixture
def warm(sandboxes: Sandboxes) -> Iterator[Sandbox]:
    """The same, started and ready, so that limits of time can be short."""
    assert inside(sandboxes, "return 1") == 1
    sandbox = sandboxes.warm[0]
    yield sandbox
    sandbox.limits = LIMITS


def test_a_session_may_end_wherever_the_garbage_collector_finds_it(warm: Sandbox) -> None:
    """The collector runs at any allocation: in the watchdog, too, while that holds the locks."""
    session = warm.session()
    assert warm.wait_for_fork(session)

    def collect() -> None:
        with warm._lock, session.log._lock:
            session.close()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert warm.wait_until_clean()


def test_it_is_nobody_and_can_become_nobody_else(sandboxes: Sandboxes) -> None:
    found = inside(
        sandboxes,
        """
        status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
        fields = dict(line.split(":\\t", 1) for line in status.splitlines() if ":\\t" in line)
        wanted = ("NoNewPrivs", "CapEff", "CapPrm", "CapBnd", "CapAmb", "Seccomp", "Groups")
        return {
            "uids": os.getresuid(), "gids": os.getresgid(), "root": refused(lambda: os.setuid(0)),
            "status": {name: fields.get(name, "").strip() for name in wanted}, "proc": bool(status),
        }
        """,
    )
    assert len({*found["uids"]}) == 1 and found["uids"][0] != 0
    assert len({*found["gids"]}) == 1 and found["gids"][0] != 0
    assert found["root"] in ("PermissionError EPERM", "OSError EINVAL")  # forbidden; or there is no such user
    if found["proc"]:
        status = found["status"]
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0


def test_it_sees_what_python_needs_and_nothing_of_ours(sandboxes: Sandboxes, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("x")
    private = [ROOT / "pyproject.toml", ROOT / "tests", ROOT / "submissions", ROOT / "mlruns", ROOT / ".git", tmp_path,
               Path.home() / ".bashrc", Path("/etc/passwd"), Path("/var"), Path("/proc/1/root/etc/passwd")]  # fmt: skip
    found = inside(
        sandboxes,
        f"""
        return {{
            "environment": dict(os.environ), "folder": os.getcwd(), "arguments": sys.argv[1:],
            "seen": [p for p in {[str(p) for p in private]} if refused(lambda: os.stat(p)).startswith("os.stat_result")],
            "root": sorted(os.listdir("/")), "package": os.listdir("/leakboard"), "home": os.path.expanduser("~"),
            "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()) if os.path.exists("/proc") else [],
            "descriptors": refused(lambda: [os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd")]),
        }}
        """,
    )
    found["environment"].pop("PWD", None)  # bubblewrap's own
    python = host._python()
    own = python.environment | {"PYTHONPATH": ":".join(python.packages)}
    assert found["environment"] == host._environment() | own
    assert found["seen"] == []
    assert {*found["package"]} <= {"benchmark", "library", "outside", "python"} and found["home"] == "/tmp" == found[
        "folder"
    ]
    assert max(found["processes"], default=0) < 200, "process ids of its own namespace"
    assert "LEAKBOARD" not in json.dumps(found)
    assert not re.search(r"/(work|root|home)/[^']*(mlruns|\.db|result)", found["descriptors"])


def linked(outside: str, inside: str) -> str:
    """A copy that takes no room, where the file system can."""
    try:
        os.link(outside, inside)
    except OSError:
        shutil.copy2(outside, inside)
    return inside


@pytest.mark.parametrize("name", ["some dir", "é\nü", "a:b"])
@pytest.mark.parametrize("below", ["/tmp", "/dev/shm"])
def test_it_works_from_below_its_own_scratch(
    launcher: Launcher, below: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package, the interpreter with its library, and packages, all below a folder that is scratch inside."""
    with tempfile.TemporaryDirectory(dir=below) as folder:
        project = Path(folder, name)
        shutil.copytree(ROOT / "benchmark", project / "benchmark", ignore=shutil.ignore_patterns("__pycache__"))
        (project / "mlruns" / "store").mkdir(parents=True)
        (project / "labels").write_text("1 0 1")
        packages = installed(project / ".venv" / "lib" / "site-packages")
        base = project / "python"
        heavy = shutil.ignore_patterns("site-packages", "test", "idlelib", "ensurepip", "config-*", "dist-packages")
        stdlib = Path(sysconfig.get_path("stdlib"))
        if below == "/tmp":  # a standard library takes more room than memory ought to give
            shutil.copytree(stdlib, base / "lib" / stdlib.name, ignore=heavy, copy_function=linked, symlinks=True)
            if (library := stdlib.parent / str(sysconfig.get_config_var("INSTSONAME"))).is_file():
                linked(str(library), str(base / "lib" / library.name))
            (base / "bin").mkdir()
            linked(str(Path(sys.executable).resolve()), str(base / "bin" / "python3"))
            monkeypatch.setattr(sys, "base_prefix", str(base))
            monkeypatch.setattr(sys, "_base_executable", str(base / "bin" / "python3"))
        monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
        monkeypatch.setattr(host, "_PACKAGE", project / "benchmark")
        monkeypatch.chdir(project)
        made = Sandboxes(launcher, LIMITS, "cpu")
        try:
            found = inside(
                made,
                f"""
                import leakprobe
                def write(folder):
                    Path(folder, "written").write_text("x")
                places = ["/leakboard", "/leakboard/benchmark", os.path.dirname(leakprobe.here), sys.prefix, sys.base_prefix + "/lib"]
                mounts = ["/leakboard/benchmark", os.path.dirname(leakprobe.here), "/tmp", "/dev/shm", "/"]
                return {{
                    "prefix": sys.prefix, "probe": leakprobe.here, "scratch": [os.listdir("/tmp"), os.listdir("/dev/shm")],
                    "host": [p for p in {[str(p) for p in (project, project / "labels", project / "mlruns", Path(folder))]} if os.path.lexists(p)],
                    "places": [refused(lambda: write(p)) for p in places],
                    "unmounted": [libc.umount2(m.encode(), flag) for m in mounts for flag in (0, 2)],
                    "subprocess": subprocess.run([sys.executable, "-c", "import leakprobe, numpy"]).returncode,
                }}
                """,
            )
            again = inside(made, LOOK)
        finally:
            made.close()
        assert found["scratch"] == [[], []] == again[:2], "whole, and wiped between pieces of work"
        assert found["host"] == [] and found["subprocess"] == 0
        assert found["prefix"] == ("/leakboard/python" if below == "/tmp" else str(Path(sys.base_prefix).resolve()))
        assert found["probe"].startswith("/leakboard/outside/")
        assert set(found["places"]) <= {"OSError EROFS", "PermissionError EACCES", "PermissionError EPERM"}, found
        assert set(found["unmounted"]) == {-1}
        assert (project / "labels").read_text() == "1 0 1"
        assert [*packages.iterdir()] and not (packages / "written").exists(), "wiping touches nothing that is bound"


def test_it_can_write_to_scratch_alone(sandboxes: Sandboxes) -> None:
    found = inside(
        sandboxes,
        """
        places = ["/", "/leakboard", "/leakboard/benchmark", "/usr", sys.prefix, os.path.dirname(torch.__file__), "/dev"]
        def write(folder):
            Path(folder, "written").write_text("x")
        def change():
            with open("/leakboard/benchmark/api/__init__.py", "r+") as file:
                file.write("#")
        return {
            "places": {p: refused(lambda: write(p)) for p in places}, "change": refused(change),
            "scratch": [refused(lambda: write(p)) for p in ("/tmp", "/dev/shm")],
            "remove": refused(lambda: os.unlink("/leakboard/benchmark/api/__init__.py")),
            "remount": libc.mount(b"none", b"/", None, 32 | 4096, None),
        }
        """,
    )
    wanted = {"OSError EROFS", "PermissionError EACCES", "PermissionError EPERM"}
    assert set(found["places"].values()) <= wanted, found["places"]
    assert {found["change"], found["remove"]} <= wanted
    assert found["scratch"] == ["None", "None"] and found["remount"] == -1


def test_every_call_that_the_filter_names_is_refused(sandboxes: Sandboxes) -> None:
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    numbers = {name: n[column] for name, n in host._DENIED.items() if n[column] is not None}
    found = inside(
        sandboxes,
        f"""
        def call(number):
            ctypes.set_errno(0)
            return [libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno()]
        calls = {{name: call(n) for name, n in {numbers}.items()}}
        clone = {host._CLONE[column]}
        namespaces = [libc.syscall(clone, flag | 17, 0, 0, 0, 0) for flag in (0x10000000, 0x20000000)]
        return {{"calls": calls, "clone3": call({host._CLONE3[column]}), "namespaces": namespaces}}
        """,
    )
    assert {name: code for name, code in found["calls"].items() if code != [-1, errno.EPERM]} == {}
    assert found["clone3"] == [-1, errno.ENOSYS]
    assert found["namespaces"] == [-1, -1]


def test_it_has_no_network(sandboxes: Sandboxes) -> None:
    found = inside(
        sandboxes,
        """
        kinds = [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM), (16, socket.SOCK_RAW)]
        route = Path("/proc/net/route")
        return {
            "sockets": [refused(lambda: socket.socket(*kind)) for kind in kinds],
            "interfaces": refused(lambda: socket.if_nameindex()), "sys": os.path.exists("/sys/class/net"),
            "routes": len(route.read_text().splitlines()) if route.exists() else 1,
        }
        """,
    )
    assert set(found["sockets"]) == {"PermissionError EPERM"}
    assert found["routes"] == 1, "the heading"
    assert found["interfaces"] == "PermissionError EPERM" and not found["sys"]


def test_honest_work_goes_on(sandboxes: Sandboxes) -> None:
    """Threads, subprocesses, temporary files, training, and what PyTorch compiles for itself."""
    found = inside(
        sandboxes,
        """
        import tempfile
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        said = subprocess.run([sys.executable, "-I", "-c", "print(6 * 7)"], capture_output=True, text=True).stdout
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x")
        weight = torch.zeros(3, requires_grad=True)
        update = torch.optim.SGD([weight], lr=1.0)
        weight.sum().backward()
        update.step()
        grown = torch.func.vmap(lambda v: v * 2)(torch.ones(3))
        return [said, weight.tolist(), grown.tolist(), torch.get_num_threads()]
        """,
    )
    assert found == ["42\n", [-1, -1, -1], [2, 2, 2], 1]


# --- Limits -----------------------------------------------------------------------------------------


def test_limits_are_set_and_cannot_be_raised(sandboxes: Sandboxes) -> None:
    found = inside(
        sandboxes,
        """
        names = ("DATA", "NPROC", "NOFILE", "FSIZE", "CPU", "CORE", "MEMLOCK", "MSGQUEUE")
        kinds = {name: getattr(resource, f"RLIMIT_{name}") for name in names}
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        return {
            "limits": {name: resource.getrlimit(kind) for name, kind in kinds.items()},
            "raised": sorted({refused(lambda: resource.setrlimit(kind, unlimited)) for kind in kinds.values()}),
        }
        """,
    )
    limits = found["limits"]
    assert limits["DATA"] == [1024 << 20] * 2 and limits["NPROC"] == [16, 16] and limits["NOFILE"] == [64, 64]
    assert limits["FSIZE"] == [16 << 20] * 2 and limits["CORE"] == limits["MEMLOCK"] == limits["MSGQUEUE"] == [0, 0]
    assert limits["CPU"][0] == 60 < limits["CPU"][1], "the soft limit says that it was the time; the hard one kills"
    assert found["raised"] == ["ValueError"]


def test_what_it_may_open_and_store_is_bounded(sandboxes: Sandboxes) -> None:
    found = inside(
        sandboxes,
        """
        def fill():
            with open("/tmp/large", "wb") as file:
                for _ in range(40):
                    file.write(bytes(1 << 20))
        def scatter():
            for i in range(40):
                Path(f"/dev/shm/{i}").write_bytes(bytes(1 << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        large, many = refused(fill), refused(scatter)
        size = sum(p.stat().st_size for p in Path("/tmp").iterdir()) >> 20
        opened = []
        files = refused(lambda: [opened.append(os.open("/dev/null", os.O_RDONLY)) for _ in range(1000)])
        for fd in opened:
            os.close(fd)
        return {"large": large, "many": many, "size": size, "files": files, "opened": len(opened)}
        """,
    )
    assert found["large"] in ("OSError EFBIG", "OSError ENOSPC") and found["size"] <= 16
    assert found["many"] == "OSError ENOSPC"
    assert found["files"] == "OSError EMFILE" and found["opened"] < 64


HARM: dict[str, tuple[str, str, str]] = {
    "memory": (
        "x = torch.ones(2 << 30, dtype=torch.uint8)\nreturn int(x[0])",
        "out-of-memory", "can't allocate memory|not enough memory|MemoryError",
    ),
    "memory of Python": ("x = bytearray(3 << 30)\nreturn len(x)", "out-of-memory", "MemoryError"),
    "memory of several processes": (
        """
        for _ in range(8):
            if os.fork() == 0:
                x = mmap.mmap(-1, 150 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                for i in range(0, len(x), 4096):
                    x[i] = 1
                time.sleep(60)
        time.sleep(60)
        """,
        "out-of-memory", "more than 1024 MB",
    ),
    "shared memory": (
        """
        x = mmap.mmap(-1, 3 << 30)
        for i in range(0, 3 << 30, 4096):
            x[i] = 1
        time.sleep(60)
        """,
        "out-of-memory", "more than 1024 MB",
    ),
    "processor time": (
        """
        resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        while True:
            pass
        """,
        "timeout", "processor time",
    ),
    "exit": ("print('last words')\nos._exit(3)", "failed", "its process ended with exit code 3"),
    "sys.exit": ("print('last words')\nsys.exit(3)", "failed", "SystemExit: 3"),
    "crash": ("print('last words', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)", "failed", "killed by SIGSEGV"),
    "flood": ("while True: os.write(1, b'spam ' * 10000)", "failed", "printed more than 1 MB"),
    "exception": ("print('last words')\nraise KeyError('no')", "failed", "KeyError: 'no'"),
    "descriptors": ("self.files = []\nwhile True: self.files.append(open('/dev/null'))", "failed", "Too many open files"),
    "recursion": ("f = lambda: f()\nf()", "failed", "RecursionError"),
    "garbage": (
        """
        for fd in range(3, 64):
            if refused(lambda: stat.S_ISSOCK(os.fstat(fd).st_mode)) == "True":
                refused(lambda: os.write(fd, b"\\xff" * 200))
        """,
        "failed", "broke the protocol: expected a message of at most",
    ),
    "hang up": (
        """
        for fd in range(3, 64):
            if refused(lambda: stat.S_ISSOCK(os.fstat(fd).st_mode)) == "True":
                os.close(fd)
        """,
        "failed", "the sandbox ended|its process ended with exit code",
    ),
    "unknown call": (
        "import gc\n"
        "channel = next(o for o in gc.get_objects() if type(o).__name__ == 'Channel')\nchannel.call('store')",
        "failed", "broke the protocol: expected one of no calls, given 'store'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
def test_harm_ends_as_a_status_and_the_next_piece_of_work_goes_on(sandboxes: Sandboxes, harm: str) -> None:
    body, status, reason = HARM[harm]
    start = time.monotonic()
    with pytest.raises(Fault) as fault:
        inside(sandboxes, body)
    assert (fault.value.status, bool(re.search(reason, str(fault.value)))) == (status, True), str(fault.value)
    assert time.monotonic() - start < 30
    assert str(fault.value).isprintable()
    if "last words" in body:
        assert "last words" in fault.value.log
    if "flood" in harm:
        assert 0 < len(fault.value.log) <= 2000 and "spam" in fault.value.log
    assert inside(sandboxes, "return 'well'") == "well"


def test_a_hang_ends_as_a_timeout(sandboxes: Sandboxes, warm: Sandbox) -> None:
    warm.limits = LIMITS.model_copy(update={"seconds": 1})
    with pytest.raises(Fault) as fault:
        inside(sandboxes, "print('waiting', flush=True)\ntime.sleep(60)")
    assert (fault.value.status, str(fault.value)) == ("timeout", "more than 1 s")
    assert fault.value.log == "waiting"
    assert inside(sandboxes, "return 1") == 1


def test_a_slow_start_is_not_the_submissions_time(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on the clock nor in processor time: both begin with the fork."""
    slow = "import time\nend = time.time() + 2.5\nwhile time.time() < end or time.process_time() < 2.2: pass\n"
    monkeypatch.setattr(host, "_START", slow + host._START)
    made = Sandboxes(launcher, LIMITS.model_copy(update={"seconds": 2}), "cpu")
    body = "usage = resource.getrusage(resource.RUSAGE_SELF)\nreturn [usage.ru_utime + usage.ru_stime, resource.getrlimit(resource.RLIMIT_CPU)]"
    try:
        spent, limit = inside(made, body)
        assert spent < 1 and limit == [2, 7]
        assert made.starting > 2.5
        for harm in ("time.sleep(60)", "while True: pass"):
            with pytest.raises(Fault, match="more than 2 s"):
                inside(made, harm)
    finally:
        made.close()


def test_a_sandbox_that_does_not_start_ends_as_a_timeout(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(host, "_STARTS", 0.5)
    made = Sandboxes(launcher, LIMITS, "cpu")
    try:
        with pytest.raises(Fault, match="the sandbox did not start within"):
            inside(made, "return 1")
    finally:
        made.close()


def test_the_judges_own_time_is_not_the_submissions(sandboxes: Sandboxes, warm: Sandbox) -> None:
    session = opened(sandboxes, "return 1")
    warm.limits = LIMITS.model_copy(update={"seconds": 2})
    time.sleep(2.5)
    session.call("answer", {"arguments": [{"tensor": "x"}]}, {"x": torch.zeros(1)})
    session.close()


def test_the_watchdog_reads_names_that_are_no_text(sandboxes: Sandboxes) -> None:
    """A process may give itself any name, which stands beside its memory: the limit holds all the same."""
    body = """
        libc.prctl(15, b"\\xff\\xfe\\n) R 1", 0, 0, 0)
        time.sleep(0.3)
        x = mmap.mmap(-1, 3 << 30)
        for i in range(0, 3 << 30, 4096):
            x[i] = 1
        time.sleep(20)
        """
    with pytest.raises(Fault, match="more than 1024 MB"):
        inside(sandboxes, body)
    assert inside(sandboxes, "return 1") == 1


def test_a_fork_bomb_ends_with_its_sandbox(sandboxes: Sandboxes, launcher: Launcher) -> None:
    body = """
        started = 0
        try:
            for _ in range(200):
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                started += 1
        except BlockingIOError:
            return started
        time.sleep(60)
        """
    try:
        ended = str(inside(sandboxes, body))
    except Fault as fault:
        ended = str(fault)
    # Where the kernel does not count them, the watchdog does.
    assert ended == "more than 16 processes" or 0 < int(ended) < 16
    assert inside(sandboxes, "return 1") == 1


def test_what_is_printed_reaches_nobodys_terminal_raw(sandboxes: Sandboxes) -> None:
    with pytest.raises(Fault) as fault:
        inside(
            sandboxes,
            r"""
            print("\x1b[2J\x1b]0;owned\x07 " + "\u202e" + "line\rover")
            os.write(1, b"\xff\xfe\x00")
            print("x" * 10_000)
            raise RuntimeError("\x1b[31mred")
            """,
        )
    shown = fault.value.log + str(fault.value)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert r"\x1b[2J\x1b]0;owned\x07" in shown or len(fault.value.log) == 2000
    assert r"RuntimeError: \x1b[31mred" in str(fault.value)
    assert len(fault.value.log) <= 2000


# --- One piece of work and the next -----------------------------------------------------------------

LITTER = """
    for folder in ("/tmp", "/dev/shm"):
        Path(folder, "note").write_text("members: 1 5 9")
        Path(folder, ".hidden").mkdir()
        Path(folder, ".hidden", "deep").write_text("x")
        os.symlink("/", Path(folder, "link"))
    if os.fork() == 0:
        os.setsid()
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(s, signal.SIG_IGN)
        while True:
            Path("/tmp/still").write_text("here")
            time.sleep(0.001)
    return os.getpid()
    """
LOOK = """
    processes = [p for p in os.listdir("/proc") if p.isdigit()] if os.path.exists("/proc") else []
    others = [p for p in processes if refused(lambda: os.kill(int(p), 0)) == "None" and int(p) != os.getpid()]
    return [os.listdir("/tmp"), os.listdir("/dev/shm"), others]
    """


def test_nothing_of_one_piece_of_work_reaches_the_next(sandboxes: Sandboxes) -> None:
    zygote = inside(sandboxes, LOOK)[2]
    assert len(zygote) <= 2, "the process that forks"
    for _ in range(15):
        inside(sandboxes, LITTER)
        assert inside(sandboxes, LOOK) == [[], [], zygote]


def test_what_cannot_be_wiped_goes_with_its_sandbox_and_harms_no_other_work(sandboxes: Sandboxes) -> None:
    for litter in (
        "Path('/tmp/closed').mkdir(mode=0)\nPath('/dev/shm/x').write_text('y')\nreturn 1",
        "for _ in range(2000):\n    os.mkdir('d')\n    os.chdir('d')\nreturn 1",
    ):
        inside(sandboxes, litter)
        assert inside(sandboxes, LOOK)[:2] == [[], []]


def test_code_and_variables_are_new_in_every_piece_of_work(sandboxes: Sandboxes) -> None:
    change = "torch.leaked = 5\nsys.modules['benchmark.api'].leaked = 6\nos.environ['LEAKED'] = '7'\nreturn 1"
    inside(sandboxes, change)
    look = "return [hasattr(torch, 'leaked'), hasattr(sys.modules['benchmark.api'], 'leaked'), 'LEAKED' in os.environ]"
    assert inside(sandboxes, look) == [False, False, False]


def test_a_fork_cannot_touch_what_it_was_forked_from(sandboxes: Sandboxes) -> None:
    found = inside(
        sandboxes,
        """
        parent = os.getppid()
        names = ("mem", "environ", "maps", "fd", "root", "cwd")
        def read(name):
            path = f"/proc/{parent}/{name}"
            return os.listdir(path) if name == "fd" else os.readlink(path) if name in ("root", "cwd") else open(path, "rb").read(9)
        return {name: refused(lambda: read(name)) for name in names} if os.path.exists("/proc") else {}
        """,
    )
    assert all(v.startswith("PermissionError") for v in found.values()), found


def test_two_entries_do_not_see_each_other(sandboxes: Sandboxes, launcher: Launcher) -> None:
    one = opened(sandboxes, LITTER)
    one.call("answer", {"arguments": [{"tensor": "x"}]}, {"x": torch.zeros(1)})
    here = inside(sandboxes, LOOK, entry="other")
    assert here[:2] == [[], []] and len(here[2]) <= 2
    pids = [s.process.pid for s in sandboxes.warm]
    assert [s.entry for s in sandboxes.warm] == ["one", "other"]
    assert not set(memory.tree(pids[0])) & set(memory.tree(pids[1]))
    assert launcher.user_namespace or launcher.uid(1) != launcher.uid(2)
    one.close()
    sandboxes.warm[1].kill()
    assert inside(sandboxes, "return 1") == 1


def test_a_wiped_sandbox_serves_another_entry(sandboxes: Sandboxes) -> None:
    """What one entry leaves behind is gone when another one starts in the same process."""
    inside(sandboxes, "return 1")
    before = [s.process.pid for s in sandboxes.warm]
    inside(sandboxes, LITTER)
    assert inside(sandboxes, LOOK, entry="the next") == [[], [], inside(sandboxes, LOOK)[2]]
    assert [s.process.pid for s in sandboxes.warm] == before, "no other was started"
    busy = opened(sandboxes, "return 1", entry="the next")
    sandboxes.session("a third", [])
    assert len(sandboxes.warm) == len(before) + 1, "not while it works"
    assert len({s.entry for s in sandboxes.warm if s.open}) == 2
    busy.close()
    sandboxes.end_sessions()
    sandboxes.session("one with a library", ["wave"])
    assert len(sandboxes.warm) == len(before) + 2, "not without its libraries"
    sandboxes.close()


def test_who_stops_its_sandbox_stops_nobody_else(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork may stop the process that it was forked from; that one is not given to anybody again."""
    monkeypatch.setattr(host, "_WIPE", 0.5)
    stopped = inside(sandboxes, "import signal\nos.kill(os.getppid(), signal.SIGSTOP)\nreturn os.getppid()")
    assert stopped > 1, "not the init of its namespace, which can't be stopped from inside"
    sandbox = sandboxes.warm[0]
    for entry in ("one", "other"):
        assert inside(sandboxes, "return 1", entry=entry) == 1
    assert not sandbox.alive and sandbox not in sandboxes.warm


def test_the_sandbox_that_rested_longest_makes_room(sandboxes: Sandboxes) -> None:
    inside(sandboxes, "return 1")
    first = sandboxes.warm[0]
    few = Sandboxes(sandboxes.launcher, LIMITS, "cpu", max_warm=1, warm=[first])
    sandboxes.warm.clear()
    try:
        busy = opened(few, "return 1")
        few.session("busy too", [])
        assert first.alive, "what works is not ended"
        busy.close()
        few.session("another", ["wave"])
        assert not first.alive
    finally:
        few.close()
    assert first.process.poll() is not None


# --- The end of the judge ---------------------------------------------------------------------------

JUDGE = """
import sys, time
sys.path.insert(0, {root!r})
from benchmark.sandbox.host import Sandboxes, launcher
from tests.sandbox.test_host import LIMITS, LITTER, opened
import torch
if __name__ == "__main__":
    sandboxes = Sandboxes(launcher(), LIMITS, "cpu")
    session = opened(sandboxes, {body!r})
    session.call("answer", {{"arguments": [{{"tensor": "x"}}]}}, {{"x": torch.zeros(1)}})
    print(sandboxes.warm[0].process.pid, flush=True)
    time.sleep(60)
"""


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.slow
def test_nothing_survives_the_judge(launcher: Launcher) -> None:
    code = JUDGE.format(root=str(ROOT), body=LITTER)
    judge = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert judge.stdout is not None
    pids = list(memory.tree(int(judge.stdout.readline())))
    assert len(pids) >= 4, "bubblewrap, the zygote, its fork, and what that one started"
    judge.kill()
    judge.wait()
    judge.stdout.close()
    assert gone(pids)


def test_a_closed_sandbox_leaves_no_process_and_no_descriptor(launcher: Launcher) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    made = Sandboxes(launcher, LIMITS, "cpu")
    for _ in range(3):
        inside(made, "print('x')\nreturn 1")
    opened(made, "return 1")
    pids = list(memory.tree(made.warm[0].process.pid))
    made.close()
    assert gone(pids)
    assert sorted(os.listdir("/proc/self/fd")) == before
