"""Run every hostile submission as the judge would run it, and see from outside whether it got what it wanted.

Each file of `attacks/` and `defenses/` is a submission. Its docstring says what it tries; constants say how
it is to end (`STATUS`), what has to be read in the reason or the log (`REASON`), and what stops it. It has
succeeded where the host shows it: a canary of the host in the record, a file where none may appear, a
caller on a listener, a process that lives on, a score that knows the members of a target that tells
nothing, a second scenario that knows the first, a judge that grew or waited beyond the limits.

`CONTROL` submissions do no harm: they run once more without a sandbox, where they must succeed, else being
stopped would mean nothing.
"""

from __future__ import annotations

import ast
import contextlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmark import protocol
from benchmark.data.population import seed_of
from benchmark.entries import registry
from benchmark.errors import UserError
from benchmark.judge import kinds
from benchmark.result import Result
from benchmark.run import execute, work
from benchmark.run.plan import ScenarioJob, scenario_key
from benchmark.run.work import Setting
from benchmark.sandbox.host import launcher
from benchmark.sandbox.remote import Isolation
from benchmark.targets.artifacts import Artifacts

HERE = Path(__file__).parent
SUBMISSIONS = HERE.parent.parent / "submissions"
LIMITS = {
    "seconds": 12, "memory_mb": 1024, "processes": 48, "files": 128, "scratch_mb": 24, "output_mb": 4, "stored_mb": 24,
}  # fmt: skip
SLACK = 20
"""Seconds that the judge may need beyond the limit: starting sandboxes, training, a busy machine."""
DYING = 5
"""Seconds for the kernel to end what was killed: a namespace ends after the process that held it."""
GROWTH = 1500
"""Megabytes by which no submission may make the judge grow."""
CHANCE = 0.9
"""An AUC that nobody reaches by chance on 30 members and 30 non-members: over 5 standard deviations."""
MARKER = "redteam-was-here"
CONSTANTS = {
    "STOPPED_BY": "", "STATUS": (), "REASON": "", "CONTROL": False, "OFFICIAL": False, "TWICE": False,
    "SWAPPED": False, "LONG": False, "TARGETS": 1, "DEFENSE": "constant_output", "LOOKUP": False,
    "RECOUNT": False, "UTILITY": False,
}  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """One file, and what it says of itself."""

    path: Path
    kind: Literal["attack", "defense"]
    tries: str
    says: dict[str, Any]

    @property
    def id(self) -> str:
        return self.path.stem


@dataclass
class Ending:
    """What became of it. `succeeded` and `wrong` list facts; both are empty where it was stopped as it says."""

    id: str
    tries: str
    stopped_by: str
    status: str = ""
    reason: str = ""
    seconds: float = 0.0
    succeeded: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    control: str = ""


def everything() -> list[Hostile]:
    """All hostile submissions, by kind and name. Raises ValueError for one that does not say what is needed."""
    found = []
    for kind in ("attack", "defense"):
        for path in sorted((HERE / f"{kind}s").glob("*.py")):
            tree = ast.parse(path.read_text())
            given = {
                n.targets[0].id: ast.literal_eval(n.value)
                for n in tree.body
                if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id in CONSTANTS
            }
            doc = ast.get_docstring(tree)
            if not doc or not given.get("STOPPED_BY") or not given.get("STATUS"):
                raise ValueError(f"{path}: expected a docstring, STOPPED_BY and STATUS")
            found.append(Hostile(path, kind, doc.splitlines()[0], CONSTANTS | given))  # type: ignore[arg-type]
    return found


# --- The host, with what is worth stealing ----------------------------------------------------------


@dataclass
class Host:
    """A folder that stands for the host: canaries in all that a submission may not read, listeners, markers."""

    root: Path
    canaries: dict[str, str]
    port: int

    @property
    def watched(self) -> list[Path]:
        """Folders in which a marker must never appear."""
        inside = [p for p in self.root.rglob("*") if p.is_dir()]
        return [self.root, *inside, Path.cwd(), Path.home(), Path("/tmp"), Path("/dev/shm"), Path("/"), Path("/dev"),
                Path(sys.prefix), Path(torch.__file__).parent.parent, Path("/usr/bin"), Path("/usr/lib"),
                execute.__spec__ and Path(execute.__file__).parent]  # fmt: skip

    def markers(self) -> list[str]:
        return sorted({str(p / MARKER) for p in self.watched if (p / MARKER).exists()})

    def callers(self) -> list[str]:
        try:
            return (self.root / "callers").read_text().split()
        except OSError:
            return []


class _Keeper:
    """Holds the host's listeners, and a process whose command line and environment hold canaries."""

    def __init__(self, root: Path) -> None:
        names = ("environment", "command", "home", "store", "mlruns", "repository", "memory", "secret")
        canaries = {name: f"canary-{os.urandom(8).hex()}" for name in names}
        for name in ("home", "store", "mlruns", "repository", "cwd"):
            (root / name).mkdir(parents=True)
            (root / name / "labels.json").write_text(json.dumps({"members": canaries.get(name, "")}))
        lines = [
            socket.create_server(("127.0.0.1", 0)),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            socket.socket(socket.AF_UNIX),
            socket.socket(socket.AF_UNIX),
        ]
        port = lines[0].getsockname()[1]
        lines[1].bind(("127.0.0.1", port))
        lines[2].bind(str(root / "socket"))
        lines[3].bind(f"\0redteam-{port}")
        for line in lines[2:]:
            line.listen()
        for line in lines:
            threading.Thread(target=self._listen, args=(line, root / "callers"), daemon=True).start()
        self.host = Host(root, canaries, port)
        code = "import time; time.sleep(3600)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, canaries["command"]], env=os.environ | {"LABELS": canaries["environment"]}
        )

    @staticmethod
    def _listen(line: socket.socket, callers: Path) -> None:
        while True:
            if line.type == socket.SOCK_STREAM:
                line.accept()
            else:
                line.recv(100)
            with callers.open("a") as file:
                file.write(f"{line.family.name}/{line.type.name} ")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


# --- One submission ---------------------------------------------------------------------------------


class Range:
    """A judge with small limits, and a host around it, in one process."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.submissions = folder / "submissions"
        shutil.copytree(SUBMISSIONS, self.submissions)
        content = yaml.safe_load((protocol.FOLDER / "smoke.yaml").read_text())
        loaded = protocol.Protocol(**content | {"limits": LIMITS, "seeds": [0, 1]})
        self.public = Setting(loaded, self.submissions, folder / "store", "cpu", "auto", launcher())
        self.official = replace(self.public, secret=host.canaries["secret"].encode())
        self.isolation = Isolation("auto", self.public.launcher, loaded.limits)  # a worker keeps its sandboxes, too
        self._warm_up()
        self.memory = [host.canaries["memory"] + str(time.time())]  # what reading this process's memory would find

    def _warm_up(self) -> None:
        """Train what all scenarios stand on, so that no attempt is charged with it."""
        for setting in (self.public, self.official):
            artifacts = setting.artifacts()
            chain, part = artifacts.chain("constant_output"), artifacts.registry.attack("loss")
            for seed in (0, 1):
                kinds.scenario(artifacts, part, chain, seed).score()

    def place(self, hostile: Hostile) -> Path:
        """The file as it is submitted: it knows where the host keeps what."""
        text = hostile.path.read_text().replace('"/host"', repr(str(self.host.root)))
        text = text.replace("PORT = 1", f"PORT = {self.host.port}").replace('b"redteam")', f'b"{_name()}")')
        if hostile.says["LONG"]:
            text += "\n\ndef never():\n" + "".join(f"    import a{'b' * 60}{i}\n" for i in range(3000))
        path = self.submissions / f"{hostile.kind}s" / f"{hostile.id}.py"
        path.write_text(text)
        return path

    def attempt(self, hostile: Hostile) -> Ending:
        ending = Ending(hostile.id, hostile.tries, hostile.says["STOPPED_BY"])
        start = time.monotonic()
        path = self.place(hostile)
        try:
            self._isolated(hostile, ending, path)
            if hostile.says["CONTROL"]:
                ending.control = self._control(hostile)
                if not ending.control:
                    ending.wrong.append("without a sandbox it does not succeed either: it shows nothing")
                time.sleep(
                    0.5
                )  # a listener notes the control's last call when it comes to it: no fact of the next attempt
                self._host_facts()
        except Exception as error:  # one that breaks the judge must not hide the others
            ending.wrong.append(f"the judge raised {type(error).__name__}: {error}")
        ending.seconds = time.monotonic() - start
        path.unlink()
        return ending

    def _isolated(self, hostile: Hostile, ending: Ending, path: Path) -> None:
        says = hostile.says
        setting = self.official if says["OFFICIAL"] else self.public
        more = setting.protocol.model_copy(update={"targets": says["TARGETS"]})
        setting = replace(setting, protocol=more)
        entry = registry.read(path, hostile.kind)
        if entry.error:
            ending.status, ending.reason, results = "refused", entry.error, []
            ending.succeeded += self._told(entry.error)
        else:
            before = _peak()
            results = self._score(hostile, setting, path)
            ending.status, ending.reason = results[-1].status, results[-1].reason
            ending.succeeded += [fact for r in results for fact in self._facts(hostile, r)]
            if _peak() - before > GROWTH:
                ending.succeeded.append(f"the judge grew by {_peak() - before:.0f} MB")
        ending.succeeded += self._host_facts()
        said = ending.reason + "".join(r.log for r in results)
        if ending.status not in says["STATUS"]:
            ending.wrong.append(f"expected status {' or '.join(says['STATUS'])}, given {ending.status}")
        if says["REASON"] and not re.search(says["REASON"], said, re.DOTALL):
            ending.wrong.append(f"expected a reason like {says['REASON']!r}")

    def _score(self, hostile: Hostile, setting: Setting, path: Path) -> list[Result]:
        """Score as a worker does, seed by seed; then the special looks that a file asks for."""
        attack = "" if hostile.says["UTILITY"] else hostile.id if hostile.kind == "attack" else "loss"
        chain = hostile.says["DEFENSE"] if hostile.kind == "attack" else hostile.id
        artifacts = setting.artifacts()
        if setting.isolation == "auto":
            artifacts.isolation = self.isolation
        work._artifacts, work._setting = artifacts, setting
        execute._registry.cache_clear()
        if hostile.says["SWAPPED"]:
            path.write_text(path.read_text() + f"\n\nopen({str(self.host.root / MARKER)!r}, 'w').close()\n")
        try:
            part = artifacts.registry.attack(attack) if attack else None
            results = []
            for seed in (0, 1) if hostile.says["TWICE"] else (0,):
                key = scenario_key(artifacts, part, artifacts.chain(chain), seed)
                start = time.monotonic()
                job = ScenarioJob(id=key, defense=artifacts.chain(chain).name, seed=seed, attack=attack)
                done = work.run_job(job)
                result = done.result or execute.failure(setting, job, done).result
                assert result is not None
                if time.monotonic() - start > LIMITS["seconds"] + SLACK:
                    raise UserError(f"the judge waited {time.monotonic() - start:.0f} s")
                results.append(result)
            self._special(hostile, artifacts, results)
            return results
        finally:
            artifacts.isolation.end_sessions()

    def _special(self, hostile: Hostile, artifacts: Artifacts, results: list[Result]) -> None:
        """What the judge measures beyond the scenario: a flagged row is no success."""
        if not (hostile.says["LOOKUP"] or hostile.says["RECOUNT"]):
            return
        chain = artifacts.chain(hostile.id)
        key = scenario_key(artifacts, None, chain, 0)
        worth = work.run_job(ScenarioJob(id=key, defense=chain.name, seed=0))
        flagged = worth.error or (worth.result.claims.get("lookup", "") if worth.result else "")
        results[-1] = results[-1].model_copy(update={"reason": flagged or "not noticed"})
        if not flagged:
            results[-1] = results[-1].model_copy(update={"log": "UNNOTICED"})

    def _facts(self, hostile: Hostile, result: Result) -> list[str]:
        """What the record shows of a success."""
        facts = self._told(result.to_json())
        auc = result.metrics.get("auc", 0.5)
        if max(auc, 1 - auc) > CHANCE:
            facts.append(f"AUC {auc:.2f} on a target that tells nothing of it")
        if result.log == "UNNOTICED":
            facts.append("the judge did not notice")
        if hostile.says["TWICE"] and result.seed == 1:
            first = seed_of("attack", 0, hostile.id, hostile.says["DEFENSE"])
            if re.search(r"carried over", result.reason) and re.search(f"{str(first)[:9]}|BITS", result.reason):
                facts.append("the second scenario knows what the first one left")
        if not all(c.isprintable() or c == "\n" for c in result.reason + result.log):
            facts.append("control characters in the record")
        return facts

    def _told(self, text: str) -> list[str]:
        return [f"it read the {name}" for name, canary in self.host.canaries.items() if canary in text]

    def _host_facts(self) -> list[str]:
        """What the host shows of a success."""
        facts = [f"it wrote {path}" for path in self.host.markers()]
        for path in facts:
            Path(path.removeprefix("it wrote ")).unlink()
        if callers := self.host.callers():
            facts.append(f"it called {', '.join(callers)}")
            (self.host.root / "callers").unlink()
        end = time.monotonic() + DYING
        while (alive := _alive()) and time.monotonic() < end:
            time.sleep(0.1)
        if alive:
            facts.append(f"{alive} of its processes live on")
        return facts

    def _control(self, hostile: Hostile) -> str:
        """The same without a sandbox, in a process that is thrown away: what it gets then."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.environ["LABELS"] = self.host.canaries["environment"]
                setting = replace(self.official if hostile.says["OFFICIAL"] else self.public, isolation="never")
                result = self._score(hostile, setting, self.submissions / f"{hostile.kind}s" / f"{hostile.id}.py")[-1]
                os.write(writer, "; ".join(self._facts(hostile, result) + self._host_facts()).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            found = file.read()
        os.waitpid(pid, 0)
        return found


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _alive() -> int:
    """Processes that bear the name which this worker gives to those of its submissions."""
    names = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            names.append(path.read_text("utf-8", "replace").strip())
    return names.count(_name())


def _name() -> str:
    return f"red{os.getpid()}"


# --- All of them ------------------------------------------------------------------------------------

_range: Range | None = None


def _open(host: Host, folder: Path) -> None:
    global _range
    torch.set_num_threads(1)
    own = folder / str(os.getpid())
    own.mkdir()
    os.chdir(host.root / "cwd")
    _range = Range(host, own)


def _attempt(hostile: Hostile) -> Ending:
    assert _range is not None
    return _range.attempt(hostile)


@contextlib.contextmanager
def judging(workers: int) -> Iterator[Callable[[list[Hostile]], Iterator[Ending]]]:
    """What runs hostile submissions, each worker process being a judge, and yields how each ended."""
    with tempfile.TemporaryDirectory(prefix="redteam-", dir="/var/tmp") as folder:
        (Path(folder) / "host").mkdir()
        keeper = _Keeper(Path(folder) / "host")
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(workers, context, _open, (keeper.host, Path(folder))) as pool:
                yield lambda chosen: pool.map(_attempt, chosen)
        finally:
            keeper.close()


def main() -> int:
    """The table; 1 where a submission has succeeded, or ended otherwise than it says."""
    names = sys.argv[1:]
    chosen = [h for h in everything() if not names or h.id in names]
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table("submission", "what it tries", "what happened", "what stopped it", "s", show_lines=True)
    bad = []
    with judging(2) as attempt:
        endings = []
        for ending in attempt(chosen):
            endings.append(ending)
            verdict = "NOT AS IT SHOULD" if ending.succeeded or ending.wrong else "STOPPED"
            print(f"{verdict}  {ending.id}", file=sys.stderr)
    for ending in endings:
        happened = f"{ending.status}: {ending.reason[:120]}" if ending.reason else ending.status
        verdict = ending.stopped_by
        if ending.succeeded or ending.wrong:
            bad.append(ending)
            verdict = "; ".join(["SUCCEEDED: " + s for s in ending.succeeded] + ending.wrong)
        if ending.control:
            happened += f" (without a sandbox: {ending.control[:60]})"
        table.add_row(*map(escape, (ending.id, ending.tries, happened, verdict, f"{ending.seconds:.1f}")))
    console.print(table)
    console.print(f"{len(chosen)} hostile submissions, {len(chosen) - len(bad)} stopped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
