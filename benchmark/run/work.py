"""What a worker does: one job after the other, each with the judge as its setting rebuilds it.

Whatever a submission does becomes a status of its own jobs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmark import __version__
from benchmark.data.splits import indices_digest
from benchmark.entries.registry import Chain, Registry
from benchmark.errors import Fault, UserError, out_of_memory, printable, trace
from benchmark.judge import kinds, scenario
from benchmark.judge.utility import utility
from benchmark.protocol import Protocol
from benchmark.result import Isolation as Where
from benchmark.result import Result, Status
from benchmark.run.plan import Job, ScenarioJob, same_scenario, scenario_key
from benchmark.sandbox.hints import described
from benchmark.sandbox.host import Launcher
from benchmark.sandbox.remote import Isolation, Mode
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.experiment import official_measures
from benchmark.targets.store import Store, StoreError
from benchmark.text import plain_log


@dataclass(frozen=True)
class Setting:
    """What a worker needs to rebuild the judge."""

    protocol: Protocol
    submissions: Path
    store: Path
    device: str
    isolation: Mode = "auto"
    launcher: Launcher | None = None
    secret: bytes | None = field(default=None, repr=False)
    baselines: Path | None = None
    """The submissions that come with the package, where they are not the user's own (`places.baselines`)."""

    def artifacts(self, workers: int = 1) -> Artifacts:
        """Everything that the setting names, opened in this process."""
        isolation = Isolation(self.isolation, self.launcher, self.protocol.limits, workers)
        registry, store = Registry(self.submissions, self.baselines), Store(self.store)
        return Artifacts(self.protocol, registry, store, torch.device(self.device), isolation, self.secret)


@dataclass(frozen=True)
class Done:
    """A finished job: its error (one line) or, for a scenario, its result; and what it computed."""

    id: str
    seconds: float
    error: str = ""
    status: Status = "failed"
    """What the error is."""
    log: str = ""
    ends_run: bool = False
    """The store can't be used: every later job would fail the same way."""
    result: Result | None = None
    made: tuple[tuple[str, float], ...] = ()


_setting: Setting | None = None
_artifacts: Artifacts | None = None


def start_worker(setting: Setting, parent: int, workers: int) -> None:
    """Rebuild the judge in this process, which is to end when process `parent` is no longer its parent."""
    global _artifacts, _setting
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="opacus|diffusers|torch")
    _setting = setting
    _artifacts = setting.artifacts(workers)


def at_hand() -> tuple[Artifacts, Setting]:
    """The judge of this worker."""
    assert _artifacts is not None and _setting is not None
    return _artifacts, _setting


def run_job(job: Job) -> Done:
    """Do one job. A failure is returned, not raised."""
    artifacts, setting = at_hand()
    artifacts.store.made.clear()
    start = time.perf_counter()
    _reset_peak()
    result, failure = None, Done(job.id, 0.0)
    try:
        if isinstance(job, ScenarioJob):
            result = artifacts.store.result(job.id)  # another run may have been faster
            if result is None:
                result = _score(artifacts, setting, job)
                artifacts.store.save_result(result)
        else:
            job.make(artifacts)
    except (Exception, SystemExit) as problem:  # a submission that calls sys.exit() ends nothing but itself
        failure = _failed(job, problem, artifacts.registry)
    finally:
        artifacts.end_job()
    seconds = time.perf_counter() - start
    return replace(failure, seconds=seconds, result=result, made=tuple(artifacts.store.made))


def _failed(job: Job, problem: BaseException, registry: Registry) -> Done:
    own = isinstance(problem, UserError | Fault)
    line = " ".join(str(problem).split()) if own else described(problem, registry.entries)
    text = line if job.kind == "scenario" else f"{job.kind} of {job.defense}: {line}"
    if isinstance(problem, StoreError):
        return Done(job.id, 0.0, str(problem), ends_run=True)
    if isinstance(problem, Fault):
        return Done(job.id, 0.0, text, problem.status, problem.log)
    status: Status = "out-of-memory" if out_of_memory(problem) else "failed"
    return Done(job.id, 0.0, text, status, plain_log(trace(problem)))


def _score(artifacts: Artifacts, setting: Setting, job: Job) -> Result:
    chain = artifacts.chain(job.defense)
    part = artifacts.registry.attack(job.attack) if job.attack else None
    if scenario_key(artifacts, part, chain, job.seed) != job.id:
        # A worker that started later has read other files: its number must not go under the old key.
        raise UserError("the code, a submission or a pretrained model changed while the run was going on; run again")
    same = artifacts.store.result(key) if (key := same_scenario(artifacts, part, chain, job.seed)) else None
    try:
        if same is not None and same.status == "ok":
            scenario.same_labels(artifacts.served(chain, job.seed), chain)
            fields = {name: getattr(same, name) for name in _OF_SCORES}
            return result_of(
                setting, artifacts.registry, job, "ok", "", provenance=_data(artifacts, chain, job.seed), **fields
            )
        if part:
            outcome = kinds.scenario(artifacts, part, chain, job.seed).score()
        else:
            outcome = utility(artifacts, chain, job.seed)
    except scenario.Skip as reason:
        return result_of(setting, artifacts.registry, job, "skipped", str(reason))
    outcome.cost["peak_mb"] = _peak_mb()
    fields = {k: v for k, v in vars(outcome).items() if v is not None}
    if isinstance(outcome.null, bool):
        fields["null_row"] = outcome.null
    fields.pop("null", None)
    return result_of(setting, artifacts.registry, job, "ok", "", provenance=_data(artifacts, chain, job.seed), **fields)


_OF_SCORES = ("metrics", "intervals", "cost", "roc", "histogram", "null_auc", "null_tpr", "pictures", "null_row")
"""What a result has of its scenario, apart from where it was made and of what."""


def _data(artifacts: Artifacts, chain: Chain, seed: int) -> dict[str, str]:
    """Digests of the data, the split and the pretrained models, for the record."""
    population = artifacts.population(seed)
    found = {"data": population.data.digest[:16], "split": indices_digest(population.parts)[:16]}
    if models := artifacts.models(*chain.parts):
        found["pretrained"] = ", ".join(f"{name} {made_of[:16]}" for name, made_of in models.items())
    return found


def result_of(setting: Setting, registry: Registry, job: Job, status: Status, reason: str, **fields: Any) -> Result:
    protocol = setting.protocol
    isolation = Isolation(setting.isolation)
    attack = registry.attack(job.attack) if job.attack else None
    entry = attack.entry if attack else None
    chain = registry.chain(job.defense, protocol.baseline)
    provenance = fields.pop("provenance", {}) | environment(setting.device)
    provenance |= {"defense_source": "+".join(p.entry.source[:12] for p in chain.parts)}
    if entry:
        provenance["attack_source"] = entry.source[:12]
    parts = [*((attack,) if attack else ()), *chain.parts]
    if versions := {name: version for p in parts for name, version in p.entry.versions.items()}:
        provenance["libraries"] = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    places: list[Where] = ["trusted", "reviewed", "bubblewrap"]
    unread = [p for p in parts if not p.entry.reviewed]
    nulls = [p.entry.card.null for p in chain.parts if p.entry.card]
    return Result(
        key=job.id,
        protocol=protocol.name,
        protocol_digest=official_measures(protocol, setting.secret),
        task=entry.task if entry else "utility",
        attack=job.attack,
        defense=job.defense,
        dataset=protocol.dataset,
        architecture=protocol.architecture,
        seed=job.seed,
        status=status,
        reason=printable(reason),
        access=entry.access if entry else "",
        knowledge=attack.knowledge if attack else "",
        null_row=fields.pop("null_row", bool(entry.card and entry.card.null) if entry else any(nulls)),
        provenance=provenance,
        isolation=min((isolation.where(p.entry) for p in unread or parts), key=places.index),
        trust="official" if setting.secret else "self-reported",
        finished=time.time(),
        **fields,
    )


@cache
def environment(device: str) -> dict[str, str]:
    """Commit, versions and machine, as every record carries them."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except OSError:
        commit = ""
    cpu = ""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return {
        "commit": commit or "unknown",
        "leakboard": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "device": gpu or f"cpu: {cpu}",
    }


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # elsewhere than on Linux the peak covers the worker's life
        Path("/proc/self/clear_refs").write_bytes(b"5")


def _peak_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
