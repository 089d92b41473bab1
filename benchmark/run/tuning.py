"""Tunes a defense for its privacy-utility curve: Optuna proposes, the judge scores on seeds that no board uses.

This process alone talks to Optuna and MLflow; each worker scores one trial at a time. A trial is the defense with
some hyperparameters, met by a few attacks on the tuning seeds; its values are test accuracy and the worst leakage.
Only what is scored again on the protocol's own seeds appears on a board, and says that it was tuned (RULES 27).
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
from benchmark.data.splits import indices_digest, split
from benchmark.digests import code_of
from benchmark.entries.registry import Chain, Part, Registry
from benchmark.errors import UserError, printable
from benchmark.metrics import hypervolume
from benchmark.protocol import Axes, Protocol
from benchmark.run import work
from benchmark.run.executors import Ended, Executor
from benchmark.run.executors.pool import Pool
from benchmark.run.plan import ScenarioJob, judge_code, make_plan, scenario_key
from benchmark.run.tracking import Trials
from benchmark.run.work import Setting
from benchmark.sandbox.remote import require
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.network import training_code
from benchmark.targets.store import Store, digest

_SUFFIX = ".tuning"
FIRST_SEED = 10_000
"""Tuning seeds count from here, each followed by its mirror; those of protocols are small."""
DIGITS = 3
"""Significant digits of what is proposed: names stay short, and are read back as they were meant."""
_OPENINGS = 10
"""Looks at an empty database, half a second apart, while other commands make its tables."""
_STARTUP = 8
_LOSSES = 3
"""Failed trials in a row that end a study: the defense is broken, not one of its settings."""


def tuning_code() -> str:
    """Digest of what turns scenarios into a trial's value."""
    return code_of("run.tuning:space", "run.tuning:propose", "run.tuning:tuning_protocol", "run.tuning:score_trial")


# --- What is searched -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter of one part of the chain; `optional`: by default None, which stands for the recipe's own value."""

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
    """What may vary: every hyperparameter with a search range or a few choices that the user did not fix.

    A training defense without any is tuned by the recipe: epochs, weight decay and early stopping (RULES 27).
    """
    found: list[Dimension] = []
    for i, part in enumerate(chain.parts):
        model, fixed = part.entry.params, part.params.model_fields_set
        free = [name for name in model.model_fields if name not in fixed | part.replaced]
        own = [d for name in free if (d := _dimension(i, name, part, grid))]
        if not own and not model.model_fields and part is chain.training and len(chain.parts) == 1:
            own = [d for d in _recipe(i, protocol.recipe.epochs) if d.name not in part.axes.chosen]
        found += own
    return found


def _dimension(i: int, name: str, part: Part, grid: bool) -> Dimension | None:
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
    return [
        Dimension(i, "epochs", IntDistribution(1, epochs, log=True), None, optional=True),
        Dimension(i, "weight_decay", FloatDistribution(1e-5, 1e-1, log=True), None, optional=True),
        Dimension(i, "early_stopping", CategoricalDistribution((None, True)), None),
    ]


def defaults(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The paper's own setting by label: the first trial. What is left at the recipe's own value is not named."""
    return {d.label: d.default for d in dimensions if not d.optional}


def enqueue(study: optuna.Study, dimensions: Sequence[Dimension], point: dict[str, Any]) -> None:
    """Let the next trial have these values by label, and the recipe's own where an optional one is not named."""
    left = [d.label for d in dimensions if d.optional and d.label not in point]
    study.enqueue_trial(point, user_attrs={"left": left})


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
    """Hyperparameters by part, as a user would write them."""
    chosen: dict[int, dict[str, Any]] = {}
    for d in dimensions:
        if d.label in trial.user_attrs.get("left", ()):
            continue
        chosen.setdefault(d.part, {})[d.name] = _suggest(trial, d)
    return chosen


def _suggest(trial: optuna.Trial, d: Dimension) -> Any:
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
    named = []
    for i, part in enumerate(chain.parts):
        mine = chosen.get(i, {})
        axes = part.axes.model_copy(update={k: v for k, v in mine.items() if k in Axes.model_fields})
        own = part.params.model_dump() | {k: v for k, v in mine.items() if k not in Axes.model_fields}
        named.append(replace(part, params=part.entry.params(**own), axes=axes).name)
    return registry.chain("+".join(named), baseline).name


# --- What a trial is scored on ----------------------------------------------------------------------


def tuning_protocol(loaded: Protocol, attacks: Sequence[str], seeds: int) -> Protocol:
    """The same protocol on other splits, with the attacks that a trial meets.

    Splits come in mirrored pairs: what makes a sample easy for every model cancels in their mean, and would
    otherwise be a floor under the leakage of all trials.
    """
    data = datasets.load(loaded.dataset)
    numbers = tuple(sign * (FIRST_SEED + i // 2) for i, sign in zip(range(seeds), itertools.cycle((1, -1))))
    if set(numbers) & set(loaded.seeds):
        raise UserError(f"{loaded.name}: expected scoring seeds below {FIRST_SEED}, given {list(loaded.seeds)}")
    pinned = {n: indices_digest(split(loaded.split.scheme, len(data), n, loaded.split.size)) for n in numbers}
    return loaded.model_copy(
        update={
            "name": f"{loaded.name}{_SUFFIX}",
            "seeds": numbers,
            "attacks": tuple(attacks),
            "split": loaded.split.model_copy(update={"digests": pinned}),
        }
    )


def tuning_attacks(loaded: Protocol, registry: Registry) -> tuple[str, ...]:
    """The protocol's membership attacks that need no reference models, which would cost a dozen networks a trial; no null rows."""
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
    """What a trial was worth: means over the tuning seeds. Without `leakage` it was too inaccurate to be attacked."""

    test_accuracy: float
    leakage: float | None
    decides: str = ""
    by_attack: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """What a worker is to score for a trial, by its number."""

    trial: int
    spec: str
    leakage: str
    floor: float
    """Share of the baseline's test accuracy."""
    models: dict[str, str]
    """Digests of the pretrained models that the study is of."""


def score_trial(proposal: Proposal) -> Scored:
    """In a worker: train and attack one trial, job by job. Raises RuntimeError with the first failure's line."""
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
    if leakage == "auc":  # the sign is the attack's, not chosen anew for each split: that would add noise to leakage
        means = {name: max(mean, 1 - mean) for name, mean in means.items()}
    if not means:
        raise RuntimeError(f"no attack gave {leakage}: the split is too small for it, or none applies")
    worst = max(means, key=lambda name: means[name])
    return Scored(accuracy, means[worst], worst, means)


def _accuracy(artifacts: Any, chain: Chain) -> float:
    """Test accuracy, the mean over the tuning seeds."""
    found = [float(_run(artifacts, None, chain, seed).metrics["test_accuracy"]) for seed in artifacts.protocol.seeds]
    return sum(found) / len(found)


def _run(artifacts: Any, attack: Part | None, chain: Chain, seed: int) -> Any:
    """The stored result of one scenario, made now if need be."""
    plan = make_plan(artifacts, [attack] if attack else [], [chain], [seed])
    wanted = scenario_key(artifacts, attack, chain, seed)
    for job in plan.jobs.values():
        if isinstance(job, ScenarioJob) and job.id != wanted:
            continue
        done = work.run_job(job)
        if done.error:
            raise RuntimeError(done.error)
    result = artifacts.store.result(wanted)
    if result.status not in ("ok", "skipped"):
        raise RuntimeError(result.reason)
    return result


# --- The study --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A trial of the front."""

    defense: str
    accuracy: float
    leakage: float
    decides: str


@dataclass
class Tuning:
    """One study: what it searches, against what, and where it is kept."""

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
    """Draw hyperparameters blindly: what a guided search has to beat."""
    seed: int = 0
    models: dict[str, str] = field(default_factory=dict)
    """Digests of the pretrained models that the chain is given."""
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        file = sqlite_file(checked("--storage", self.url))
        for attempt in range(_OPENINGS):
            try:
                if file is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    if not file.exists():
                        file.touch()  # SQLite would let nobody else write, whatever the umask says
                self.study = optuna.create_study(
                    storage=self.url, study_name=self.name, directions=["maximize", "minimize"], load_if_exists=True
                )
                break
            except Exception as problem:  # SQLAlchemy and its drivers raise many kinds
                text = printable(shown(" ".join(str(problem.__cause__ or problem).split())), 300)
                if "already exists" in text and attempt + 1 < _OPENINGS:
                    time.sleep(0.5)  # another command was quicker to make the tables of an empty database
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
        """Another code, protocol, attack list or range makes another study; the same command goes on with its own."""
        p = self.setting.protocol
        made_of = [
            p.measures, [self.registry.attack(a).key for a in p.attacks], p.seeds, self.leakage, self.floor, self.grid,
            [q.key for c in (self.chain, self.registry.chain(p.baseline, p.baseline)) for q in c.parts],
            [[d.label, repr(d.distribution)] for d in self.dimensions], training_code(), judge_code("membership"), judge_code("utility"), tuning_code(),
            *(("random",) if self.random else ()), *((self.seed,) if self.seed else ()), *((self.models,) if self.models else ()),
        ]  # fmt: skip
        return f"{self.protocol} {self.chain.name} {digest(*made_of)[:8]}"

    def others(self) -> list[str]:
        """Studies of the same defense that this one does not go on with, for something of theirs has changed since."""
        mine = self.name.rsplit(" ", 1)[0] + " "
        return [n for n in optuna.get_all_study_names(self.url) if n.startswith(mine) and n != self.name]

    @property
    def labels(self) -> list[str]:
        """What is searched, by the names that a user writes."""
        return [f"{self.chain.parts[d.part].entry.id}.{d.name}" for d in self.dimensions]

    def finished(self) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self.study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )
        return found

    def run(self, trials: int, workers: int, timeout: float | None, console: Console) -> None:
        """Until the study has so many finished trials, or the seconds are over. Ctrl-C loses the trials in hand.

        Raises UserError where one trial after another fails, and where the database cannot be used.
        """
        with self._told():
            self._run(trials, workers, timeout, console)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the database refuses is one line: it may be another user's."""
        try:
            yield
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as problem:
            text = printable(shown(" ".join(str(problem.__cause__ or problem).split())), 300)
            raise UserError(
                f"--storage: expected a database that this user may write to, given {shown(self.url)}: {text}"
            ) from None

    def _run(self, trials: int, workers: int, timeout: float | None, console: Console) -> None:
        self._take_back()
        log, start = self._tracker(), time.monotonic()
        end, before, failures = start + (timeout or math.inf), len(self.finished()), 0
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
                        pass  # it died at rest, and has been replaced
                if not running:
                    return
                for ended in executor.ended(1.0):
                    if ended.how not in ("made", "raised"):
                        raise UserError("a worker died (out of memory?); run the command again, with fewer --workers")
                    trial = running.pop(ended.work.trial)
                    failure = self._tell(trial, ended)
                    failures = failures + 1 if failure else 0
                    if failures == _LOSSES:
                        raise UserError(f"{_LOSSES} trials in a row failed; the last one, {ended.work.spec}: {failure}")
                    self._log(log, self.study.trials[trial.number])
                    done = len(self.finished())
                    left = (time.monotonic() - start) / max(1, done - before) * (trials - done)
                    _say(
                        console,
                        self.study.trials[trial.number],
                        ended.work.spec,
                        failure,
                        f"{done}/{trials} trials",
                        left,
                    )
        finally:
            executor.stop(kill=True)

    def _more(self, trials: int, running: int) -> bool:
        """Whether a trial is left to begin: of a grid those that wait, whatever became of the others."""
        if self.grid:
            return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        return len(self.finished()) + running < trials

    def _ask(self) -> tuple[optuna.Trial, str]:
        trial = self.study.ask()
        # By the trial's number: neither a study that goes on nor another command on it draws the same again.
        seed = 10_000 * self.seed + trial.number
        self.study.sampler = optuna.samplers.RandomSampler(seed) if self.random else _guided(seed)
        chosen = propose(trial, self.dimensions)
        spec = with_choices(self.chain, chosen, self.registry, self.setting.protocol.baseline)
        for name, value in {"host": socket.gethostname(), "pid": os.getpid(), "defense": spec}.items():
            trial.set_user_attr(name, value)
        return trial, spec

    def _tell(self, trial: optuna.Trial, ended: Ended[Proposal, Scored]) -> str:
        """Hand Optuna what became of a trial; returns the line of a failure."""
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
        """Note that these were tried: whoever scores them has seen what they give."""
        required = {self.registry.chain(d, self.setting.protocol.baseline).name for d in self.setting.protocol.defenses}
        text = f"{len(self.finished())} trials on other splits, against {', '.join(self.attacks)}"
        for defense in defenses - {self.chain.name, *required}:  # those were set beforehand: nobody's choice
            Store(self.setting.store).note_tuned(self.protocol, defense, text)

    def _take_back(self) -> None:
        """Put trials in the queue again whose command was killed on this machine, and points of a grid that failed."""
        here = socket.gethostname()
        with Store(self.setting.store).lock("study", digest(self.url, self.name)):  # SQLite locks no rows
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                host, pid = trial.user_attrs.get("host", here), trial.user_attrs.get("pid")
                if host == here and not _lives(pid):
                    try:
                        self.study.tell(trial.number, state=TrialState.FAIL)
                    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                        continue  # a command with another store, started at the same moment, was quicker
                    if trial.params and not self.grid:
                        enqueue(self.study, self.dimensions, trial.params)
            trials = self.study.get_trials(deepcopy=False)
            kept = [t.system_attrs.get("fixed_params") for t in trials if t.state != TrialState.FAIL]
            for point in self.grid:
                if point not in kept:
                    enqueue(self.study, self.dimensions, point)

    def front(self) -> list[Point]:
        """What no other trial beats on both sides, by falling test accuracy; one trial for each defense."""
        best = sorted(self.study.best_trials, key=lambda t: (-t.values[0], t.number))
        points = [Point(t.user_attrs["defense"], t.values[0], t.values[1], t.user_attrs["decides"]) for t in best]
        return list({p.defense: p for p in points}.values())

    def hypervolumes(self) -> list[float]:
        """What the front dominates after each finished trial, in the order in which they ended."""
        done = sorted(self.finished(), key=lambda t: (t.datetime_complete, t.number))
        values = [tuple(t.values) if t.values else None for t in done]
        return [hypervolume([v for v in values[: n + 1] if v]) for n in range(len(values))]  # type: ignore[misc]

    def finish(self, folder: Path) -> Path:
        """Draw the front, and note on all that was tried after how many trials; returns the figure's path."""
        self._mark({t.user_attrs["defense"] for t in self.finished() if t.values})
        path = folder / f"{self.name.replace(' ', '-').replace('/', '-')}.png"
        try:
            draw(self, path)
        except OSError as problem:
            raise UserError(
                f"{path}: expected a file that can be written, given {problem.strerror or problem}"
            ) from None
        if (log := self._tracker()) is not None:
            for trial in self.finished():  # those of other machines, and what MLflow did not take at the time
                self._log(log, trial)
            with contextlib.suppress(Exception):  # as in `_tracker`
                log.curve("hypervolume", self.hypervolumes())
                log.figure(path)
        return path

    def _tracker(self) -> Trials | None:
        try:
            return Trials(self.protocol, self.name)
        except (
            Exception
        ):  # MLflow and its stores raise many kinds; the study holds all of it, and the next call logs it
            return None

    def _log(self, log: Trials | None, trial: FrozenTrial) -> None:
        if log is None or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        known = trial.user_attrs
        metrics = {"test_accuracy": known["test_accuracy"]} | {
            f"{self.leakage}.{k}": v for k, v in known.get("by_attack", {}).items()
        }
        if trial.values:
            metrics["worst_case"] = trial.values[1]
        tags = {"defense": known["defense"], "state": trial.state.name.lower(), "decides": known.get("decides", "")}
        named = {f"{d.part}.{d.name}": label for d, label in zip(self.dimensions, self.labels, strict=True)}
        params = {named.get(k, k): v for k, v in trial.params.items()}
        with contextlib.suppress(Exception):  # as above
            log.log(trial.number, params, {re.sub(r"[^\w\-. :/]", "_", k): v for k, v in metrics.items()}, tags)


def start(
    artifacts: Artifacts, setting: Setting, defense: str, attacks: Sequence[str], leakage: str, seeds: int, url: str,
    grid: bool, random: bool = False, seed: int = 0,
) -> Tuning:  # fmt: skip
    """The study of a command line. Raises UserError before anything is trained."""
    loaded, registry = artifacts.protocol, artifacts.registry
    chain = registry.chain(defense, loaded.baseline)
    dimensions = space(chain, loaded, grid)
    if not dimensions:
        raise UserError(f"{defense}: expected a hyperparameter with Search(...) that is not fixed, given none")
    named = tuple(registry.attack(a).name for a in attacks) or tuning_attacks(loaded, registry)
    other = [a for a in named if registry.attack(a).entry.task != "membership"]
    if other:
        raise UserError(f"--attack: expected membership attacks, given {other[0]}")
    own = replace(setting, protocol=tuning_protocol(loaded, named, seeds))
    parts = [p.entry for p in (*chain.parts, *(registry.attack(a) for a in named))]
    own = replace(own, launcher=own.launcher or require(parts, own.isolation))
    trials = paper_grid(dimensions) if grid else []
    models = artifacts.models(*chain.parts)
    return Tuning(chain, dimensions, own, registry, leakage, loaded.utility_floor, url, trials, random, seed, models)


def _guided(seed: int) -> optuna.samplers.BaseSampler:
    """TPE on hyperparameters together (noise and clipping act as one); `group`: the first trial leaves some out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group`
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=True, group=True)


def _lives(pid: Any) -> bool:
    if pid is None or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _say(console: Console, trial: FrozenTrial, spec: str, failure: str, count: str, left: float) -> None:
    worth = (
        f"failed: {failure}" if failure
        else f"accuracy {trial.values[0]:.3f}, {trial.user_attrs['decides']} {trial.values[1]:.3f}" if trial.values
        else f"accuracy {trial.user_attrs['test_accuracy']:.3f} is below the floor: not attacked"
    )  # fmt: skip
    seconds = int(max(left, 0))
    text = f"{count}, {seconds // 60}:{seconds % 60:02d} left; {spec}: {worth}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def draw(tuning: Tuning, path: Path) -> Path:
    """All trials, the front and the paper's own setting, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5.6, 4), dpi=110, layout="constrained")
    axes = drawn.add_subplot(
        xlabel="test accuracy", ylabel=f"worst-case {tuning.leakage}", title=f"{tuning.chain.name} on {tuning.protocol}"
    )
    done = [t for t in tuning.finished() if t.values]
    axes.plot([t.values[0] for t in done], [t.values[1] for t in done], "o", color="#999999", label="trials")
    best = tuning.front()[::-1]
    axes.step([p.accuracy for p in best], [p.leakage for p in best], "o-", where="post", color="#0072B2", label="front")
    own = [t for t in done if t.user_attrs["defense"] == tuning.chain.name]
    if own:
        axes.plot(*own[0].values, "*", color="#D55E00", markersize=13, label="as the paper has it")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(drawn).print_png(str(path))
    return path
