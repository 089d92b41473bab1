"""Runs a submission's code under bubblewrap, in warm sandboxes that serve one entry at a time and fork for each task.

The sandbox has no network, a read-only root with what Python needs, scratch folders of limited size, no home, a few
fixed environment variables, a seccomp filter and resource limits; it dies with the judge. A watchdog thread holds the
memory and the number of processes of the whole tree, the time and the output to their limits, whichever of them this
machine's kernel can enforce by itself. What is promised, and what is not: SECURITY.md.
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

from benchmark import networks, places
from benchmark.errors import Fault, UserError, error_line, out_of_memory, printable
from benchmark.protocol import Limits
from benchmark.sandbox import memory
from benchmark.sandbox.wire import Channel, Closed, Handler, Message, Meta, RemoteError, WireError

_PACKAGE = Path(__file__).parents[1]
_INSIDE = "/leakboard"
_START = f"import sys; sys.path.insert(0, {_INSIDE!r}); from benchmark.sandbox.zygote import main; main()"
_OCCUPIED = ("/tmp", "/dev", "/proc", "/sys", _INSIDE)
"""Paths at which the sandbox has something of its own. What Python needs from such a path is bound elsewhere."""
_TAIL_BYTES = 64 << 10
"""Of the output of a process, the last bytes, which are kept for its log."""
_WATCH_INTERVAL = 0.1
"""Seconds between two checks of the watchdog while a piece of work is open."""
_IDLE_INTERVAL = 1.0
"""Seconds between them while none is open."""
_STARTS = 120.0
"""Seconds that a sandbox may take to start on a busy machine. They do not count as the submission's time."""
_WIPE = 5.0
"""Seconds that a sandbox may take to clean itself before it serves another entry."""
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
"""Settings of glibc's malloc that keep freed memory in the process: page faults would take a quarter of training."""
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
    # Python objects and tensors on huge pages: a fork copies the page table, and a smaller one halves the time.
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    **MALLOC,
}
_ARITHMETIC = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Variables that a sandbox takes over from the judge: they choose the instructions, and so the last digits."""


# --- The system-call filter -------------------------------------------------------------------------

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# System-call numbers on x86_64 and on aarch64; None where the call does not exist.
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
    # These leave traces, on the zygote or on files that sandboxes share, which the next piece of work could read.
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
    """The BPF program for bubblewrap's --seccomp; None for a machine (`platform.machine()`) that has no table here.

    It refuses sockets, memory that no limit counts, ways into other processes, state that outlives a process, and new
    namespaces. clone3, whose flags a filter can't read, is answered with "not implemented", so that the C library falls
    back to clone. An instruction is (code, jump if true, jump if false, constant); jumps are relative.
    """
    if machine not in _ARCHITECTURES:
        return None
    audit, column = _ARCHITECTURES[machine]
    load, equal, atleast, anybit, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4), (equal, 1, 0, audit), (ret, 0, 0, _KILL),  # a call by another architecture's convention
        (load, 0, 0, 0),
    ]  # fmt: skip
    if machine == "x86_64":
        # Calls of the x32 ABI have other numbers, which the table would miss.
        program += [(atleast, 0, 1, 0x40000000), (ret, 0, 0, _KILL)]
    for numbers in _DENIED.values():
        if numbers[column] is not None:
            program += [(equal, 0, 1, numbers[column]), (ret, 0, 0, _EPERM)]  # type: ignore[list-item]
    program += [(equal, 0, 1, _CLONE3[column]), (ret, 0, 0, _ENOSYS)]
    # prlimit is allowed for the calling process alone: later forks inherit the zygote's limits.
    program += [
        (equal, 0, 4, _PRLIMIT[column]),
        (load, 0, 0, 16),
        (equal, 0, 1, 0),
        (ret, 0, 0, _ALLOW),
        (ret, 0, 0, _EPERM),
    ]
    fcntl_checks = [(equal, len(_FCNTL_ALLOWED) - i, 0, c) for i, c in enumerate(_FCNTL_ALLOWED)]
    program += [(equal, 0, len(fcntl_checks) + 3, _FCNTL[column]), (load, 0, 0, 24), *fcntl_checks]
    program += [(ret, 0, 0, _EPERM), (ret, 0, 0, _ALLOW)]
    program += [(equal, 0, 3, _CLONE[column]), (load, 0, 0, 16), (anybit, 0, 1, _NEW_NAMESPACES), (ret, 0, 0, _EPERM)]
    program += [(ret, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


# --- The command ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launcher:
    """How bubblewrap works on this machine, as `probe` found it."""

    user_namespace: bool
    """The sandbox's user is that of a user namespace; else root starts it, and it drops to a user of its own."""
    proc: bool
    """A /proc is mounted inside. Some containers forbid that."""

    def uid(self, slot: int) -> int:
        """The user id that the sandbox drops to (0: none).

        Each of a process's last 64 has its own, so that its process limit counts it alone; from 61184, systemd's range for
        users of a while, which containers map too.
        """
        return 0 if self.user_namespace else 61184 + os.getpid() % 64 * 64 + slot % 64

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
            command += ["--dir", folder]  # folders that bubblewrap makes by itself are unreadable for other users
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
        # Like -I, but Python reads the environment, which is set above; the zygote adds the packages to sys.path.
        return [*command, python.interpreter, "-P", "-s", "-S", "-c", _START, str(control), own]


def _environment() -> dict[str, str]:
    """The environment variables of a sandbox, but for those that `_python` adds."""
    return _ENVIRONMENT | {name: os.environ[name] for name in _ARITHMETIC if name in os.environ}


@dataclass
class _Python:
    """All of the machine that a sandbox sees: the interpreter, its packages and the C library."""

    interpreter: str = ""
    packages: list[str] = field(default_factory=list)
    """Folders of installed packages, by their paths inside, in the order of the judge's `sys.path`."""
    binds: dict[str, Path] = field(default_factory=dict)
    """From a path inside to the folder or file of the machine that is shown there."""
    environment: dict[str, str] = field(default_factory=dict)

    def show(self, path: Path) -> str:
        """Bind a path, and return where it lies inside: at the same path, unless that one is occupied."""
        for inside, outside in self.binds.items():
            if path.is_relative_to(outside):
                return str(Path(inside, path.relative_to(outside)))
        inside = f"{_INSIDE}/outside/{len(self.binds)}" if _unusable_inside(path) else str(path)
        self.binds[inside] = path
        return inside


def _python() -> _Python:
    """What Python needs, wherever it is installed. Links are resolved: a folder is shown under its real path."""
    python = _Python()
    libraries = Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "")
    system = [libraries if libraries.is_dir() else Path("/usr/lib"), Path("/usr/lib64")]
    base = Path(sys.base_prefix).resolve()
    interpreter = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    python_home = f"{_INSIDE}/python" if _unusable_inside(base) else str(base)
    if base == Path("/usr"):
        version = f"python{sys.version_info.major}"
        system += [*Path("/usr/lib").glob(f"{version}*"), *Path("/usr/bin").glob(f"{version}*")]
        python.interpreter = str(interpreter)
    else:
        for name in sorted({"lib", sys.platlibdir}):
            if (base / name).is_dir():
                python.binds[f"{python_home}/{name}"] = base / name
        python.interpreter = f"{python_home}/bin/{interpreter.name}"
        python.binds[python.interpreter] = interpreter
        library = base / "lib" / str(sysconfig.get_config_var("INSTSONAME"))
        if sysconfig.get_config_var("Py_ENABLE_SHARED") and library.is_file():
            # The interpreter looks for libpython where it was built, and inside there is no linker cache to find it by.
            python.binds[f"{_INSIDE}/library/{library.name}"] = library
            python.environment["LD_LIBRARY_PATH"] = f"{_INSIDE}/library"
    python.environment["PYTHONHOME"] = python_home
    for path in system:
        if path.exists() and not any(path.is_relative_to(other) for other in python.binds.values()):
            python.show(path)
    if sys.prefix != sys.base_prefix and not _private_below(environment := Path(sys.prefix).resolve()):
        python.show(environment / "lib")  # some packages have their libraries beside `site-packages`
    for folder in _package_folders():
        if not _private_below(folder):
            python.packages.append(python.show(folder))
    return python


def _package_folders() -> Iterator[Path]:
    """The folders of installed packages on `sys.path`, however they came there:

    `site-packages`, Debian's `dist-packages`, a user's own, those of `pip install --target`, PYTHONPATH and *.pth.
    """
    for folder in dict.fromkeys(Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_dir()):
        if next(folder.glob("*.dist-info"), None) is not None:
            yield folder


def _unusable_inside(path: Path) -> bool:
    """Whether the path can't be used inside. A colon separates paths for Python and for the linker."""
    return ":" in str(path) or any(path.is_relative_to(taken) for taken in _OCCUPIED)


def _private_below(folder: Path) -> bool:
    """Whether the home, the project or one of its folders lies in the folder: such a folder is never shown."""
    private = (Path.home(), places.project().root, places.submissions(), places.store(), places.published())
    return any(path.resolve().is_relative_to(folder) for path in private)


@dataclass(frozen=True)
class Unable:
    """Why no sandbox starts on this machine (`cause`), and what would help (`advice`)."""

    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause}; {self.advice}"


@cache
def probe() -> Launcher | Unable:
    """The first way to start a sandbox that works here, or why the preferred one does not; found by starting them."""
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
    if os.geteuid() == 0:  # prefer a user of its own: it limits the number of processes, which a namespace does not
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
    """Start a sandbox this way; None if it works: PyTorch is visible inside, and the user is not root."""
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
        output = " ".join(errors.read().decode(errors="replace").split())
    try:
        report = json.loads(answer)
    except ValueError:
        return _why_not(output)
    if not report["torch"]:
        return _why_no_torch()
    return None if report["uid"] != 0 else Unable("the sandbox would run as root", "run Leakboard as another user")


def _why_not(output: str) -> Unable:
    """What keeps bubblewrap from working, judged by its output and by settings of the kernel."""
    excerpt = printable(output[-300:], 300) or "it gave no answer"
    if "No module named 'benchmark'" in output:
        return Unable(
            f"the sandbox's user can't read {_PACKAGE}", f"let it: chmod -R go+rX {shlex.quote(str(_PACKAGE))}"
        )
    if "Unknown option" in output:
        return Unable(f"bubblewrap is installed, but too old ({excerpt})", "install version 0.8 or a newer one")
    if not re.search("(?i)namespace|uid map|denied|permi|RTM_NEWADDR", output):
        return Unable(f"bubblewrap is installed, but fails ({excerpt})", "try it alone: bwrap --ro-bind / / true")
    unprivileged = os.geteuid() != 0
    settings = (
        ("user.max_user_namespaces", "0", "15000", True),
        ("kernel.unprivileged_userns_clone", "0", "1", unprivileged and not _container()),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0", unprivileged and not _container()),
    )
    for name, forbids, allows, applies in settings:
        if applies and _setting(name) == forbids:
            who = "AppArmor forbids" if "apparmor" in name else "the system forbids"
            profile = "give bwrap an AppArmor profile with `userns,`, or: " if "apparmor" in name else ""
            return Unable(
                f"bubblewrap is installed, but {who} user namespaces: {name} = {forbids} ({excerpt})",
                f"{profile}sudo sysctl -w {name}={allows}",
            )
    if _container():
        return Unable(
            f"bubblewrap is installed, but this container's seccomp filter or AppArmor profile forbids namespaces ({excerpt})",
            "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
        )
    return Unable(
        f"bubblewrap is installed, but AppArmor or a seccomp filter (a container's, say) forbids namespaces ({excerpt})",
        "allow user namespaces to bwrap",
    )


def _why_no_torch() -> Unable:
    """Why a sandbox does not see PyTorch."""
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
    """A sysctl setting of the kernel; "" if there is none of this name."""
    try:
        return Path("/proc/sys", *name.split(".")).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _container() -> bool:
    """Whether this process runs in a container, judged by files and variables that container engines leave."""
    marks = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
    return "container" in os.environ or any(Path(mark).exists() for mark in marks)


def _config(limits: Limits, uid: int, libraries: list[str], devices: list[str], *, probe: bool) -> dict[str, Any]:
    """The zygote's configuration; with `probe` it reports what it sees, and ends."""
    numbers = ("memory_mb", "processes", "files", "scratch_mb", "seconds")
    own = {name: int(getattr(limits, name)) for name in numbers}
    return {**own, "uid": uid, "libraries": libraries, "devices": devices, "probe": probe}


def _start(launcher: Launcher, config: dict[str, Any], log: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a sandbox; returns bubblewrap's process and the control socket of the zygote.

    To be called from the main thread: the sandbox dies with the thread that started it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = seccomp_filter(platform.machine())
    assert program is not None
    with theirs, tempfile.TemporaryFile() as filter_file:
        filter_file.write(program)
        filter_file.flush()
        filter_file.seek(0)
        fds = (theirs.fileno(), filter_file.fileno())
        command = launcher.command(fds[0], config, fds[1])
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, start_new_session=True, env={}
            | {"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
        )  # fmt: skip
    return process, ours


# --- One sandbox, one piece of work -----------------------------------------------------------------


class Sandbox:
    """A sandbox with a warm process that serves one entry at a time.

    A watchdog thread kills it when a limit is broken.
    """

    _slots = itertools.count(1)

    def __init__(self, launcher: Launcher, limits: Limits, libraries: Collection[str], device: str) -> None:
        self.limits, self.libraries = limits, frozenset(libraries)
        self.entry = ""
        """The entry that it serves now, or served last."""
        self.cause: Fault | None = None
        """Why it was killed; None while it runs."""
        self.ended: dict[int, int] = {}
        """Wait status of the forks that ended, by number."""
        self.open: dict[int, Session] = {}
        self._number, self._clean = 0, 0
        self._cleaned = threading.Condition()
        # Re-entrant, and `open` is copied before it is gone through: the garbage collector may end a session in any thread, at any
        # allocation, also in one that holds the lock.
        self._lock = threading.RLock()
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
        """Request a fork for one piece of work."""
        ours, theirs = socket.socketpair()
        reader, log = os.pipe()
        self._number += 1
        session = Session(self, self._number, ours, reader)
        with theirs, self._lock:
            self.open[session.number] = session
            try:
                socket.send_fds(self.control, [b"F%d" % session.number], [theirs.fileno(), log])
            except OSError:
                pass  # the sandbox is dead; the first call of the session raises the cause
            finally:
                os.close(log)
        return session

    def wait_for_fork(self, session: Session) -> bool:
        """Wait for a session's fork. False if the sandbox died before it: then this piece of work is not the cause."""
        end = time.monotonic() + _STARTS
        while not session.forked.wait(_WATCH_INTERVAL):
            if not self.alive:
                return False
            if time.monotonic() > end:
                self.kill(Fault("timeout", f"the sandbox did not start within {_STARTS:.0f} s"))
                return True
        return True

    def end(self, session: Session) -> None:
        """Have the fork of a session killed."""
        with self._lock:
            if self.open.pop(session.number, None) is not None:
                with contextlib.suppress(OSError):
                    self.control.send(b"E%d" % session.number)

    def wait_until_clean(self) -> bool:
        """Wait until no process and no file of the last piece of work is left. False if it can't serve another one.

        The zygote reports it. A sandbox whose zygote does not, for a fork may have stopped it, is killed.
        """
        with self._cleaned:
            if not self._cleaned.wait_for(lambda: self._clean == self._number or not self.alive, _WIPE):
                self.kill()
        return self.alive and not self.open

    def kill(self, cause: Fault | None = None) -> None:
        """Kill the sandbox and every process in it; the first `cause` counts."""
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
        """The reason why a session's process is gone, as a Fault."""
        for _ in range(20):
            if self.cause is not None or session.number in self.ended or self.process.poll() is not None:
                break
            time.sleep(_WATCH_INTERVAL)
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
        """The watchdog: reads the output, and checks time and memory at intervals while a piece of work is open."""
        last_check = 0.0
        while self.process.poll() is None:
            with self._lock:
                sessions = self.open.copy()
            tails = [self.log, *(s.log for s in sessions.values())]
            working = bool(sessions)
            del sessions
            watched: list[Any] = [self.control, *(t for t in tails if not t.done)]
            try:  # while idle nothing of a submission runs; the report of a new fork ends the wait
                ready, _, _ = select.select(watched, [], [], _WATCH_INTERVAL if working else _IDLE_INTERVAL)
            except (OSError, ValueError):  # a session was closed between two lines
                continue
            for tail in ready:
                if isinstance(tail, Tail):
                    tail.drain()
                    if tail.total > self.limits.output_mb << 20:
                        self.kill(Fault("failed", f"printed more than {self.limits.output_mb} MB"))
                else:
                    self._read_report()
            if working and time.monotonic() - last_check > _WATCH_INTERVAL:
                self._enforce_limits()
                last_check = time.monotonic()

    def _read_report(self) -> None:
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
        except (OSError, ValueError, KeyError, TypeError):  # closed, or no report of the zygote's
            self.kill(Fault("failed", "the sandbox ended"))

    def _enforce_limits(self) -> None:
        with self._lock:
            sessions = self.open.copy()
        for session in sessions.values():
            if session.busy > self.limits.seconds:
                self.kill(Fault("timeout", f"more than {self.limits.seconds} s"))
        pids = list(memory.tree(self.process.pid))
        if len(pids) > self.limits.processes + 3:  # bubblewrap has two, and the zygote is one
            self.kill(Fault("failed", f"more than {self.limits.processes} processes"))
        limit = self.limits.memory_mb << 20
        # The quick sum counts memory that forks share with the zygote once for each fork: it is an upper bound.
        if sum(map(memory.own, pids)) > limit and sum(map(memory.share, pids)) > limit:
            self.kill(Fault("out-of-memory", f"more than {self.limits.memory_mb} MB"))


class Session:
    """One piece of work in a fork of a sandbox. Whatever goes wrong on the other side is raised as a `Fault`."""

    def __init__(self, sandbox: Sandbox, number: int, stream: socket.socket, log: int) -> None:
        self.sandbox, self.number, self.log = sandbox, number, Tail(log)
        self.forked = threading.Event()
        self.advise: Callable[[RemoteError], str] = lambda error: ""
        """Gives the hint that is shown with an error of the other side; "" for none."""
        self._spent, self._since = 0.0, 0.0
        self._channel = _Timed(stream, self)

    @property
    def handlers(self) -> dict[str, Handler]:
        """The functions that answer the other side's calls, by name."""
        return self._channel.handlers

    @handlers.setter
    def handlers(self, handlers: dict[str, Handler]) -> None:
        self._channel.handlers = handlers

    def limit_payload(self, n: int) -> None:
        """Accept no message with more than n bytes of tensors."""
        self._channel.max_payload = n

    @property
    def busy(self) -> float:
        """Seconds that the judge has waited for the other side so far."""
        since = self._since
        return self._spent + (time.monotonic() - since if since else 0.0)

    def call(self, do: str, meta: Meta | None = None, tensors: Mapping[str, Tensor] | None = None) -> Message:
        """Call a handler of the other side (`Channel.call`).

        Raises Fault; what this side's own handlers raise passes through.
        """
        try:
            return self._channel.call(do, meta, tensors)
        except RemoteError as error:
            text = error_line(error.kind, error.text, error.at, self.advise(error))
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
        """Start or stop the clock of `busy`."""
        now = time.monotonic()
        if on:
            self._since = now
        else:
            self._spent += now - self._since
            self._since = 0.0

    def _blame(self, fault: Fault) -> Fault:
        """The fault, with the last lines of the output as its log."""
        time.sleep(_WATCH_INTERVAL / 2)  # the last output may still be on its way into the pipe
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
    """The end of the output that is written to a pipe, and its total number of bytes."""

    def __init__(self, reader: int) -> None:
        self.total, self.done = 0, False
        self._reader, self._last = reader, b""
        self._lock = threading.RLock()  # the garbage collector may close it while it is drained
        os.set_blocking(reader, False)

    def fileno(self) -> int:
        return self._reader

    def drain(self) -> None:
        with self._lock:
            for _ in range(64):  # endless output must not keep the watchdog from its checks
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
                self._last = (self._last + more)[-_TAIL_BYTES:]

    def text(self, lines: int = 20, characters: int = 2000) -> str:
        """The last lines, made safe to print."""
        last = self._last.decode(errors="replace").splitlines()[-lines:]
        return "\n".join(printable(line, 500) for line in last)[-characters:]

    def close(self) -> None:
        with self._lock:
            if self._reader >= 0:
                os.close(self._reader)
            self.done = True
            self._reader = -1


# --- All sandboxes of a worker ----------------------------------------------------------------------


@dataclass
class Sandboxes:
    """The sandboxes of one worker. A sandbox serves one entry at a time; once it is clean it may serve another.

    The zygote never runs an entry's code, so that it carries over nothing but the libraries that it has loaded.
    """

    launcher: Launcher
    limits: Limits
    device: str
    max_warm: int = 24
    warm: list[Sandbox] = field(default_factory=list)
    """In the order of their last use, the latest at the end."""
    starting: float = 0.0
    """Seconds that starts and forks have taken so far."""
    _sessions: list[Session] = field(default_factory=list)

    def session(self, entry: str, libraries: Collection[str]) -> Session:
        """Fork a sandbox that serves `entry` (its id and source) alone and has loaded these libraries. Raises Fault."""
        since = time.monotonic()
        for _ in range(2):  # a sandbox that can't be cleaned ends, and may do so only now: then another one is tried
            sandbox = self._sandbox(entry, frozenset(libraries))
            session = sandbox.session()
            self._sessions.append(session)
            if sandbox.wait_for_fork(session):
                break
        self.starting += time.monotonic() - since
        if networks.own_texts:  # a sandbox sees no files of the user's
            session.call("networks", {"texts": networks.own_texts})
        return session

    def _sandbox(self, entry: str, libraries: frozenset[str]) -> Sandbox:
        """A warm sandbox that may serve the entry, its own before another's; else a new one."""
        for dead in [s for s in self.warm if not s.alive]:
            self.warm.remove(dead)
            dead.close()
        usable = [s for s in self.warm if s.libraries >= libraries and (s.entry == entry or not s.open)]
        usable.sort(key=lambda s: (s.entry != entry, len(s.libraries)))
        chosen = next((s for s in usable if s.open or s.wait_until_clean()), None)
        if chosen is None:
            for sandbox in [s for s in self.warm if not s.open][: max(0, len(self.warm) - self.max_warm + 1)]:
                self.warm.remove(sandbox)
                sandbox.close()
            chosen = Sandbox(self.launcher, self.limits, libraries, self.device)
        else:
            self.warm.remove(chosen)
        chosen.entry = entry
        self.warm.append(chosen)
        return chosen

    def end_sessions(self) -> None:
        """End all forks: after a job nothing of a submission runs on."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    def close(self) -> None:
        self.end_sessions()
        for sandbox in self.warm:
            sandbox.close()
        self.warm.clear()


def launcher(mode: str = "auto") -> Launcher:
    """How to start a sandbox on this machine.

    Raises UserError where it is impossible, with the way out for this mode.
    """
    way = probe()
    if not isinstance(way, Launcher):
        trust = "for files that you have read yourself, add --trust"
        alternative = f"leave --isolation always out and, {trust}" if mode == "always" else trust
        advice = f"{way.advice}; or {alternative}"
        raise UserError(f"isolation: expected a working bubblewrap, given: {way.cause}; {advice}")
    return way


def most_warm(workers: int) -> int:
    """How many sandboxes each of `workers` processes may keep warm: together they take at most half of the memory."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = 8 << 30
    return max(2, min(24, total // 2 // workers // (350 << 20)))
