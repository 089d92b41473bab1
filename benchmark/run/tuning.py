"""Tunes a defense for its privacy-utility curve: Optuna proposes, the judge scores on seeds that no board uses.

This process alone talks to Optuna and MLflow; each worker scores one trial at a time. A trial is the defense with
certain hyperparameters, attacked by a few attacks on the tuning seeds; its values are test accuracy and the worst
leakage. A trial appears on a board only if it is scored again on the protocol's own seeds; the row says that it was
tuned (RULES 27).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import socket
import time
import types
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from benchmark import data as datasets
from benchmark.addresses import checked, shown, sqlite_file
from benchmark.api import Search
from benchmark.data.splits import draw as draw_split
from benchmark.data.splits import indices_digest
from benchmark.digests import code_of
from benchmark.entries.registry import Chain, Part, Registry
from benchmark.errors import UserError, printable
from benchmark.metrics import hypervolume
from benchmark.protocol import Axes, Protocol
from benchmark.run import work
from benchmark.run.executors import Ended, Executor
from benchmark.run.executors.pool import Pool
from benchmark.run.plan import ScenarioJob, judge_code, make_plan, scenario_key
from benchmark.run.tracking import TrialTracker
from benchmark.run.work import Setting
from benchmark.sandbox.remote import require
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.network import training_code
from benchmark.targets.store import Store, digest

_SUFFIX = ".tuning"
FIRST_SEED = 10_000
"""The first tuning seed; each is followed by its mirror. Seeds of protocols are smaller."""
DIGITS = 3
"""Significant digits of proposed values: names stay short, and give the same value when they are parsed."""
_OPENINGS = 10
"""Attempts to open an empty database, half a second apart, while another command creates its tables."""
_STARTUP_TRIALS = 8
"""Random trials before the guided search begins."""
_MAX_FAILURES = 3
"""Failed trials in a row that end a study: the defense is broken, not one of its settings."""


def tuning_code() -> str:
    """Digest of the code that proposes trials and turns scenarios into their values."""
    return code_of("run.tuning:space", "run.tuning:propose", "run.tuning:tuning_protocol", "run.tuning:score_trial")


# --- What is searched -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter that is searched, of part number `part` of the chain; `grid`: its values in the paper.

    `optional`: its default is None, which stands for the recipe's own value.
    """

    part: int
    name: str
    distribution: BaseDistribution
    default: Any
    optional: bool = False
    grid: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """Its name in the study: parts of a cascade may share names."""
        return f"{self.part}.{self.name}"


def space(chain: Chain, protocol: Protocol, grid: bool = False) -> list[Dimension]:
    """The searched hyperparameters: all with a search range or with choices (`Literal`) that the user did not fix.

    A training defense without any is tuned by the recipe: epochs, weight decay and early stopping (RULES 27).
    """
    dimensions: list[Dimension] = []
    for i, part in enumerate(chain.parts):
        params, fixed = part.entry.params, part.params.model_fields_set
        free = [name for name in params.model_fields if name not in fixed | part.replaced]
        own = [d for name in free if (d := _dimension(i, name, part, grid))]
        if not own and not params.model_fields and part is chain.training and len(chain.parts) == 1:
            own = [d for d in _recipe(i, protocol.recipe.epochs) if d.name not in part.axes.chosen]
        dimensions += own
    return dimensions


def _dimension(i: int, name: str, part: Part, grid: bool) -> Dimension | None:
    """The dimension of a hyperparameter; None where it is not to be searched."""
    info = part.entry.params.model_fields[name]
    kinds = get_args(info.annotation) if _is_union(info.annotation) else (info.annotation,)
    default = getattr(part.params, name)
    search = next((m for m in info.metadata if isinstance(m, Search)), None)
    if search is not None:
        count = int in kinds and float not in kinds
        values = search.grid if grid else ()  # a paper's grid may reach further than a search should
        low, high = min((search.low, *values)), max((search.high, *values))
        distribution: BaseDistribution = (
            IntDistribution(int(low), int(high), log=search.log)
            if count
            else FloatDistribution(low, high, log=search.log)
        )
        return Dimension(i, name, distribution, default, type(None) in kinds and default is None, search.grid)
    literal = next((k for k in kinds if get_origin(k) is Literal), None)
    if literal is not None:
        return Dimension(i, name, CategoricalDistribution(get_args(literal)), default)
    return None  # a switch such as `as_released` says how the method is done, not how strong it is


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _recipe(i: int, epochs: int) -> list[Dimension]:
    """The dimensions of the training recipe itself, with up to `epochs` epochs."""
    return [
        Dimension(i, "epochs", IntDistribution(1, epochs, log=True), None, optional=True),
        Dimension(i, "weight_decay", FloatDistribution(1e-5, 1e-1, log=True), None, optional=True),
        Dimension(i, "early_stopping", CategoricalDistribution((None, True)), None),
    ]


def defaults(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The defaults by label, which are the paper's setting: the first trial. Optional dimensions are left out."""
    return {d.label: d.default for d in dimensions if not d.optional}


def enqueue(study: optuna.Study, dimensions: Sequence[Dimension], point: dict[str, Any]) -> None:
    """Queue a trial with these values by label; optional dimensions that are not among them keep the recipe's value."""
    unset = [d.label for d in dimensions if d.optional and d.label not in point]
    study.enqueue_trial(point, user_attrs={"left": unset})


def paper_grid(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """One trial for each value of the papers' grids, all else at its default. Raises UserError where there is none."""
    trials: list[dict[str, Any]] = []
    for d in dimensions:
        for value in d.grid:
            trials.append(defaults(dimensions) | {d.label: value})
    if not trials:
        raise UserError("--paper-grid: expected a defense whose Search(...) has a grid, given one without")
    return trials


def propose(trial: optuna.Trial, dimensions: Sequence[Dimension]) -> dict[int, dict[str, Any]]:
    """The trial's hyperparameters, by part and name."""
    chosen: dict[int, dict[str, Any]] = {}
    for d in dimensions:
        if d.label in trial.user_attrs.get("left", ()):
            continue
        chosen.setdefault(d.part, {})[d.name] = _suggest(trial, d)
    return chosen


def _suggest(trial: optuna.Trial, d: Dimension) -> Any:
    """The trial's value of a dimension; a float is rounded to DIGITS."""
    match d.distribution:
        case FloatDistribution(low=low, high=high, log=log):
            value = trial.suggest_float(d.label, low, high, log=log)
            return min(max(float(f"{value:.{DIGITS}g}"), low), high)
        case IntDistribution(low=low, high=high, log=log):
            return trial.suggest_int(d.label, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(d.label, choices)
    raise AssertionError(d.distribution)


def with_choices(chain: Chain, chosen: dict[int, dict[str, Any]], registry: Registry, baseline: str) -> str:
    """The chain's name with these hyperparameters."""
    names = []
    for i, part in enumerate(chain.parts):
        choices = chosen.get(i, {})
        axes = part.axes.model_copy(update={k: v for k, v in choices.items() if k in Axes.model_fields})
        params = part.params.model_dump() | {k: v for k, v in choices.items() if k not in Axes.model_fields}
        names.append(replace(part, params=part.entry.params(**params), axes=axes).name)
    return registry.chain("+".join(names), baseline).name


# --- What a trial is scored on ----------------------------------------------------------------------


def tuning_protocol(loaded: Protocol, attacks: Sequence[str], seeds: int) -> Protocol:
    """The protocol on the tuning splits, with the attacks that a trial meets. Raises UserError where seeds overlap.

    Splits come in mirrored pairs, with members and non-members swapped: how easy a sample is for every model cancels in
    their mean, and would otherwise be a floor under the leakage of all trials.
    """
    data = datasets.load(loaded.dataset)
    numbers = tuple(sign * (FIRST_SEED + i // 2) for i, sign in zip(range(seeds), itertools.cycle((1, -1))))
    if set(numbers) & set(loaded.seeds):
        raise UserError(f"{loaded.name}: expected scoring seeds below {FIRST_SEED}, given {list(loaded.seeds)}")
    pinned = {n: indices_digest(draw_split(loaded.split, data, n)) for n in numbers}
    return loaded.model_copy(
        update={
            "name": f"{loaded.name}{_SUFFIX}",
            "seeds": numbers,
            "attacks": tuple(attacks),
            "split": loaded.split.model_copy(update={"digests": pinned}),
        }
    )


def tuning_attacks(loaded: Protocol, registry: Registry) -> tuple[str, ...]:
    """The protocol's membership attacks, without null rows and without those that need reference models.

    Reference models would cost a dozen networks for each trial. Raises UserError where none is left.
    """
    parts = [registry.attack(a) for a in loaded.attacks]
    chosen = [
        p.name
        for p in parts
        if p.entry.task == "membership"
        and not any(n.startswith("references") or n == "certificate" for n in p.entry.needs)
        and not (p.entry.card and p.entry.card.null)
    ]
    if not chosen:
        raise UserError(
            f"{loaded.name}: expected a membership attack without reference models; name some with --attack"
        )
    return tuple(chosen)


@dataclass(frozen=True)
class Scored:
    """The values of a trial, means over the tuning seeds; `decides`: the attack with the worst leakage.

    `leakage` is None where the defense was too inaccurate to be attacked.
    """

    test_accuracy: float
    leakage: float | None
    decides: str = ""
    by_attack: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """What a worker is to score: the defense `spec` of trial number `trial`, by the metric `leakage`."""

    trial: int
    spec: str
    leakage: str
    floor: float
    """The utility floor, as a share of the baseline's test accuracy."""
    models: dict[str, str]
    """Digests of the pretrained models that the study was opened with."""


def score_trial(proposal: Proposal) -> Scored:
    """In a worker: train and attack one trial, job by job. Raises RuntimeError with the line of the first failure."""
    artifacts, setting = work.at_hand()
    protocol, registry, leakage = setting.protocol, artifacts.registry, proposal.leakage
    chain = registry.chain(proposal.spec, protocol.baseline)
    if artifacts.models(*chain.parts) != proposal.models:  # this worker has read other files than the study
        raise RuntimeError("a pretrained model changed since the study was opened; run the command again")
    accuracy = _accuracy(artifacts, chain)
    # As on a board, the floor is a share of what the baseline reaches on these splits.
    if accuracy < proposal.floor * _accuracy(artifacts, registry.chain(protocol.baseline, protocol.baseline)):
        return Scored(accuracy, None)
    by_attack: dict[str, list[float]] = {}
    for name in protocol.attacks:
        for seed in protocol.seeds:
            result = _run(artifacts, registry.attack(name), chain, seed)
            if result.status == "skipped" or leakage not in result.metrics:
                continue
            by_attack.setdefault(name, []).append(result.metrics[leakage])
    means = {name: sum(v) / len(v) for name, v in by_attack.items() if len(v) == len(protocol.seeds)}
    if leakage == "auc":  # one sign for each attack: a sign for each split would turn noise into leakage
        means = {name: max(mean, 1 - mean) for name, mean in means.items()}
    if not means:
        raise RuntimeError(f"no attack gave {leakage}: the split is too small for it, or none applies")
    worst = max(means, key=lambda name: means[name])
    return Scored(accuracy, means[worst], worst, means)


def _accuracy(artifacts: Any, chain: Chain) -> float:
    """Test accuracy, the mean over the tuning seeds."""
    accuracies = [
        float(_run(artifacts, None, chain, seed).metrics["test_accuracy"]) for seed in artifacts.protocol.seeds
    ]
    return sum(accuracies) / len(accuracies)


def _run(artifacts: Any, attack: Part | None, chain: Chain, seed: int) -> Any:
    """The result of one scenario, from the store or scored now. Raises RuntimeError where it fails."""
    plan = make_plan(artifacts, [attack] if attack else [], [chain], [seed])
    key = scenario_key(artifacts, attack, chain, seed)
    for job in plan.jobs.values():
        if isinstance(job, ScenarioJob) and job.id != key:
            continue
        done = work.run_job(job)
        if done.error:
            raise RuntimeError(done.error)
    result = artifacts.store.result(key)
    if result.status not in ("ok", "skipped"):
        raise RuntimeError(result.reason)
    return result


# --- The study --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrontPoint:
    """A trial on the privacy-utility front."""

    defense: str
    accuracy: float
    leakage: float
    decides: str


@dataclass
class Tuning:
    """One study: the defense and what is searched of it, the setting, and the database (`url`)."""

    chain: Chain
    dimensions: list[Dimension]
    setting: Setting
    registry: Registry
    leakage: str
    floor: float
    url: str
    grid: list[dict[str, Any]]
    """The trials of `--paper-grid`; empty for a search."""
    random: bool = False
    """Draw hyperparameters at random, as a baseline for the guided search."""
    seed: int = 0
    models: dict[str, str] = field(default_factory=dict)
    """Digests of the pretrained models that the chain names."""
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        file = sqlite_file(checked("--storage", self.url))
        for attempt in range(_OPENINGS):
            try:
                if file is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    if not file.exists():
                        file.touch()  # SQLite would give the group no right to write, whatever the umask
                self.study = optuna.create_study(
                    storage=self.url, study_name=self.name, directions=["maximize", "minimize"], load_if_exists=True
                )
                break
            except Exception as error:  # SQLAlchemy and its drivers raise many kinds
                text = printable(shown(" ".join(str(error.__cause__ or error).split())), 300)
                if "already exists" in text and attempt + 1 < _OPENINGS:
                    time.sleep(0.5)  # another command is creating the tables of an empty database
                    continue
                able = "this user may write to" if "readonly" in text else "Optuna can use"
                raise UserError(
                    f"--storage: expected a database that {able}, given {shown(self.url)}: {text}"
                ) from None
        if not self.study.trials:
            self.study.set_user_attr("attacks", self.attacks)
            self.study.set_user_attr("leakage", self.leakage)
            for first in self.grid or [defaults(self.dimensions)]:
                enqueue(self.study, self.dimensions, first)

    @property
    def protocol(self) -> str:
        return self.setting.protocol.name.removesuffix(_SUFFIX)

    @property
    def attacks(self) -> list[str]:
        return list(self.setting.protocol.attacks)

    @property
    def name(self) -> str:
        """Protocol, chain and a digest of all that a trial's values depend on: the same command continues a study."""
        p = self.setting.protocol
        made_of = [
            p.measures, [self.registry.attack(a).key for a in p.attacks], p.seeds, self.leakage, self.floor, self.grid,
            [q.key for c in (self.chain, self.registry.chain(p.baseline, p.baseline)) for q in c.parts],
            [[d.label, repr(d.distribution)] for d in self.dimensions], training_code(), judge_code("membership"), judge_code("utility"), tuning_code(),
            *(("random",) if self.random else ()), *((self.seed,) if self.seed else ()), *((self.models,) if self.models else ()),
        ]  # fmt: skip
        return f"{self.protocol} {self.chain.name} {digest(*made_of)[:8]}"

    def others(self) -> list[str]:
        """Names of the other studies of this defense, which were made with other code, attacks or ranges."""
        prefix = self.name.rsplit(" ", 1)[0] + " "
        return [n for n in optuna.get_all_study_names(self.url) if n.startswith(prefix) and n != self.name]

    @property
    def labels(self) -> list[str]:
        """Names of the dimensions, as a user writes them: entry.hyperparameter."""
        return [f"{self.chain.parts[d.part].entry.id}.{d.name}" for d in self.dimensions]

    def finished(self) -> list[FrozenTrial]:
        """Trials that were scored, also those that were too inaccurate to be attacked (PRUNED)."""
        trials: list[FrozenTrial] = self.study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )
        return trials

    def run(self, trials: int, workers: int, timeout: float | None, console: Console) -> None:
        """Run until the study has `trials` finished trials, or for `timeout` seconds. Ctrl-C loses current trials.

        Raises UserError where _MAX_FAILURES trials in a row fail, or the database cannot be used.
        """
        with self._database_errors_explained():
            self._run(trials, workers, timeout, console)

    @contextlib.contextmanager
    def _database_errors_explained(self) -> Iterator[None]:
        """Turns errors of the database, which may be another user's, into a UserError of one line."""
        try:
            yield
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            text = printable(shown(" ".join(str(error.__cause__ or error).split())), 300)
            raise UserError(
                f"--storage: expected a database that this user may write to, given {shown(self.url)}: {text}"
            ) from None

    def _run(self, trials: int, workers: int, timeout: float | None, console: Console) -> None:
        self._take_back()
        tracker, start = self._connect_tracker(), time.monotonic()
        end, finished_before, failures = start + (timeout or math.inf), len(self.finished()), 0
        running: dict[int, optuna.Trial] = {}
        executor: Executor[Proposal, Scored] = Pool(score_trial, self.setting, workers)
        try:
            while True:
                for worker in range(workers):
                    if executor.at_hand(worker) or not self._more(trials, len(running)) or time.monotonic() >= end:
                        continue
                    trial, spec = self._ask()
                    running[trial.number] = trial
                    while not executor.submit(
                        worker, Proposal(trial.number, spec, self.leakage, self.floor, self.models)
                    ):
                        pass  # the worker died while idle, and has been replaced
                if not running:
                    return
                for ended in executor.ended(1.0):
                    if ended.how not in ("made", "raised"):
                        raise UserError("a worker died (out of memory?); run the command again, with fewer --workers")
                    trial = running.pop(ended.work.trial)
                    failure = self._tell(trial, ended)
                    failures = failures + 1 if failure else 0
                    if failures == _MAX_FAILURES:
                        raise UserError(
                            f"{_MAX_FAILURES} trials in a row failed; the last one, {ended.work.spec}: {failure}"
                        )
                    self._log(tracker, self.study.trials[trial.number])
                    finished = len(self.finished())
                    seconds_left = (time.monotonic() - start) / max(1, finished - finished_before) * (trials - finished)
                    _print_trial(
                        console,
                        self.study.trials[trial.number],
                        ended.work.spec,
                        failure,
                        f"{finished}/{trials} trials",
                        seconds_left,
                    )
        finally:
            executor.stop(kill=True)

    def _more(self, trials: int, running: int) -> bool:
        """Whether another trial is to begin. Of a grid, the queued trials are, whatever became of the others."""
        if self.grid:
            return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        return len(self.finished()) + running < trials

    def _ask(self) -> tuple[optuna.Trial, str]:
        """A new trial of Optuna's, and the name of the defense with its hyperparameters."""
        trial = self.study.ask()
        # Seeded by the trial's number, so that no later command, and no other one on this study, repeats its draws.
        seed = 10_000 * self.seed + trial.number
        self.study.sampler = optuna.samplers.RandomSampler(seed) if self.random else _tpe_sampler(seed)
        chosen = propose(trial, self.dimensions)
        spec = with_choices(self.chain, chosen, self.registry, self.setting.protocol.baseline)
        for name, value in {"host": socket.gethostname(), "pid": os.getpid(), "defense": spec}.items():
            trial.set_user_attr(name, value)
        return trial, spec

    def _tell(self, trial: optuna.Trial, ended: Ended[Proposal, Scored]) -> str:
        """Report the end of a trial to Optuna. Returns the error as one line, "" for none."""
        scored = ended.made
        if scored is None:
            failure = printable(" ".join(str(ended.problem).split()), 300)
            trial.set_user_attr("failure", failure)
            self.study.tell(trial, state=TrialState.FAIL)
            return failure
        trial.set_user_attr("test_accuracy", scored.test_accuracy)
        if scored.leakage is None:
            self.study.tell(trial, state=TrialState.PRUNED)
            return ""
        trial.set_user_attr("decides", scored.decides)
        trial.set_user_attr("by_attack", scored.by_attack)
        self.study.tell(trial, [scored.test_accuracy, scored.leakage])
        self._mark({trial.user_attrs["defense"]})
        return ""

    def _mark(self, defenses: set[str]) -> None:
        """Note in the store that these defenses were tuned: their results on the tuning splits are known (RULES 27)."""
        required = {self.registry.chain(d, self.setting.protocol.baseline).name for d in self.setting.protocol.defenses}
        text = f"{len(self.finished())} trials on other splits, against {', '.join(self.attacks)}"
        for defense in defenses - {
            self.chain.name,
            *required,
        }:  # required defenses and the defaults were set beforehand, not chosen by results
            Store(self.setting.store).note_tuned(self.protocol, defense, text)

    def _take_back(self) -> None:
        """Queue again the trials whose command was killed on this machine, and the points of the grid that failed."""
        here = socket.gethostname()
        with Store(self.setting.store).lock(
            "study", digest(self.url, self.name)
        ):  # one process at a time, for SQLite locks no rows
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                host, pid = trial.user_attrs.get("host", here), trial.user_attrs.get("pid")
                if host == here and not _is_running(pid):
                    try:
                        self.study.tell(trial.number, state=TrialState.FAIL)
                    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                        continue  # a command with another store (and lock) was faster
                    if trial.params and not self.grid:
                        enqueue(self.study, self.dimensions, trial.params)
            trials = self.study.get_trials(deepcopy=False)
            kept = [t.system_attrs.get("fixed_params") for t in trials if t.state != TrialState.FAIL]
            for point in self.grid:
                if point not in kept:
                    enqueue(self.study, self.dimensions, point)

    def front(self) -> list[FrontPoint]:
        """The trials that no other one dominates, by falling test accuracy; one for each defense."""
        best = sorted(self.study.best_trials, key=lambda t: (-t.values[0], t.number))
        points = [FrontPoint(t.user_attrs["defense"], t.values[0], t.values[1], t.user_attrs["decides"]) for t in best]
        return list({p.defense: p for p in points}.values())

    def hypervolumes(self) -> list[float]:
        """The hypervolume that the front dominates after each finished trial, in the order in which they ended."""
        done = sorted(self.finished(), key=lambda t: (t.datetime_complete, t.number))
        values = [tuple(t.values) if t.values else None for t in done]
        return [hypervolume([v for v in values[: n + 1] if v]) for n in range(len(values))]  # type: ignore[misc]

    def finish(self, folder: Path) -> Path:
        """Draw the front, mark all defenses that were tried, and log what MLflow lacks. Returns the figure's path.

        Raises UserError where the figure cannot be written.
        """
        self._mark({t.user_attrs["defense"] for t in self.finished() if t.values})
        path = folder / f"{self.name.replace(' ', '-').replace('/', '-')}.png"
        try:
            draw(self, path)
        except OSError as error:
            raise UserError(f"{path}: expected a file that can be written, given {error.strerror or error}") from None
        if (tracker := self._connect_tracker()) is not None:
            for trial in self.finished():  # also those of other machines, and those that could not be logged
                self._log(tracker, trial)
            with contextlib.suppress(Exception):  # as in `_connect_tracker`
                tracker.curve("hypervolume", self.hypervolumes())
                tracker.figure(path)
        return path

    def _connect_tracker(self) -> TrialTracker | None:
        """The study's tracker; None where MLflow does not answer."""
        try:
            return TrialTracker(self.protocol, self.name)
        except Exception:  # MLflow and its stores raise many kinds; the study holds everything, to be logged later
            return None

    def _log(self, tracker: TrialTracker | None, trial: FrozenTrial) -> None:
        if tracker is None or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        attributes = trial.user_attrs
        metrics = {"test_accuracy": attributes["test_accuracy"]} | {
            f"{self.leakage}.{k}": v for k, v in attributes.get("by_attack", {}).items()
        }
        if trial.values:
            metrics["worst_case"] = trial.values[1]
        tags = {
            "defense": attributes["defense"],
            "state": trial.state.name.lower(),
            "decides": attributes.get("decides", ""),
        }
        labels = {f"{d.part}.{d.name}": label for d, label in zip(self.dimensions, self.labels, strict=True)}
        params = {labels.get(k, k): v for k, v in trial.params.items()}
        with contextlib.suppress(Exception):  # as above
            tracker.log(trial.number, params, {re.sub(r"[^\w\-. :/]", "_", k): v for k, v in metrics.items()}, tags)


def start(
    artifacts: Artifacts, setting: Setting, defense: str, attacks: Sequence[str], leakage: str, seeds: int, url: str,
    grid: bool, random: bool = False, seed: int = 0,
) -> Tuning:  # fmt: skip
    """The study of a command line. Raises UserError for what is wrong with it, before anything is trained."""
    loaded, registry = artifacts.protocol, artifacts.registry
    if loaded.recipe.steps is not None:
        raise UserError(f"{loaded.name}: recipe: expected epochs, which tuning varies, given steps")
    chain = registry.chain(defense, loaded.baseline)
    dimensions = space(chain, loaded, grid)
    if not dimensions:
        raise UserError(f"{defense}: expected a hyperparameter with Search(...) that is not fixed, given none")
    names = tuple(registry.attack(a).name for a in attacks) or tuning_attacks(loaded, registry)
    of_other_tasks = [a for a in names if registry.attack(a).entry.task != "membership"]
    if of_other_tasks:
        raise UserError(f"--attack: expected membership attacks, given {of_other_tasks[0]}")
    tuning_setting = replace(setting, protocol=tuning_protocol(loaded, names, seeds))
    parts = [p.entry for p in (*chain.parts, *(registry.attack(a) for a in names))]
    tuning_setting = replace(
        tuning_setting, launcher=tuning_setting.launcher or require(parts, tuning_setting.isolation)
    )
    trials = paper_grid(dimensions) if grid else []
    models = artifacts.models(*chain.parts)
    return Tuning(
        chain, dimensions, tuning_setting, registry, leakage, loaded.utility_floor, url, trials, random, seed, models
    )


def _tpe_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """TPE that models hyperparameters jointly, since some act together (noise and clipping).

    `group` allows for the first trial, which leaves optional dimensions out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # for `group`
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True)


def _is_running(pid: Any) -> bool:
    """Whether another process of this id runs on this machine."""
    if pid is None or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _print_trial(console: Console, trial: FrozenTrial, spec: str, failure: str, count: str, left: float) -> None:
    """Print one line about a finished trial; `left`: seconds."""
    worth = (
        f"failed: {failure}" if failure
        else f"accuracy {trial.values[0]:.3f}, {trial.user_attrs['decides']} {trial.values[1]:.3f}" if trial.values
        else f"accuracy {trial.user_attrs['test_accuracy']:.3f} is below the floor: not attacked"
    )  # fmt: skip
    seconds = int(max(left, 0))
    text = f"{count}, {seconds // 60}:{seconds % 60:02d} left; {spec}: {worth}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def draw(tuning: Tuning, path: Path) -> Path:
    """Draw all trials, the front and the paper's own setting as a PNG file. Returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot(
        xlabel="test accuracy", ylabel=f"worst-case {tuning.leakage}", title=f"{tuning.chain.name} on {tuning.protocol}"
    )
    trials = [t for t in tuning.finished() if t.values]
    axes.plot([t.values[0] for t in trials], [t.values[1] for t in trials], "o", color="#999999", label="trials")
    front = tuning.front()[::-1]
    axes.step(
        [p.accuracy for p in front], [p.leakage for p in front], "o-", where="post", color="#0072B2", label="front"
    )
    paper_trials = [t for t in trials if t.user_attrs["defense"] == tuning.chain.name]
    if paper_trials:
        axes.plot(*paper_trials[0].values, "*", color="#D55E00", markersize=13, label="as the paper has it")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
    return path
