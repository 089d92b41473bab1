"""The contract checks: one list of rules, run by `leakboard check` and by the tests on every submission.

A rule runs the submission on one of four tiny protocols: `smoke` (60 digits in each part, three epochs), two of made-up
images with 2 and 100 classes, and `smoke-noise`, whose labels are random. Every rule that applies to an entry gives a
result: it holds, it is broken, or it was not tried because a rule before it is broken: it would only repeat that one's
error. The last two are failures. A rule that this machine can't try, for it has no sandbox, is left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from benchmark import protocol as protocols
from benchmark.api import Candidates, Hyper, Search
from benchmark.entries.registry import Chain, Entry, Part, Registry
from benchmark.errors import Fault, UserError, printable, trace
from benchmark.judge import kinds
from benchmark.judge.kinds.membership import Kind as Membership
from benchmark.judge.probes import IMAGES, lookup_gap, walk
from benchmark.judge.scenario import Scenario, checked_scores
from benchmark.judge.utility import utility
from benchmark.metrics import epsilon_lacks, upper_text
from benchmark.networks.access import check_log_posteriors
from benchmark.sandbox import memory
from benchmark.sandbox.hints import described
from benchmark.sandbox.host import Unable, probe
from benchmark.sandbox.remote import Isolation, Mode, require
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.served import ServedModel
from benchmark.targets.store import Store
from benchmark.text import plain_log

TOLERANCE = 1e-4
"""The largest difference between batches that is allowed, for float32 sums depend on the batch: of posteriors, and of
scores relative to the largest score."""

DIRECTION = 4.0
"""How far an attack's AUC may lie below 0.5 on `smoke-noise`, in standard deviations of the AUC of random scores.

There the labels are random, so that the network memorises its members (the AUC of every published attack is above 0.9)
and a score of the wrong sign has an AUC near 0. Random scores lie below the limit with probability 3e-5. The draw is
the same at every call.
"""

SAME_PIXELS, MOVED, MOVED_SHARE = 0.25 / 255, 0.01, 0.25
"""A query that is moved by a quarter of a grey level is the same query in 8 bits. A guard's decision may flip for a few
such queries, but noise that is drawn anew moves most answers. So a guard may move at most a quarter (MOVED_SHARE) of
the answers by more than 0.01 (MOVED, total variation)."""


class Broken(Exception):
    """A rule does not hold. The message says what is wrong and how to correct it."""


class LeftOut(Exception):
    """A rule can't be tried on this machine, whatever the submission does. The message is the reason."""


@dataclass(frozen=True)
class Check:
    """The result of one rule. `detail` is one line: what is wrong, or what was measured.

    `after` names the broken rule because of which this one was not tried; then `ok` is False. `left_out` is set where
    this machine can't try it, and `detail` is the reason; that is no failure, so `ok` is True. `log` holds the last
    lines that the submission printed, with the traceback of its error.
    """

    name: str
    ok: bool
    detail: str = ""
    after: str = ""
    log: str = ""
    left_out: bool = False

    @property
    def state(self) -> Literal["ok", "failed", "not tried", "left out"]:
        return "left out" if self.left_out else "ok" if self.ok else "not tried" if self.after else "failed"


def not_tried(checks: Sequence[Check]) -> list[str]:
    """A line for each broken rule of an entry that kept others from being tried, with their number and names."""
    blockers = {check.name: check.after for check in checks if check.after}
    by_cause: dict[str, list[str]] = {}
    for name, cause in blockers.items():
        while cause in blockers:  # follow the chain to the rule that is broken
            cause = blockers[cause]
        by_cause.setdefault(cause, []).append(name)
    return [
        f"not tried, for {cause!r} failed: {len(names)} {'rule' if len(names) == 1 else 'rules'} ({'; '.join(names)})"
        for cause, names in by_cause.items()
    ]


@dataclass(frozen=True)
class Bench:
    """Creates what the checks run on: one `Artifacts` for each protocol, store and mode of isolation."""

    registry: Registry
    store: Path
    mode: Mode = "auto"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _isolations: dict[Mode, Isolation] = field(default_factory=dict)
    _made: dict[tuple[str, Path, Mode], Artifacts] = field(default_factory=dict)
    _certified: dict[str, str] = field(default_factory=dict)

    def isolation(self, mode: Mode | None = None) -> Isolation:
        """The one `Isolation` of a mode (the bench's by default), so that an entry's sandbox is started once."""
        mode = mode or self.mode
        if mode not in self._isolations:
            self._isolations[mode] = Isolation(mode, limits=protocols.load("smoke").limits)
        return self._isolations[mode]

    def artifacts(self, protocol: str = "smoke", store: Path | None = None, mode: Mode | None = None) -> Artifacts:
        """The artifacts of a protocol, by default in the bench's store and mode."""
        key = protocol, store or self.store, mode or self.mode
        if key not in self._made:
            isolation = self.isolation(mode)
            self._made[key] = Artifacts(
                protocols.load(protocol), self.registry, Store(key[1]), self.device, isolation=isolation
            )
        return self._made[key]

    def certified(self, protocol: str) -> str:
        """The first defense, by name, with a certificate on `protocol`, for attacks that read certificates.

        Its hyperparameters that shrink the certified radius are set to the low end of their search range: with a weak
        certificate the network memorises more, so that the checks have more to see. Raises Broken where there is none.
        """
        if protocol not in self._certified:
            self._certified[protocol] = self._find_certified(self.artifacts(protocol))
        return self._certified[protocol]

    def _find_certified(self, artifacts: Artifacts) -> str:
        def radius(part: Part) -> float:
            return artifacts.network(artifacts.chain(part.name).training, 0).claims().certificate or math.inf

        for (kind, _), entry in self.registry.entries.items():
            # Reading claims runs the entry's code: only entries whose file mentions a certificate are tried.
            if kind == "defense" and "training" in entry.stages and "certificate" in entry.text:
                default_radius = radius(Part(entry, entry.params()))
                if math.isfinite(default_radius):
                    low_ends = {name: search.low for name, search in _searches(entry.params).items()}
                    shrinking = {
                        n: v
                        for n, v in low_ends.items()
                        if radius(Part(entry, entry.params(**{n: v}))) < default_radius
                    }
                    return Part(entry, entry.params(**shrinking)).name
        raise Broken("expected a defense that carries a certificate among the submissions, given none")

    def rest(self) -> None:
        """Drop what was kept for one rule."""
        for artifacts in self._made.values():
            artifacts.end_job()

    def close(self) -> None:
        """End the sandboxes."""
        for isolation in self._isolations.values():
            isolation.close()


@dataclass(frozen=True)
class Subject:
    """One entry on the bench, with its default hyperparameters."""

    bench: Bench
    entry: Entry

    @cached_property
    def part(self) -> Part:
        return Part(self.entry, self.entry.params())

    @cached_property
    def meter(self) -> _Meter:
        """The meter of the entry's time and memory, with its default hyperparameters."""
        return _Meter(lambda: self.bench.isolation().starting)

    @cached_property
    def first_run(self) -> BaseException | None:
        """The error of a run with the declared access, or None. Kept, since two rules read it and a run may hang."""
        return _problem(self, self.part)

    @cached_property
    def result(self) -> dict[str, Any]:
        """The attack's result on `smoke`, from another run, which is metered. Several rules compare with it."""
        with self.meter:
            return _result(self)

    @property
    def defends(self) -> bool:
        return self.entry.kind == "defense"

    @property
    def trains(self) -> bool:
        return "training" in self.entry.stages

    @property
    def guards(self) -> bool:
        return bool(set(self.entry.stages) - {"training"})

    def chain(self, artifacts: Artifacts, part: Part | None = None) -> Chain:
        """The defense; for an attack, the one that it attacks: the baseline, or one with the certificate it needs."""
        if self.defends:
            return artifacts.chain((part or self.part).name)
        protocol = artifacts.protocol
        certified = "certificate" in self.entry.needs
        return artifacts.chain(self.bench.certified(protocol.name) if certified else protocol.baseline)

    def scenario(self, protocol: str = "smoke", part: Part | None = None, mode: Mode | None = None) -> Scenario:
        artifacts = self.bench.artifacts(protocol, mode=mode)
        return kinds.scenario(artifacts, part or self.part, self.chain(artifacts), 0)

    @property
    def cheap(self) -> Part:
        """The entry with its counts (epochs, steps, sizes) at their low ends, for rules to which they do not matter."""
        return Part(self.entry, self.entry.params(**_cheapest(self.entry.params)))

    def target(self, protocol: str = "smoke", part: Part | None = None, **other: Any) -> ServedModel:
        """The defense's model, or the attack's target. `other`: `store` and `mode`, where they are not the bench's."""
        artifacts = self.bench.artifacts(protocol, **other)
        return artifacts.served(self.chain(artifacts, part), 0)

    def run(self, protocol: str = "smoke", part: Part | None = None, mode: Mode | None = None) -> dict[str, float]:
        """Score the attack and return its metrics, or have the defense answer and return {}.

        Raises what the entry raises.
        """
        if not self.defends:
            return self.scenario(protocol, part, mode).score().metrics
        target = self.target(protocol, part, mode=mode)
        x = target.population.part("target-test").x
        answer = target.predictor(stored=False)(x)
        check_log_posteriors(answer, len(x), target.population.data.classes, self.entry.id)
        return {}


@dataclass(frozen=True)
class Rule:
    """One rule of the contract. `step` raises where it is broken, and returns a detail to show, or ""."""

    name: str
    applies: Callable[[Subject], bool]
    step: Callable[[Subject], str]
    after: tuple[str, ...] = ()


def check_file(
    path: Path, submissions: Path, store: Path, mode: Mode = "auto", baselines: Path | None = None
) -> Iterator[Check]:
    """The results of all rules on one file, which may lie anywhere, each as soon as it is known.

    With mode "never" (trust) its code runs in this process. Raises UserError where there is no such file, and where its
    code must be isolated and can't be.
    """
    registry = Registry(submissions, baselines)
    if not path.is_file():
        given = "a folder" if path.is_dir() else "none"
        raise UserError(f"{path}: expected a submission's Python file, given {given}{_near(path, registry)}")
    kind: Literal["attack", "defense"] = "defense" if is_defense(path, registry.root) else "attack"
    entry = registry.add(path, kind)
    if not entry.error:
        require([entry], mode)
    torch.set_num_threads(1)  # as in a worker and in a sandbox: float32 sums depend on the number of threads
    bench = Bench(registry, store, mode)
    try:
        yield from check_entry(bench, entry)
    finally:
        bench.close()


def _near(path: Path, registry: Registry) -> str:
    """`; did you mean PATH?` where an entry has this name or a similar one; else ""."""
    paths = {entry.id: entry.path for entry in registry.entries.values()}
    matches = difflib.get_close_matches(path.stem, paths, n=1, cutoff=0.8)
    return f"; did you mean {paths[matches[0]]}?" if matches else ""


def check_entry(bench: Bench, entry: Entry) -> Iterator[Check]:
    """A result for every rule that applies to the entry, in order; a single one for a file that can't be read."""
    yield Check(READABLE, not entry.error, printable(entry.error))
    if entry.error:
        return
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="leakboard-") as folder:
        if entry.kind == "defense":  # a fresh store: training is metered, and would be skipped if it were stored
            bench = dataclasses.replace(bench, store=Path(folder))
        subject = Subject(bench, entry)
        for rule in RULES:
            if rule.applies(subject):
                blocker = next((name for name in rule.after if name in failed), "")
                check = Check(rule.name, False, "not tried", blocker) if blocker else _try(rule, subject)
                bench.rest()
                failed += [] if check.ok else [rule.name]
                yield check


def _try(rule: Rule, subject: Subject) -> Check:
    try:
        return Check(rule.name, True, rule.step(subject))
    except LeftOut as reason:
        return Check(rule.name, True, printable(str(reason)), left_out=True)
    except Broken as problem:
        return Check(rule.name, False, printable(str(problem), 700), log=_log(problem.__cause__))
    except (Exception, SystemExit) as problem:  # of the submission
        return Check(rule.name, False, printable(_error_line(subject, problem), 700), log=_log(problem))


def _error_line(subject: Subject, problem: BaseException) -> str:
    return str(problem) if isinstance(problem, Fault) else described(problem, subject.bench.registry.entries)


def _log(problem: BaseException | None) -> str:
    """The output of the sandbox; for an error in this process, its traceback."""
    if isinstance(problem, Fault):
        return problem.log
    return plain_log(trace(problem)) if problem else ""


def is_defense(path: Path, submissions: Path) -> bool:
    """Whether a file is to be checked as a defense: by its folder, else by its text."""
    folder = path.resolve().parent
    if folder.parent == submissions.resolve() and folder.name in ("attacks", "defenses"):
        return folder.name == "defenses"
    return folder.name == "defenses" or "(Defense)" in path.read_text("utf-8", "replace")


# --- What a file says of itself ---------------------------------------------------------------------


def _has_card(subject: Subject) -> str:
    card = subject.entry.card
    if card is None or not card.title.strip() or not card.reference.strip():
        raise Broken('expected Card(title=..., reference=...) with text in both; reference="unpublished" will do')
    return ""


def _ranges(subject: Subject) -> str:
    """Without a run: both ends of every search range lie in the valid range."""
    for name, search in _searches(subject.entry.params).items():
        if not search.low < search.high or (search.log and search.low <= 0):
            expected = "0 < low < high" if search.log else "low < high"
            raise Broken(f"{name}: expected a search range with {expected}, given {search.low} to {search.high}")
        for end in (search.low, search.high):
            try:
                subject.entry.params(**{name: end})
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                raise Broken(
                    f"{name}: expected a search range inside the valid range, given the end {end}: {message}"
                ) from None
    return ""


def _searches(params: type[Hyper]) -> dict[str, Search]:
    searches = {
        name: next((m for m in f.metadata if isinstance(m, Search)), None) for name, f in params.model_fields.items()
    }
    return {name: search for name, search in searches.items() if search}


def _is_count(params: type[Hyper], name: str) -> bool:
    annotation = params.model_fields[name].annotation
    return int in (annotation, *get_args(annotation))


def _cheapest(params: type[Hyper]) -> dict[str, Any]:
    """Counts (epochs, steps, sizes) at the low ends of their search ranges: they determine the time of a run."""
    return {name: int(s.low) for name, s in _searches(params).items() if _is_count(params, name)}


def _choices(params: type[Hyper]) -> Iterator[tuple[str, Any]]:
    """(name, value) for each value to try: the ends of a search range (of a count the low one), or all choices."""
    searches = _searches(params)
    for name, model_field in params.model_fields.items():
        annotation = model_field.annotation
        if annotation is bool or get_origin(annotation) is Literal:
            values: tuple[Any, ...] = (False, True) if annotation is bool else get_args(annotation)
        elif name in searches:
            values = (searches[name].low,) if _is_count(params, name) else (searches[name].low, searches[name].high)
        else:
            continue
        yield from ((name, value) for value in values)


def _hyperparameters(subject: Subject) -> str:
    params = subject.entry.params
    tried = 0
    for name, value in _choices(params):
        try:
            subject.run(part=Part(subject.entry, params(**_cheapest(params) | {name: value})))
        except Exception as error:
            raise Broken(f"{name}={value}: {_error_line(subject, error)}") from error
        tried += 1
    return f"{tried} settings ran"


# --- Any entry --------------------------------------------------------------------------------------


def _works_on(protocol: str) -> Callable[[Subject], str]:
    def step(subject: Subject) -> str:
        params = subject.entry.params
        cheapest = _cheapest(params)
        try:
            subject.run(protocol, Part(subject.entry, params(**cheapest)))
        except Exception as error:
            # Some data rules a value out. If the error names the hyperparameter, its low end must work instead.
            refused = [name for name in _searches(params) if f"{name}: expected" in str(error)]
            if not refused:
                raise
            replaced = {name: _searches(params)[name].low for name in refused}
            subject.run(protocol, Part(subject.entry, params(**cheapest | replaced)))
            return f"with {', '.join(f'{k}={v}' for k, v in replaced.items())}, for it refuses the default"
        return ""

    return step


def _limits(subject: Subject) -> str:
    limits = subject.bench.artifacts().protocol.limits
    meter = subject.meter
    if subject.defends:  # its training was metered by an earlier rule (`_makes`)
        artifacts = subject.bench.artifacts()
        with meter:
            utility(artifacts, subject.chain(artifacts), 0)
    else:
        _ = subject.result
    used = f"{meter.seconds:.1f} s, {meter.peak_mb:.0f} MB"
    if meter.seconds > limits.seconds or meter.peak_mb > limits.memory_mb:
        raise Broken(f"expected at most {limits.seconds} s and {limits.memory_mb} MB, given {used}")
    return used


class _Meter:
    """Measures seconds, and the peak of memory beyond that at the start, of this process and its descendants.

    Entered again, it adds the seconds and keeps the higher peak. `idle` gives seconds that do not count (so far).
    """

    seconds, peak_mb = 0.0, 0.0

    def __init__(self, idle: Callable[[], float] = lambda: 0.0) -> None:
        self._idle = idle

    def __enter__(self) -> _Meter:
        self._before, self._start = _memory_mb(), time.perf_counter() - self._idle()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._idle() - self._start
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, _memory_mb() - self._before)
            if self._done.wait(0.02):
                return


def _memory_mb() -> float:
    """MiB of memory of this process and its descendants, as a sandbox counts it; where there is no /proc, the peak of this process alone."""
    if not Path("/proc/self/status").exists():
        import resource
        import sys

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return sum(map(memory.share, memory.tree(os.getpid()))) / 2**20


def _isolated_same(subject: Subject) -> str:
    """In this process and in a sandbox: the same scores, or the same weights and answers, bit for bit."""
    way = probe()
    if isinstance(way, Unable):
        raise LeftOut(f"no sandbox here: {way}")
    if not subject.defends:
        differing = _differing(subject.result, _result(subject, "always"))
    else:
        with tempfile.TemporaryDirectory(prefix="leakboard-") as folder:
            outside = subject.target(part=subject.cheap)
            inside = subject.target(part=subject.cheap, store=Path(folder), mode="always")
            differing = _differing(_made(subject, outside), _made(subject, inside))
            x = outside.population.part("target-test").x
            answers = [target.predictor(stored=False)(x) for target in (outside, inside)]
            differing += [] if torch.equal(*answers) else ["answers"]
            subject.bench.rest()  # before the folder is deleted
    if differing:
        raise Broken(
            f"{differing[0]} and {len(differing) - 1} more differ between this process and a sandbox; "
            "use nothing but what the contract hands over: no files, no environment, no global state"
        )
    return ""


def _in_process(subject: Subject) -> bool:
    """Whether this bench runs the entry's code in its own process. Other code is checked in a sandbox anyway."""
    return subject.bench.isolation().where(subject.entry) != "bubblewrap"


# --- Attacks ----------------------------------------------------------------------------------------


def _access(subject: Subject) -> str:
    """Broken if the entry is refused something, but not with full access: it needs more access than it declares."""
    problem = subject.first_run
    if isinstance(problem, PermissionError) or (isinstance(problem, Fault) and problem.refused):
        widest = dataclasses.replace(subject.entry, access="white-box")
        again = _problem(subject, Part(widest, widest.params()))
        if type(again) is not type(problem) or str(again) != str(problem):
            raise Broken(str(problem)) from problem
    return ""


def _problem(subject: Subject, part: Part) -> BaseException | None:
    """The error that running the entry raises, or None."""
    try:
        subject.run(part=part)
    except (Exception, SystemExit) as error:
        return error
    return None


def _returns(subject: Subject) -> str:
    if subject.first_run:
        raise subject.first_run
    return ""


def _same_result(subject: Subject) -> str:
    if differing := _differing(subject.result, _result(subject)):
        raise Broken(
            f"{differing[0]} and {len(differing) - 1} more differ between two runs; draw from knowledge.generator(name)"
        )
    return ""


def _result(subject: Subject, mode: Mode | None = None) -> dict[str, Any]:
    """The result of an attack on `smoke`, to be compared exactly: its scores, or the metrics of other tasks."""
    return {"scores": _scores(subject, None, mode)} if _membership(subject) else subject.run(mode=mode)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the numbers, arrays or tensors that differ, or are in one of both alone."""
    return [
        name
        for name in sorted(first.keys() | second.keys())
        if name not in first or name not in second or not _equal(first[name], second[name])
    ]


def _equal(first: Any, second: Any) -> bool:
    """Whether both are exactly equal. NaN equals NaN, for another rule refuses it."""
    a, b = np.asarray(first), np.asarray(second)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")


def _scores(subject: Subject, rows: Tensor | None, mode: Mode | None = None) -> NDArray[np.float64]:
    """Scores (s, n) of all candidates, or of those with these indices."""
    scenario = subject.scenario(mode=mode)
    assert isinstance(scenario, Membership)  # the rule applies to this kind alone
    attack, candidates, references = scenario.fitted()
    if rows is not None:
        candidates = Candidates(candidates.x[rows], candidates.y[rows], candidates.id[rows])
        references = references and replace(
            references, members=references.members[:, rows], log_posteriors=references.log_posteriors[:, rows]
        )
    return checked_scores(attack.answer(scenario.target, candidates, references), len(candidates))


def _order(subject: Subject) -> str:
    n = subject.result["scores"].shape[1]
    return _same_scores(subject, torch.from_numpy(np.random.default_rng(1).permutation(n)))


def _number(subject: Subject) -> str:
    n = subject.result["scores"].shape[1]
    return "; ".join(_same_scores(subject, torch.arange(k)) for k in (n // 2, 1))


def _same_scores(subject: Subject, rows: Tensor) -> str:
    every = subject.result["scores"]
    gap = float(np.abs(every[:, rows.numpy()] - _scores(subject, rows)).max())
    relative = gap / max(float(np.abs(every).max()), 1.0)
    if relative > TOLERANCE:
        raise Broken(f"scores of {len(rows)} candidates move by {gap:.3g}; pool over data in fit, not in score")
    return f"{len(rows)} candidates: {relative:.1g}"


def _direction(subject: Subject) -> str:
    metrics = subject.run("smoke-noise")
    n_members, n_nonmembers = metrics["members"], metrics["nonmembers"]
    limit = 0.5 - DIRECTION * math.sqrt((n_members + n_nonmembers + 1) / (12 * n_members * n_nonmembers))
    if metrics["auc"] < limit:
        raise Broken(
            f"expected an AUC of at least {limit:.2f} where all members are memorised, given {metrics['auc']:.2f}; "
            "a score is higher for members: change its sign"
        )
    return f"AUC {metrics['auc']:.2f} where all members are memorised"


# --- Defenses ---------------------------------------------------------------------------------------


def _made(subject: Subject, target: ServedModel) -> dict[str, Tensor]:
    """The tensors of the defense: the weights of the network's group, and the state of its guard."""
    states = target.network.states() if subject.trains else {}
    return states | target.guards[-1].state() if subject.guards else states


def _makes(subject: Subject) -> str:
    with subject.meter:
        _made(subject, subject.target())
    return ""


def _reloads(subject: Subject) -> str:
    try:
        subject.target().behind(0).predictor()
    except Exception as error:
        raise Broken(
            f"the weights of train() don't load into network(): {error}; train the very module that network() returns"
        ) from error
    return ""


def _answers(subject: Subject) -> str:
    subject.run()
    return ""


def _same_weights(subject: Subject) -> str:
    first = _made(subject, subject.target(part=subject.cheap))
    with tempfile.TemporaryDirectory(prefix="leakboard-") as folder:
        second = _made(subject, subject.target(part=subject.cheap, store=Path(folder)))
    if differing := _differing(first, second):
        raise Broken(
            f"{differing[0]} and {len(differing) - 1} more differ between two runs; draw from training.generator(name)"
        )
    return ""


def _same_answer(subject: Subject) -> str:
    target = subject.target()
    x, predict = target.population.part("target-test").x, target.predictor(stored=False)
    whole = predict(x)
    if not torch.equal(whole, predict(x)):
        raise Broken("two answers to one query differ; draw from context.uniform or context.normal")
    largest = 0.0
    for rows in (torch.arange(len(x)).flip(0), torch.arange(len(x) // 2), torch.arange(1)):
        gap = float((whole[rows].exp() - predict(x[rows]).exp()).abs().max())
        if gap > TOLERANCE:
            raise Broken(
                f"posteriors move by {gap:.3g} when {len(rows)} of {len(x)} queries are asked in another batch"
            )
        largest = max(largest, gap)
    return f"{largest:.1g} between batches"


def _keyed(subject: Subject) -> str:
    target = subject.target("smoke-noise", subject.cheap)
    x, predict = target.population.part("target-test").x, target.predictor(stored=False)
    sign = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
    moved = (predict(x).exp() - predict((x + SAME_PIXELS * sign).clamp(0, 1)).exp()).abs().sum(1) / 2
    share = float((moved > MOVED).double().mean())
    if share > MOVED_SHARE:
        raise Broken(
            f"{share:.0%} of the answers change though no query changes in 8 bits; "
            "draw from context.uniform or context.normal, which hash the 8-bit query"
        )
    return f"{share:.0%} of the answers move by more than {MOVED}"


def _keeps_labels(subject: Subject) -> str:
    """Tried with hyperparameters for which the guard promises to keep labels, the first value of each."""
    params = {name: values[0] for name, values in (subject.entry.keeps_labels or {}).items()}
    part = dataclasses.replace(subject.cheap, params=subject.cheap.params.model_copy(update=params))
    target = subject.target("smoke-noise", part)
    x = target.population.part("target-test").x
    answer, bare = target.predictor(stored=False)(x), target.behind(0).predictor()(x)
    changed = int((answer.argmax(1) != bare.argmax(1)).sum())
    if changed:
        raise Broken(f"{changed} of {len(x)} labels change; keeps_labels promises that none does: leave it out")
    return f"{len(x)} labels"


def _no_lookup(subject: Subject) -> str:
    target = subject.target("smoke-noise", subject.cheap)
    members, nonmembers = (target.population.part(part).x[:IMAGES] for part in target.parts)
    predict = target.predictor(stored=False)
    gap = lookup_gap(walk(predict, torch.cat([members, nonmembers]), np.random.default_rng(0)), len(members))
    if gap.looks_up:
        raise Broken(
            f"answers to members jump when a query changes by one grey level, and those to others don't ({gap}); "
            "a table of training images is no defense"
        )
    return str(gap)


def _claims(subject: Subject) -> str:
    target = subject.target()
    claims = target.network.claims()
    if claims.epsilon is None:
        radii = {"robust": claims.robust, "certificate": claims.certificate}
        return ", ".join(["no epsilon", *(f"{name} {radius:g}" for name, radius in radii.items() if radius)])
    if missing := epsilon_lacks(vars(claims), len(target.population.parts["target-train"])):
        raise Broken(f"expected beside epsilon = {upper_text(claims.epsilon)}: {', '.join(missing)}")
    return f"epsilon {upper_text(claims.epsilon)}"


# --- The list ---------------------------------------------------------------------------------------

READABLE = "can be read without running it"
_RANGES = "search ranges lie inside the valid ranges"
_ACCESS = "keeps its declared access"
_RETURNS = "returns what its task asks for"
_SAME = "the same seed gives the same result"
_MAKES = "trains, or prepares its guard"
_RELOADS = "the trained weights reload"
_POSTERIORS = "answers with posteriors"
_WEIGHTS = "the same seed gives the same weights"
_ANSWER = "one query gets one answer, in any batch"
_LABELS = "keeps the labels, as it promises"
_CLAIMS = "claims are complete"
_LIMITS = "keeps within the time and memory of smoke"
_RUNS = (_ACCESS, _RETURNS, _MAKES, _RELOADS, _POSTERIORS)


def _membership(subject: Subject) -> bool:
    return subject.entry.task == "membership"


def _attack(subject: Subject) -> bool:
    return not subject.defends


def _any(subject: Subject) -> bool:
    return True


RULES: tuple[Rule, ...] = (
    Rule("has a card with title and reference", _any, _has_card),
    Rule(_RANGES, _any, _ranges),
    Rule(_ACCESS, _attack, _access),
    Rule(_RETURNS, _attack, _returns, after=(_ACCESS,)),
    Rule(_SAME, _attack, _same_result, after=_RUNS),
    Rule("scores don't depend on the order of candidates", _membership, _order, after=(*_RUNS, _SAME)),
    Rule("scores don't depend on the number of candidates", _membership, _number, after=(*_RUNS, _SAME)),
    Rule("scores are higher for members", _membership, _direction, after=_RUNS),
    Rule(_MAKES, lambda s: s.defends, _makes),
    Rule(_RELOADS, lambda s: s.trains, _reloads, after=(_MAKES,)),
    Rule(_POSTERIORS, lambda s: s.defends, _answers, after=(_MAKES, _RELOADS)),
    Rule(_WEIGHTS, lambda s: s.defends, _same_weights, after=(_MAKES,)),
    Rule(_ANSWER, lambda s: s.defends, _same_answer, after=_RUNS),
    Rule("noise depends on the 8-bit query", lambda s: s.guards, _keyed, after=(*_RUNS, _ANSWER)),
    Rule(_LABELS, lambda s: s.entry.keeps_labels is not None, _keeps_labels, after=_RUNS),
    Rule("members are not looked up", lambda s: s.defends, _no_lookup, after=_RUNS),
    Rule(_CLAIMS, lambda s: s.trains, _claims, after=_RUNS),
    Rule("works on 2 classes and 1 channel", _any, _works_on("smoke-2x1"), after=_RUNS),
    Rule("works on 100 classes and 3 channels", _any, _works_on("smoke-100x3"), after=_RUNS),
    Rule("runs with every end of its search ranges", lambda s: bool([*_choices(s.entry.params)]), _hyperparameters,
         after=(_RANGES, *_RUNS)),
    Rule(_LIMITS, _any, _limits, after=(*_RUNS, _CLAIMS, _LABELS, _ANSWER)),  # the cost includes the claims
    Rule("works the same in a sandbox", _in_process, _isolated_same,
         after=(*_RUNS, _SAME, _WEIGHTS, _ANSWER, _LIMITS)),
)  # fmt: skip
