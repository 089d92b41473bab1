"""A home for each test: its own store, submissions and MLflow; the command, in this process or in another."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmark import protocol
from benchmark.data import secret
from benchmark.protocol import Protocol
from benchmark.result import Result
from benchmark.run import tracking, work
from benchmark.run.execute import execute, on_this_machine
from benchmark.run.executors import pool
from benchmark.sandbox.host import Launcher, probe
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store
from leakboard import cli, console

ROOT = Path(__file__).resolve().parent.parent
SUBMISSIONS = ROOT / "submissions"

torch.set_num_threads(1)  # as a worker of the judge: tests run beside each other, and two threads each are slower


def artifacts_in(folder: Path, loaded: Protocol | None = None, submissions: Path = SUBMISSIONS) -> Artifacts:
    """Of `smoke` or another protocol; all submissions run in this process."""
    return work.Setting(loaded or protocol.load("smoke"), submissions, folder, "cpu", "never").artifacts()


ATTACK = '''"""An attack of the tests."""

import os
import signal

import torch
from torch import Tensor

from benchmark.api import Annotated, Attack, References, Candidates, Card, Field, Hyper, Knowledge, Target


class Mine(Attack):
    """The judge's thresholds don't matter here."""

    card = Card(title="Mine", authors=("nobody",), reference="none", year=None)
    access = "posterior"
    calibrate = "none"

    class Params(Hyper):
        """One number."""

        power: Annotated[float, Field(gt=0, le=9)] = 1.0

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """The confidence, or what the test puts here."""
        confidence = target.log_posteriors(candidates.x).gather(1, candidates.y.unsqueeze(1)).squeeze(1)
        return BODY
'''


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Inline:
    """Stands in for the pool of workers: jobs run here, at once."""

    def __init__(self, setting: work.Setting) -> None:
        work._setting = setting
        work._artifacts = self.artifacts = setting.artifacts()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **_: Any) -> None:
        """Nothing runs any more."""
        self.artifacts.isolation.close()


@dataclass(frozen=True)
class Home:
    """Where a test lives. `call` runs the command in this process, `start` in a process and session of its own."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def submissions(self) -> Path:
        return self.folder / "submissions"

    def call(self, *arguments: str) -> Ended:
        self.patch.setattr(sys, "argv", ["leakboard", *arguments])
        self.capture.readouterr()
        handler = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.signal(signal.SIGINT, handler)
        out, err = self.capture.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "leakboard", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, cwd=self.folder, start_new_session=True, **pipes)

    def attack(self, name: str, body: str = "confidence") -> Path:
        """Write an attack whose `score` returns `body`."""
        path = self.submissions / "attacks" / f"{name}.py"
        path.write_text(ATTACK.replace("BODY", body))
        return path

    def protocol(self, base: str = "smoke", **changes: Any) -> str:
        """The path of a protocol that differs from `base` in these fields."""
        content = yaml.safe_load((protocol.FOLDER / f"{base}.yaml").read_text())
        path = self.folder / "own.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return str(path)

    def results(self) -> dict[str, Result]:
        """Everything in the store, by attack, defense and seed."""
        store = Store(self.store)
        found = [store.result(p.stem) for p in (self.store / "result").glob("*/*.json")]
        return {f"{r.attack} on {r.defense}, {r.seed}": r for r in found if r}


def save_unet(folder: Path, seed: int = 0, **config: Any) -> Any:
    """A tiny diffusion model for digits, as diffusers saves one in `folder`; returns it."""
    from diffusers import UNet2DModel

    usual: dict[str, Any] = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DModel(**(usual | config))
    unet.save_pretrained(folder)
    return unet


def numbers(results: dict[str, Result]) -> dict[str, Any]:
    """What must not change from run to run: all but costs, times and the machine."""
    return {name: r.model_dump(exclude={"cost", "finished", "provenance"}) for name, r in results.items()}


def descendants(pid: int) -> list[int]:
    """Every process below this one, in whatever session; Linux."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += [int(p) for p in children.read_text().split()]
            except OSError:
                continue
    return found[1:]


def alive(pid: int) -> bool:
    """Whether a process runs; Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit's tests put a script of theirs in the place of __main__, and a process that is spawned later runs it."""
    kept = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = kept


@pytest.fixture(autouse=True)
def global_generators() -> None:
    """Peers draw from the global generators: the same numbers in every run of a test, whatever ran before it."""
    np.random.seed(0)  # noqa: NPY002 - the generator of the toolbox
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated MLflow database: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        tracking.connect().search_experiments()
    return path


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mlflow_template: Path
) -> Iterator[Home]:
    """An empty store, the two submissions that `smoke` needs, and an empty MLflow; the folder is the current one."""
    for kind, name in (("attacks", "random_scores"), ("attacks", "loss"), ("defenses", "undefended")):
        (tmp_path / "submissions" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(SUBMISSIONS / kind / f"{name}.py", tmp_path / "submissions" / kind)
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    for name in ("PROTOCOL", "WORKERS", "DEVICE", "SPLIT_SECRET", "SPLIT_SECRET_FILE", "DATA", "MODELS", "NETWORKS"):
        monkeypatch.delenv(f"LEAKBOARD_{name}", raising=False)
    secret.take.cache_clear()
    monkeypatch.setenv("LEAKBOARD_SUBMISSIONS", str(tmp_path / "submissions"))
    monkeypatch.setenv("LEAKBOARD_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LEAKBOARD_PUBLISHED", str(tmp_path / "published"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("LEAKBOARD_PROJECT", "")  # restored after the test, whatever a command sets
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(tmp_path)
    yield Home(tmp_path, capsys, monkeypatch)
    secret.take.cache_clear()
    console._given.clear()
    console.notes.quiet = console.progress.quiet = False


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    """The way to isolate here. Where bubblewrap is not installed, the test is skipped; where it does not work, it fails."""
    found = probe()
    if isinstance(found, Launcher):
        return found
    if shutil.which("bwrap"):
        pytest.fail(f"bubblewrap is installed, but no sandbox starts: {found}", pytrace=False)
    pytest.skip(f"{NO_SANDBOX}: {found}")


NO_SANDBOX = "no sandbox here"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say aloud that isolation was not tested."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [r.longrepr[2] for r in skipped if isinstance(r.longrepr, tuple) and NO_SANDBOX in r.longrepr[2]]
    if reasons:
        terminalreporter.write_line(
            f"{len(reasons)} tests of isolation were SKIPPED: {reasons[0]}", red=True, bold=True
        )


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process: seconds less a run."""
    monkeypatch.setattr(work, "_artifacts", None)
    monkeypatch.setattr(work, "_setting", None)
    monkeypatch.setattr(pool, "process", lambda setting, workers: Inline(setting))


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after `leakboard run --protocol smoke`, to be copied."""
    from leakboard import score

    root = tmp_path_factory.mktemp("smoke") / "store"
    job = score.prepare([], "smoke", SUBMISSIONS, root, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_artifacts", None)
        patch.setattr(work, "_setting", None)
        patch.setattr(pool, "one_thread", lambda: None)
        patch.setattr(pool, "process", lambda setting, workers: Inline(setting))
        results = list(execute(job.plan, job.setting, on_this_machine(job.setting, 1), lambda *_: None))
    assert [r.status for r in results] == ["ok"] * 3
    return root


@pytest.fixture
def scored(home: Home, smoke_store: Path, inline: None) -> Home:
    """A home where `smoke` is scored already; new jobs run in this process."""
    shutil.copytree(smoke_store, home.store)
    return home
