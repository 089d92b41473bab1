"""Runs a submission's code under bubblewrap: warm processes, each lent to one entry, forked for each piece of work.

The sandbox has no network, a read-only root with what Python needs, sized scratch, no home, a few fixed
environment variables, a seccomp filter and limits; it dies with the judge. A watchdog thread holds the
memory and the processes of the whole tree, the time and the output to their limits, whatever the kernel
at hand can enforce by itself. What is promised, and what is not: SECURITY.md.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import platform
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark import places
from benchmark.errors import Fault, UserError, out_of_memory, printable, said
from benchmark.protocol import Limits
from benchmark.sandbox.wire import Channel, Closed, Handler, Message, Meta, RemoteError, WireError

_PACKAGE = Path(__file__).parents[1]
_INSIDE = "/leakboard"
_START = f"import sys; sys.path.insert(0, {_INSIDE!r}); from benchmark.sandbox.zygote import main; main()"
_TAKEN = ("/tmp", "/dev", "/proc", "/sys", _INSIDE)
"""Where the sandbox has something of its own: what the machine has there is bound elsewhere."""
_TAIL = 64 << 10
_BEAT = 0.1
"""Seconds between two looks of the watchdog."""
_REST = 1.0
"""The same while no piece of work is open."""
_STARTS = 120.0
"""Seconds for a sandbox to start, on a machine that is busy: none of them is the submission's own."""
_WIPE = 5.0
"""Seconds for a sandbox to be wiped before it serves another entry."""
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
"""Keeps freed memory in the process: it saves the page faults that take a quarter of the time of training."""
_ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",  # importing torch fails without a folder to write to
    "USER": "leakboard",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Objects and tensors on large pages: a fork copies a table of pages, and this halves its time.
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    **MALLOC,
}
_ARITHMETIC = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Variables of the judge that a sandbox has too, where they are set: they choose the instructions, so the last digits."""


# --- The system-call filter -------------------------------------------------------------------------

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Numbers on x86_64 and on aarch64; None where the call does not exist.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "quotactl": (179, 60), "syslog": (103, 116), "acct": (163, 89), "swapon": (167, 224), "reboot": (169, 142),
    "vhangup": (153, 58), "fanotify_init": (300, 262), "personality": (135, 92),
    # What would stay with the zygote, or with files that sandboxes share, for the next piece of work to read.
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "process_madvise": (440, 440), "flock": (73, 32),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
}  # fmt: skip
_PRLIMIT, _FCNTL = (302, 261), (72, 25)
_FCNTL_ALLOWED = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: neither locks nor hints."""
_CLONE, _CLONE3 = (56, 220), (435, 435)
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def seccomp_filter(machine: str) -> bytes | None:
    """The BPF program for bubblewrap's --seccomp; None for a machine that has no table here.

    It refuses sockets, memory that no limit counts, ways into other processes, state that outlives a process,
    and new namespaces.
    clone3, whose flags a filter can't see, is "not implemented", so that the C library falls back to clone.
    """
    if machine not in _ARCHITECTURES:
        return None
    audit, column = _ARCHITECTURES[machine]
    load, equal, atleast, anyset, give = 0x20, 0x15, 0x35, 0x45, 0x06
    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, _KILL),  # another machine's calling convention
        (load, 0, 0, 0),
    ]  # fmt: skip
    if machine == "x86_64":
        program += [(atleast, 0, 1, 0x40000000), (give, 0, 0, _KILL)]  # the x32 table would go around the numbers
    for numbers in _DENIED.values():
        if numbers[column] is not None:
            program += [(equal, 0, 1, numbers[column]), (give, 0, 0, _EPERM)]  # type: ignore[list-item]
    program += [(equal, 0, 1, _CLONE3[column]), (give, 0, 0, _ENOSYS)]
    # Only its own limits: those of the zygote are those of all later forks.
    program += [
        (equal, 0, 4, _PRLIMIT[column]),
        (load, 0, 0, 16),
        (equal, 0, 1, 0),
        (give, 0, 0, _ALLOW),
        (give, 0, 0, _EPERM),
    ]
    commands = [(equal, len(_FCNTL_ALLOWED) - i, 0, c) for i, c in enumerate(_FCNTL_ALLOWED)]
    program += [(equal, 0, len(commands) + 3, _FCNTL[column]), (load, 0, 0, 24), *commands]
    program += [(give, 0, 0, _EPERM), (give, 0, 0, _ALLOW)]
    program += [(equal, 0, 3, _CLONE[column]), (load, 0, 0, 16), (anyset, 0, 1, _NEW_NAMESPACES), (give, 0, 0, _EPERM)]
    program += [(give, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


# --- The command ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launcher:
    """How bubblewrap works on this machine, as `probe` found it."""

    user_namespace: bool
    """A user namespace makes the sandbox's user; else root starts it, and it drops to a user of its own."""
    proc: bool
    """Containers may forbid a /proc of one's own; then there is none inside."""

    def uid(self, slot: int) -> int:
        """The user that the sandbox drops to: its own, so that limits on processes count it alone."""
        return 0 if self.user_namespace else 61184 + (os.getpid() * 64 + slot) % 4096

    def command(self, control: int, config: Mapping[str, Any], filter_fd: int | None) -> list[str]:
        """The arguments that start the zygote; `control` and `filter_fd` are inherited file descriptors."""
        command = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
        if self.user_namespace:
            command += ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
        else:
            command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
            command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        python = _python()
        for name, value in (_environment() | python.environment).items():
            command += ["--setenv", name, value]
        binds = python.binds | {f"{_INSIDE}/benchmark": _PACKAGE}
        folders = {str(p) for inside in binds for p in Path(inside).parents}
        for folder in sorted(folders - {"/"}):
            command += ["--dir", folder]  # unasked, bubblewrap makes them unreadable for other users
        for inside, outside in sorted(binds.items()):
            command += ["--ro-bind", str(outside), inside]
        for link in ("/lib", "/lib64", "/bin"):
            if Path(link).is_symlink():
                command += ["--symlink", f"/usr{link}", link]
        command += ["--ro-bind-try", "/sys/devices/system/cpu", "/sys/devices/system/cpu"]
        command += ["--proc", "/proc"] if self.proc else []
        command += ["--dev", "/dev"]
        for device in config["devices"]:
            command += ["--dev-bind", device, device]
        scratch = str(int(config["scratch_mb"]) << 20)
        for folder in ("/tmp", "/dev/shm"):
            command += ["--perms", "1777", "--size", scratch, "--tmpfs", folder]
        command += ["--chdir", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
        if filter_fd is not None:
            command += ["--seccomp", str(filter_fd)]
        own = json.dumps({**config, "packages": python.packages})
        # As -I, but that Python reads the environment, which is ours; the zygote adds the packages.
        return [*command, python.interpreter, "-P", "-s", "-S", "-c", _START, str(control), own]


def _environment() -> dict[str, str]:
    """All that a sandbox reads from its environment."""
    return _ENVIRONMENT | {name: os.environ[name] for name in _ARITHMETIC if name in os.environ}


@dataclass
class _Python:
    """The interpreter, its packages and the C library, as a sandbox has them; nothing else of the machine."""

    interpreter: str = ""
    packages: list[str] = field(default_factory=list)
    """Folders of installed packages inside, in the order of the judge's `sys.path`."""
    binds: dict[str, Path] = field(default_factory=dict)
    """Folders and files by where they lie inside."""
    environment: dict[str, str] = field(default_factory=dict)

    def show(self, path: Path) -> str:
        """Where this path lies inside: where it is, unless the sandbox has something of its own there."""
        for inside, outside in self.binds.items():
            if path.is_relative_to(outside):
                return str(Path(inside, path.relative_to(outside)))
        inside = f"{_INSIDE}/outside/{len(self.binds)}" if _hidden(path) else str(path)
        self.binds[inside] = path
        return inside


def _python() -> _Python:
    """What Python needs, wherever it lies. Links are followed: a folder is shown under its real name."""
    found = _Python()
    libraries = Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "")
    system = [libraries if libraries.is_dir() else Path("/usr/lib"), Path("/usr/lib64")]
    base = Path(sys.base_prefix).resolve()
    interpreter = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    home = f"{_INSIDE}/python" if _hidden(base) else str(base)
    if base == Path("/usr"):
        version = f"python{sys.version_info.major}"
        system += [*Path("/usr/lib").glob(f"{version}*"), *Path("/usr/bin").glob(f"{version}*")]
        found.interpreter = str(interpreter)
    else:
        for name in sorted({"lib", sys.platlibdir}):
            if (base / name).is_dir():
                found.binds[f"{home}/{name}"] = base / name
        found.interpreter = f"{home}/bin/{interpreter.name}"
        found.binds[found.interpreter] = interpreter
        library = base / "lib" / str(sysconfig.get_config_var("INSTSONAME"))
        if sysconfig.get_config_var("Py_ENABLE_SHARED") and library.is_file():
            # The interpreter looks for it where it was built, and there is no cache of libraries inside.
            found.binds[f"{_INSIDE}/library/{library.name}"] = library
            found.environment["LD_LIBRARY_PATH"] = f"{_INSIDE}/library"
    found.environment["PYTHONHOME"] = home
    for path in system:
        if path.exists() and not any(path.is_relative_to(other) for other in found.binds.values()):
            found.show(path)
    if sys.prefix != sys.base_prefix and not _private_below(environment := Path(sys.prefix).resolve()):
        found.show(environment / "lib")  # some packages have their libraries beside `site-packages`
    for folder in _package_folders():
        if not _private_below(folder):
            found.packages.append(found.show(folder))
    return found


def _package_folders() -> Iterator[Path]:
    """Folders that Python imports installed packages from, by whatever way they came to its path.

    `site-packages`, Debian's `dist-packages`, a user's own, those of `pip install --target`, PYTHONPATH and *.pth.
    """
    for folder in dict.fromkeys(Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_dir()):
        if next(folder.glob("*.dist-info"), None) is not None:
            yield folder


def _hidden(path: Path) -> bool:
    """Whether the path can't be used inside; the colon is Python's and the linker's own."""
    return ":" in str(path) or any(path.is_relative_to(taken) for taken in _TAKEN)


def _private_below(folder: Path) -> bool:
    """Whether the folder holds a home or the project: such a folder is never shown."""
    private = (Path.home(), places.project().root, places.submissions(), places.store(), places.published())
    return any(path.resolve().is_relative_to(folder) for path in private)


@dataclass(frozen=True)
class Unable:
    """Why no sandbox starts here, and what would help; both in words."""

    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause}; {self.advice}"


@cache
def probe() -> Launcher | Unable:
    """Start a sandbox as it will be started, in every way that may work here; or say why none does."""
    if sys.platform != "linux":
        return Unable(
            f"there is no sandbox on {platform.system()}", "run Leakboard on Linux, in a virtual machine, say"
        )
    if seccomp_filter(platform.machine()) is None:
        known = " or ".join(_ARCHITECTURES)
        return Unable(f"there is no system-call filter for {platform.machine()}", f"run Leakboard on {known}")
    if shutil.which("bwrap") is None:
        return Unable("bubblewrap is not installed", "install it (apt-get install bubblewrap)")
    ways = [(True, True), (True, False)]
    if os.geteuid() == 0:  # as root, a user of its own binds what a user namespace does not: the number of processes
        ways = [(False, True), *ways[:1], (False, False), *ways[1:]]
    reasons = []
    for user_namespace, proc in ways:
        launcher = Launcher(user_namespace, proc)
        problem = _try(launcher)
        if problem is None:
            return launcher
        reasons.append(problem)
    return reasons[0]


def _try(launcher: Launcher) -> Unable | None:
    with tempfile.TemporaryFile() as errors:
        try:
            process, control = _start(launcher, _config(Limits(), launcher.uid(0), [], [], probe=True), errors.fileno())
        except OSError as error:
            return Unable(f"bubblewrap can't be started: {error.strerror}", f"look at {shutil.which('bwrap')}")
        with control:
            control.settimeout(_STARTS)
            try:
                answer = control.recv(1000)
            except TimeoutError:
                answer = b""
        process.kill()
        process.wait()
        errors.seek(0)
        said = " ".join(errors.read().decode(errors="replace").split())
    try:
        found = json.loads(answer)
    except ValueError:
        return _why(said)
    if not found["torch"]:
        return _unseen()
    return None if found["uid"] != 0 else Unable("the sandbox would run as root", "run Leakboard as another user")


def _why(said: str) -> Unable:
    """What keeps bubblewrap from working, by its last words and the system's settings."""
    words = printable(said[-300:], 300) or "it gave no answer"
    if "No module named 'benchmark'" in said:
        return Unable(
            f"the sandbox's user can't read {_PACKAGE}", f"let it: chmod -R go+rX {shlex.quote(str(_PACKAGE))}"
        )
    if "Unknown option" in said:
        return Unable(f"bubblewrap is installed, but too old ({words})", "install version 0.8 or a newer one")
    if not re.search("(?i)namespace|uid map|denied|permi|RTM_NEWADDR", said):
        return Unable(f"bubblewrap is installed, but fails ({words})", "try it alone: bwrap --ro-bind / / true")
    user = os.geteuid() != 0
    settings = (
        ("user.max_user_namespaces", "0", "15000", True),
        ("kernel.unprivileged_userns_clone", "0", "1", user and not _container()),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0", user and not _container()),
    )
    for name, forbids, allows, applies in settings:
        if applies and _setting(name) == forbids:
            by = "AppArmor forbids" if "apparmor" in name else "the system forbids"
            profile = "give bwrap an AppArmor profile with `userns,`, or: " if "apparmor" in name else ""
            return Unable(
                f"bubblewrap is installed, but {by} user namespaces: {name} = {forbids} ({words})",
                f"{profile}sudo sysctl -w {name}={allows}",
            )
    if _container():
        return Unable(
            f"bubblewrap is installed, but this container's seccomp filter or AppArmor profile forbids namespaces ({words})",
            "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
        )
    return Unable(
        f"bubblewrap is installed, but AppArmor or a seccomp filter (a container's, say) forbids namespaces ({words})",
        "allow user namespaces to bwrap",
    )


def _unseen() -> Unable:
    """Why PyTorch is not among what a sandbox sees."""
    spec = importlib.util.find_spec("torch")
    folder = Path(next(iter(spec.submodule_search_locations or [""]))).parent if spec else Path()
    own = "install it with Leakboard into a virtual environment"
    if _private_below(folder):
        return Unable(
            f"PyTorch lies beside what is private, in {folder}, which no sandbox is shown", f"{own} of its own"
        )
    if folder.resolve() not in _package_folders():
        return Unable(f"PyTorch lies in {folder}, which is no folder of installed packages", own)
    return Unable(
        f"the sandbox's user can't read PyTorch in {folder}", f"let it: chmod -R go+rX {shlex.quote(str(folder))}"
    )


def _setting(name: str) -> str:
    """A setting of the kernel; "" where it has none of this name."""
    try:
        return Path("/proc/sys", *name.split(".")).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _container() -> bool:
    """Whether this is a container, by the marks that they leave."""
    marks = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
    return "container" in os.environ or any(Path(mark).exists() for mark in marks)


def _config(limits: Limits, uid: int, libraries: list[str], devices: list[str], *, probe: bool) -> dict[str, Any]:
    numbers = ("memory_mb", "processes", "files", "scratch_mb", "seconds")
    own = {name: int(getattr(limits, name)) for name in numbers}
    return {**own, "uid": uid, "libraries": libraries, "devices": devices, "probe": probe}


def _start(launcher: Launcher, config: dict[str, Any], log: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a zygote; it must be the main thread that does, for the sandbox dies with the thread."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = seccomp_filter(platform.machine())
    assert program is not None
    with its, tempfile.TemporaryFile() as filter_file:
        filter_file.write(program)
        filter_file.flush()
        filter_file.seek(0)
        fds = (its.fileno(), filter_file.fileno())
        command = launcher.command(fds[0], config, fds[1])
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, start_new_session=True, env={}
            | {"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
        )  # fmt: skip
    return process, mine


# --- One sandbox, one piece of work -----------------------------------------------------------------


class Sandbox:
    """A warm process that serves one entry at a time. Its watchdog kills all of it when a limit is broken."""

    _slots = itertools.count(1)

    def __init__(self, launcher: Launcher, limits: Limits, libraries: Collection[str], device: str) -> None:
        self.limits, self.libraries = limits, frozenset(libraries)
        self.entry = ""
        """Whom it serves now, or served last."""
        self.cause: Fault | None = None
        self.ended: dict[int, int] = {}
        self.open: dict[int, Session] = {}
        self._number, self._clean = 0, 0
        self._cleaned = threading.Condition()
        self._lock = threading.Lock()
        devices = [str(p) for p in sorted(Path("/dev").glob("nvidia*")) if not p.is_dir()] if device != "cpu" else []
        config = _config(limits, launcher.uid(next(self._slots)), sorted(libraries), devices, probe=False)
        reader, log = os.pipe()
        self.log = Tail(reader)
        self.process, self.control = _start(launcher, config, log)
        os.close(log)
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._watchdog.start()

    @property
    def alive(self) -> bool:
        return self.cause is None and self.process.poll() is None

    def session(self) -> Session:
        """Fork for one piece of work."""
        mine, its = socket.socketpair()
        reader, log = os.pipe()
        self._number += 1
        session = Session(self, self._number, mine, reader)
        with its, self._lock:
            self.open[session.number] = session
            try:
                socket.send_fds(self.control, [b"F%d" % session.number], [its.fileno(), log])
            except OSError:
                pass  # it is dead; the first call says of what
            finally:
                os.close(log)
        return session

    def forks(self, session: Session) -> bool:
        """Wait for the fork. False where the sandbox is gone before: what it died of was not this piece of work."""
        end = time.monotonic() + _STARTS
        while not session.forked.wait(_BEAT):
            if not self.alive:
                return False
            if time.monotonic() > end:
                self.kill(Fault("timeout", f"the sandbox did not start within {_STARTS:.0f} s"))
                return True
        return True

    def end(self, session: Session) -> None:
        with self._lock:
            if self.open.pop(session.number, None) is not None:
                with contextlib.suppress(OSError):
                    self.control.send(b"E%d" % session.number)

    def rested(self) -> bool:
        """Whether nothing of the last piece of work is left: its processes ended and its scratch wiped.

        The process that forks says so. One that does not answer, for it was stopped by what it forked, is killed.
        """
        with self._cleaned:
            if not self._cleaned.wait_for(lambda: self._clean == self._number or not self.alive, _WIPE):
                self.kill()
        return self.alive and not self.open

    def kill(self, cause: Fault | None = None) -> None:
        """End the sandbox and everything in it."""
        self.cause = self.cause or cause or Fault("failed", "the sandbox was closed")
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def close(self) -> None:
        self.kill()
        self.process.wait()
        self._watchdog.join(5)
        self.control.close()
        self.log.close()

    def why(self, session: Session) -> Fault:
        """Why a session's process is gone."""
        for _ in range(20):
            if self.cause is not None or session.number in self.ended or self.process.poll() is not None:
                break
            time.sleep(_BEAT)
        if self.cause is not None:
            return Fault(self.cause.status, str(self.cause))
        status = self.ended.get(session.number)
        if status is None:
            return Fault("failed", "the sandbox ended")
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            if name in ("SIGXCPU",):
                return Fault("timeout", f"more than {self.limits.seconds} s of processor time")
            return Fault("failed", f"its process was killed by {name}")
        return Fault("failed", f"its process ended with exit code {os.waitstatus_to_exitcode(status)}")

    def _watch(self) -> None:
        """The watchdog: drains what is printed, and looks at time and memory every beat while a fork is at work."""
        looked = 0.0
        while self.process.poll() is None:
            with self._lock:
                tails = [self.log, *(s.log for s in self.open.values())]
                working = bool(self.open)
            watched: list[Any] = [self.control, *(t for t in tails if not t.done)]
            try:  # at rest nothing of a submission runs; a new fork reports itself, which ends the wait
                ready, _, _ = select.select(watched, [], [], _BEAT if working else _REST)
            except (OSError, ValueError):  # a session was closed between two lines
                continue
            for tail in ready:
                if isinstance(tail, Tail):
                    tail.drain()
                    if tail.total > self.limits.output_mb << 20:
                        self.kill(Fault("failed", f"printed more than {self.limits.output_mb} MB"))
                else:
                    self._report()
            if working and time.monotonic() - looked > _BEAT:
                self._look()
                looked = time.monotonic()

    def _report(self) -> None:
        try:
            text = self.control.recv(1000, socket.MSG_DONTWAIT)
            report = json.loads(text)
            if "forked" in report:
                with self._lock:
                    session = self.open.get(int(report["forked"]))
                if session is not None:
                    session.forked.set()
            elif "clean" in report:
                with self._cleaned:
                    self._clean = int(report["clean"])
                    self._cleaned.notify_all()
            else:
                self.ended[int(report["ended"])] = int(report["status"])
        except BlockingIOError:
            return
        except (OSError, ValueError, KeyError, TypeError):  # closed, or not the zygote's own words any more
            self.kill(Fault("failed", "the sandbox ended"))

    def _look(self) -> None:
        with self._lock:
            sessions = list(self.open.values())
        for session in sessions:
            if session.busy > self.limits.seconds:
                self.kill(Fault("timeout", f"more than {self.limits.seconds} s"))
        tree = list(_tree(self.process.pid))
        if len(tree) > self.limits.processes + 3:  # bubblewrap twice, and the zygote
            self.kill(Fault("failed", f"more than {self.limits.processes} processes"))
        limit = self.limits.memory_mb << 20
        # Forks share memory with the zygote, which the quick sum counts once for each: it is an upper bound.
        if sum(map(_own_memory, tree)) > limit and sum(map(_share_of_memory, tree)) > limit:
            self.kill(Fault("out-of-memory", f"more than {self.limits.memory_mb} MB"))


class Session:
    """One piece of work in a fork of a sandbox. Whatever goes wrong on the other side is a `Fault`."""

    def __init__(self, sandbox: Sandbox, number: int, stream: socket.socket, log: int) -> None:
        self.sandbox, self.number, self.log = sandbox, number, Tail(log)
        self.forked = threading.Event()
        self.advise: Callable[[RemoteError], str] = lambda error: ""
        """What helps against an error of the other side; said with it."""
        self._spent, self._since = 0.0, 0.0
        self._channel = _Timed(stream, self)

    @property
    def handlers(self) -> dict[str, Handler]:
        """What answers the other side's calls, by name."""
        return self._channel.handlers

    @handlers.setter
    def handlers(self, handlers: dict[str, Handler]) -> None:
        self._channel.handlers = handlers

    def accept(self, most: int) -> None:
        """Take no message with more bytes of arrays."""
        self._channel.most = most

    @property
    def busy(self) -> float:
        """Seconds that the judge has waited for it, so far."""
        since = self._since
        return self._spent + (time.monotonic() - since if since else 0.0)

    def call(self, do: str, meta: Meta | None = None, tensors: Mapping[str, Tensor] | None = None) -> Message:
        """Raises Fault; what our own handlers raise passes through."""
        try:
            return self._channel.call(do, meta, tensors)
        except RemoteError as error:
            text = said(error.kind, error.text, error.at, self.advise(error))
            if self.sandbox.cause is not None:
                raise self._blame(self.sandbox.why(self)) from None
            if error.kind == "MemoryError" or out_of_memory(RuntimeError(error.text)):
                raise self._blame(Fault("out-of-memory", text)) from None
            refused = error.kind == "PermissionError" and not error.text.startswith("[Errno ")
            raise self._blame(Fault("failed", text, refused=refused)) from None
        except WireError as error:
            self.sandbox.kill(Fault("failed", f"broke the protocol: {printable(str(error))}"))
            raise self._blame(self.sandbox.why(self)) from None
        except Closed:
            raise self._blame(self.sandbox.why(self)) from None

    def close(self) -> None:
        self._channel.stream.close()
        self.sandbox.end(self)
        self.log.close()

    def waiting(self, on: bool) -> None:
        now = time.monotonic()
        if on:
            self._since = now
        else:
            self._spent += now - self._since
            self._since = 0.0

    def _blame(self, fault: Fault) -> Fault:
        time.sleep(_BEAT / 2)  # the last words may still be in the pipe
        self.log.drain()
        return Fault(fault.status, str(fault), self.log.text(), refused=fault.refused)


class _Timed(Channel):
    """A channel that counts the time for which the other side keeps the judge waiting."""

    def __init__(self, stream: socket.socket, session: Session) -> None:
        super().__init__(stream)
        self._session = session

    def receive(self) -> Message:
        self._session.waiting(True)
        try:
            return super().receive()
        finally:
            self._session.waiting(False)

    def _send(self, message: Meta, tensors: Mapping[str, Tensor]) -> None:
        self._session.waiting(True)
        try:
            super()._send(message, tensors)
        finally:
            self._session.waiting(False)


class Tail:
    """The last of what was printed into a pipe, and how much it was."""

    def __init__(self, reader: int) -> None:
        self.total, self.done = 0, False
        self._reader, self._last = reader, b""
        self._lock = threading.Lock()
        os.set_blocking(reader, False)

    def fileno(self) -> int:
        return self._reader

    def drain(self) -> None:
        with self._lock:
            for _ in range(64):  # a flood must not hold the watchdog
                if self.done:
                    return
                try:
                    more = os.read(self._reader, 1 << 16)
                except BlockingIOError:
                    return
                except OSError:
                    more = b""
                self.done = not more
                self.total += len(more)
                self._last = (self._last + more)[-_TAIL:]

    def text(self, lines: int = 20, characters: int = 2000) -> str:
        """The last lines, escaped."""
        last = self._last.decode(errors="replace").splitlines()[-lines:]
        return "\n".join(printable(line, 500) for line in last)[-characters:]

    def close(self) -> None:
        with self._lock:
            if self._reader >= 0:
                os.close(self._reader)
            self.done = True
            self._reader = -1


def _tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text("ascii").split():
                yield from _tree(int(child))


def _own_memory(pid: int) -> int:
    """Bytes of a process that no file backs, shared ones too."""
    return _kilobytes(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:")) * 1024


def _share_of_memory(pid: int) -> int:
    """Bytes of a process that no file backs; what n processes share counts a nth for each."""
    try:
        return _kilobytes(f"/proc/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) * 1024
    except PermissionError:
        return _own_memory(pid)


def _kilobytes(file: str, names: tuple[str, ...]) -> int:
    try:
        lines = Path(file).read_text("utf-8", "replace").split("\n")  # a process gives itself any name
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(names))


# --- All sandboxes of a worker ----------------------------------------------------------------------


@dataclass
class Sandboxes:
    """The sandboxes of one process. An entry shares none while it works; one that is wiped may serve another next.

    The process that forks never runs an entry's code, so that all it carries over is the libraries it has loaded.
    """

    launcher: Launcher
    limits: Limits
    device: str
    most: int = 24
    warm: list[Sandbox] = field(default_factory=list)
    """In the order of their last use."""
    starting: float = 0.0
    """Seconds that starts and forks have taken so far."""
    _sessions: list[Session] = field(default_factory=list)

    def session(self, entry: str, libraries: Collection[str]) -> Session:
        """Fork a sandbox that serves `entry` (its id and source) alone and has loaded these libraries."""
        since = time.monotonic()
        for _ in range(2):  # what can't be cleaned after one piece of work takes the sandbox with it
            sandbox = self._sandbox(entry, frozenset(libraries))
            session = sandbox.session()
            self._sessions.append(session)
            if sandbox.forks(session):
                break
        self.starting += time.monotonic() - since
        return session

    def _sandbox(self, entry: str, libraries: frozenset[str]) -> Sandbox:
        for gone in [s for s in self.warm if not s.alive]:
            self.warm.remove(gone)
            gone.close()
        able = [s for s in self.warm if s.libraries >= libraries and (s.entry == entry or not s.open)]
        able.sort(key=lambda s: (s.entry != entry, len(s.libraries)))
        found = next((s for s in able if s.open or s.rested()), None)
        if found is None:
            for sandbox in [s for s in self.warm if not s.open][: max(0, len(self.warm) - self.most + 1)]:
                self.warm.remove(sandbox)
                sandbox.close()
            found = Sandbox(self.launcher, self.limits, libraries, self.device)
        else:
            self.warm.remove(found)
        found.entry = entry
        self.warm.append(found)
        return found

    def end_sessions(self) -> None:
        """At the end of a job nothing of a submission runs on."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    def close(self) -> None:
        self.end_sessions()
        for sandbox in self.warm:
            sandbox.close()
        self.warm.clear()


def launcher(mode: str = "auto") -> Launcher:
    """The way that works here. Raises UserError, which says how to do without for this mode of isolation."""
    found = probe()
    if not isinstance(found, Launcher):
        trust = "for files that you have read yourself, add --trust"
        instead = f"leave --isolation always out and, {trust}" if mode == "always" else trust
        helps = f"{found.advice}; or {instead}"
        raise UserError(f"isolation: expected a working bubblewrap, given: {found.cause}; {helps}")
    return found


def most_warm(workers: int) -> int:
    """How many sandboxes a worker may keep warm: half of the machine's memory for all of them."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = 8 << 30
    return max(2, min(24, total // 2 // workers // (350 << 20)))
