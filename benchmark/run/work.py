"""What a worker does: it rebuilds the judge from a setting, then does one job after another.

Whatever a submission does wrong becomes the status of its own jobs.
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
from benchmark.entries.registry import Chain, Part, Registry
from benchmark.errors import Fault, UserError, out_of_memory, printable, trace
from benchmark.judge import kinds, scenario
from benchmark.judge.utility import utility
from benchmark.protocol import Protocol
from benchmark.result import Isolation as Where
from benchmark.result import Result, Status
from benchmark.run.plan import Job, ScenarioJob, same_scenario, scenario_key, skipped
from benchmark.sandbox.hints import described
from benchmark.sandbox.host import Launcher
from benchmark.sandbox.remote import Isolation, Mode
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.experiment import official_measures
from benchmark.targets.store import Store, StoreError
from benchmark.text import plain_log


@dataclass(frozen=True)
class Setting:
    """What a worker needs to rebuild the judge: protocol, paths, device and isolation. It can be pickled."""

    protocol: Protocol
    submissions: Path
    store: Path
    device: str
    isolation: Mode = "auto"
    launcher: Launcher | None = None
    secret: bytes | None = field(default=None, repr=False)
    baselines: Path | None = None
    """The folder of the package's own submissions; None if `submissions` is that folder (`places.baselines`)."""

    def artifacts(self, workers: int = 1) -> Artifacts:
        """The judge of this setting, in this process. `workers`: how many processes share the machine."""
        isolation = Isolation(self.isolation, self.launcher, self.protocol.limits, workers)
        registry, store = Registry(self.submissions, self.baselines), Store(self.store)
        return Artifacts(self.protocol, registry, store, torch.device(self.device), isolation, self.secret)


@dataclass(frozen=True)
class Done:
    """A job that has ended: its error (one line) or, for a scenario, its result.

    `made`: kind and seconds of what was stored.
    """

    id: str
    seconds: float
    error: str = ""
    status: Status = "failed"
    """The status that the error means."""
    log: str = ""
    ends_run: bool = False
    """True where the store can't be used: every later job would fail the same way."""
    result: Result | None = None
    made: tuple[tuple[str, float], ...] = ()


_setting: Setting | None = None
_artifacts: Artifacts | None = None


def start_worker(setting: Setting, parent: int, workers: int) -> None:
    """Rebuild the judge in this process. The process ends when its parent, of id `parent`, does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="opacus|diffusers|torch")
    use(setting, workers)


def use(setting: Setting, workers: int = 1) -> Artifacts:
    """Have the jobs of this process be those of this setting from now on; gives its judge."""
    global _artifacts, _setting
    _setting = setting
    _artifacts = setting.artifacts(workers)
    return _artifacts


def at_hand() -> tuple[Artifacts, Setting]:
    """The judge of this worker, and its setting."""
    assert _artifacts is not None and _setting is not None
    return _artifacts, _setting


def run_job(job: Job) -> Done:
    """Do one job. A failure is returned in `Done`, not raised."""
    artifacts, setting = at_hand()
    artifacts.store.made.clear()
    start = time.perf_counter()
    _reset_peak()
    result, done = None, Done(job.id, 0.0)
    try:
        if isinstance(job, ScenarioJob):
            result = artifacts.store.result(job.id)  # another run may have stored it meanwhile
            if result is None:
                result = _score(artifacts, setting, job)
                artifacts.store.save_result(result)
        else:
            job.make(artifacts)
    except (Exception, SystemExit) as error:  # SystemExit too: sys.exit() of a submission must not end the worker
        done = _failed(job, error, artifacts.registry)
    finally:
        artifacts.end_job()
    seconds = time.perf_counter() - start
    return replace(done, seconds=seconds, result=result, made=tuple(artifacts.store.made))


def _failed(job: Job, error: BaseException, registry: Registry) -> Done:
    known = isinstance(error, UserError | Fault)
    line = " ".join(str(error).split()) if known else described(error, registry.entries)
    text = line if job.kind == "scenario" else f"{job.kind} of {job.defense}: {line}"
    if isinstance(error, StoreError):
        return Done(job.id, 0.0, str(error), ends_run=True)
    if isinstance(error, Fault):
        return Done(job.id, 0.0, text, error.status, error.log)
    status: Status = "out-of-memory" if out_of_memory(error) else "failed"
    return Done(job.id, 0.0, text, status, plain_log(trace(error)))


def _score(artifacts: Artifacts, setting: Setting, job: Job) -> Result:
    chain = artifacts.chain(job.defense)
    part = artifacts.registry.attack(job.attack) if job.attack else None
    if scenario_key(artifacts, part, chain, job.seed) != job.id:
        # Files changed after planning: the result must not be stored under the key of the old ones.
        raise UserError("the code, a submission or a pretrained model changed while the run was going on; run again")
    same = artifacts.store.result(key) if (key := same_scenario(artifacts, part, chain, job.seed)) else None
    try:
        if same is not None and same.status == "ok":
            scenario.same_labels(artifacts.served(chain, job.seed), chain)
            fields = {name: getattr(same, name) for name in _MEASURED_FIELDS}
            return result_of(
                setting,
                artifacts.registry,
                job,
                "ok",
                "",
                provenance=_data_digests(artifacts, chain, job.seed),
                **fields,
            )
        if reason := skipped(artifacts.protocol, part, chain):
            raise scenario.Skip(reason)
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
    return result_of(
        setting, artifacts.registry, job, "ok", "", provenance=_data_digests(artifacts, chain, job.seed), **fields
    )


_MEASURED_FIELDS = (
    "metrics", "intervals", "cost", "roc", "histogram", "null_auc", "null_tpr", "values", "pictures", "null_row",
)  # fmt: skip
"""Fields of a result that are measured; the others say of what it is, and where it was made."""


def _data_digests(artifacts: Artifacts, chain: Chain, seed: int) -> dict[str, str]:
    """Digests of the data, the split and the pretrained models, for the record."""
    population = artifacts.population(seed)
    digests = {"data": population.data.digest[:16], "split": indices_digest(population.parts)[:16]}
    if models := artifacts.models(*chain.parts):
        digests["pretrained"] = ", ".join(f"{name} {sha256[:16]}" for name, sha256 in models.items())
    return digests


def result_of(setting: Setting, registry: Registry, job: Job, status: Status, reason: str, **fields: Any) -> Result:
    """The record of a scenario: `fields` are the measured ones; who, where and with which versions is added here."""
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
    weakest_first: list[Where] = ["trusted", "reviewed", "bubblewrap"]
    unreviewed = [p for p in parts if not p.entry.reviewed]
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
        knowledge=knowledge_of(attack, protocol) if attack else "",
        null_row=fields.pop("null_row", bool(entry.card and entry.card.null) if entry else any(nulls)),
        provenance=provenance,
        isolation=min((isolation.where(p.entry) for p in unreviewed or parts), key=weakest_first.index),
        trust="official" if setting.secret else "self-reported",
        finished=time.time(),
        **fields,
    )


def knowledge_of(attack: Part, protocol: Protocol) -> str:
    """What an attack knows under a protocol: known samples may stand for the shadow world that it asks for."""
    known = attack.knowledge.split("+")
    if attack.entry.task == "membership" and protocol.thresholds == "partial":
        known = ["partial" if name == "shadow" else name for name in known]
    return "+".join(sorted({*known} - {"guards"}) + ["guards"] * ("guards" in known))


@cache
def environment(device: str) -> dict[str, str]:
    """Commit, versions and device, which every record holds."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        return done.stdout.strip()

    commit = ""
    with contextlib.suppress(OSError):
        if git("rev-parse", "--show-prefix") == "benchmark/run/":  # else it is the repository of whoever installed it
            commit = git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
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
    """Start a new measurement of `_peak_mb`."""
    with contextlib.suppress(OSError):  # on other systems than Linux the peak is that of the worker's life
        Path("/proc/self/clear_refs").write_bytes(b"5")


def _peak_mb() -> float:
    """Peak of resident memory since `_reset_peak`, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
