"""The machinery of the checks: order, blocking, hyperparameters, the meter, and the protocols that they run on."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import data, protocol
from benchmark.api import Annotated, Field, Hyper, Literal, Search
from benchmark.data.population import populate
from benchmark.entries.registry import Registry
from benchmark.errors import Fault, UserError
from benchmark.run import checks
from benchmark.run.checks import Bench, Broken, Check, Rule
from benchmark.sandbox import host
from benchmark.sandbox.local import Defender

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = Registry(ROOT / "submissions")
HIDDEN = ("smoke-2x1", "smoke-100x3", "smoke-noise")


@pytest.fixture
def bench(tmp_path):
    bench = Bench(REGISTRY, tmp_path)
    yield bench
    bench.close()


def always(subject):
    return True


def raising(error):
    def step(subject):
        raise error

    return step


# --- Outcomes ---------------------------------------------------------------------------------------


def outcomes(bench, monkeypatch, *rules):
    monkeypatch.setattr(checks, "RULES", rules)
    return list(checks.check_entry(bench, REGISTRY.entries["attack", "loss"]))[1:]


def test_what_is_measured_is_told(bench, monkeypatch):
    assert outcomes(bench, monkeypatch, Rule("a", always, lambda s: "3 s")) == [Check("a", True, "3 s")]


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (Broken("too long"), "too long"),
        (ValueError("a\nb"), "ValueError: a b"),
        (SystemExit(3), "SystemExit: 3"),
        (RuntimeError("\x1b[2J"), "RuntimeError: \\x1b[2J"),
    ],
)
def test_whatever_is_raised_is_a_failure(bench, monkeypatch, error, detail):
    assert outcomes(bench, monkeypatch, Rule("a", always, raising(error))) == [Check("a", False, detail)]


def test_a_rule_after_a_broken_one_is_not_tried_and_not_ok(bench, monkeypatch):
    rules = [
        Rule("a", always, raising(Broken("no"))),
        Rule("b", always, raising(AssertionError("tried")), after=("a",)),
        Rule("c", always, raising(AssertionError("tried")), after=("b",)),
        Rule("d", always, lambda s: ""),
    ]
    a, b, c, d = outcomes(bench, monkeypatch, *rules)
    assert (b.ok, b.after, c.ok, c.after) == (False, "a", False, "b")
    assert not a.after
    assert d.ok
    assert [c.state for c in (a, b, c, d)] == ["failed", "not tried", "not tried", "ok"]


def test_what_was_not_tried_is_one_line_for_each_cause():
    found = [
        Check("a", False, "no"), Check("b", False, after="a"), Check("c", False, after="b"), Check("d", True),
        Check("e", False, "no"), Check("f", False, after="e"), Check("g", True, "no bwrap", left_out=True),
    ]  # fmt: skip
    assert checks.not_tried(found) == [
        "not tried, for 'a' failed: 2 rules (b; c)",
        "not tried, for 'e' failed: 1 rule (f)",
    ]
    assert checks.not_tried([found[3], found[6]]) == []


@pytest.mark.parametrize(
    ("bwrap", "cause"),
    [(None, "bubblewrap is not installed"), ("setting up uid map: Permission denied", "bubblewrap is installed, but ")],
)
def test_trusted_files_are_checked_without_a_sandbox(bwrap, cause, tmp_path, home):
    """Every rule but the one that compares with a sandbox; that one says why it is left out, and is no failure."""
    (tmp_path / "bin").mkdir()
    if bwrap:
        (tmp_path / "bin" / "bwrap").write_text(f"#!/bin/sh\necho 'bwrap: {bwrap}' >&2\nexit 1\n")
        (tmp_path / "bin" / "bwrap").chmod(0o755)
    home.patch.setenv("PATH", str(tmp_path / "bin"))
    home.patch.setattr(checks, "probe", host.probe.__wrapped__)
    home.patch.setattr(host, "probe", host.probe.__wrapped__)
    path = home.attack("mine")
    done = home.call("check", str(path), "--trust")
    assert done.code == 0, done.err
    left = [line for line in done.out.splitlines() if line.startswith("left out")]
    assert len(left) == 1 and f"works the same in a sandbox: no sandbox here: {cause}" in left[0]
    assert "--trust" not in left[0]
    assert done.out.count("\nok ") + 1 == len(
        [
            r
            for r in checks.RULES
            if r.applies(checks.Subject(Bench(REGISTRY, tmp_path), REGISTRY.entries["attack", "loss"]))
        ]
    )
    refused = home.call("check", str(path))
    assert refused.code == 2 and cause in refused.err and refused.err.count("\n") == 1 and "add --trust" in refused.err


def test_a_failure_is_told_once_with_its_own_line_first(home):
    path = home.attack("mine", "{}['x']")
    done = home.call("check", str(path), "--trust")
    assert done.code == 2 and "8 rules (the same seed gives the same result; " in done.out
    failed = done.out.splitlines()
    at = next(i for i, line in enumerate(failed) if line.startswith("failed"))
    assert re.search(r"returns what its task asks for: KeyError: 'x' \(mine\.py, line \d+, in score\)$", failed[at])
    assert re.search(r"\| mine\.py, line \d+, in score: return \{\}\['x'\]$", failed[at + 1])
    assert sum("not tried" in line for line in failed) == 1


@pytest.mark.parametrize(
    ("given", "hint"),
    [("submissions/attacks/los.py", "did you mean"), ("loss", "did you mean"), ("submissions", "given a folder"), ("zzz.py", "given none")],
)  # fmt: skip
def test_a_path_that_is_no_file_is_one_line(given, hint, home):
    done = home.call("check", given)
    assert done.code == 2 and hint in done.err and done.err.count("\n") == 1
    assert ("attacks/loss.py?" in done.err) == (hint == "did you mean")


def test_a_file_that_cannot_be_read_has_one_result(bench, tmp_path):
    path = tmp_path / "attacks" / "bad.py"
    path.parent.mkdir()
    path.write_text("class A(Attack: pass")
    (only,) = checks.check_file(path, ROOT / "submissions", tmp_path / "store")
    assert (only.name, only.ok) == (checks.READABLE, False)
    assert "syntax error" in only.detail


def test_what_hangs_is_waited_for_once(bench, monkeypatch):
    runs = []

    def hang(self, protocol="smoke", part=None, mode=None):
        runs.append(part)
        raise Fault("timeout", "more than 120 s", "the last line")

    monkeypatch.setattr(checks.Subject, "run", hang)
    found = {c.name: c for c in checks.check_entry(bench, REGISTRY.entries["attack", "loss"])}
    returns = found["returns what its task asks for"]
    assert (returns.ok, returns.detail, returns.log) == (False, "more than 120 s", "the last line")
    assert found["keeps its declared access"].ok and len(runs) == 1, "no wider access mends a run without an end"
    assert sum(c.after != "" for c in found.values()) > 5, "nothing else waits for it"


def test_results_come_one_by_one(bench):
    found = checks.check_entry(bench, REGISTRY.entries["attack", "loss"])
    assert next(found).name == checks.READABLE
    found.close()


@pytest.mark.parametrize(("folder", "message"), [("attacks", "expected an attack, given a Defense"), ("defenses", "")])
def test_the_folder_says_what_a_file_should_be(folder, message, tmp_path):
    path = tmp_path / folder / "mine.py"
    path.parent.mkdir()
    path.write_text((ROOT / "submissions" / "defenses" / "rounding.py").read_text())
    first = next(checks.check_file(path, tmp_path, tmp_path / "store", "never"))
    assert first.detail.endswith(message) and first.ok == (not message)


def test_nan_is_like_nan():
    nan, one = np.array([1.0, np.nan]), {"w": np.array([1.0, 2.0])}
    assert not checks._differing({"w": nan}, {"w": nan.copy()})
    assert checks._differing(one, {"w": nan}) == ["w"] and not checks._differing({"n": "text"}, {"n": "text"})


def test_code_that_nobody_reviewed_is_checked_in_a_sandbox_alone(tmp_path, launcher):
    path = tmp_path / "attacks" / "mine.py"
    path.parent.mkdir()
    marker = tmp_path / "was-here"
    path.write_text((ROOT / "submissions" / "attacks" / "loss.py").read_text() + f"\nopen({str(marker)!r}, 'w')\n")
    found = {c.name: c for c in checks.check_file(path, ROOT / "submissions", tmp_path / "store")}
    assert "works the same in a sandbox" not in found
    assert not found["returns what its task asks for"].ok
    assert not marker.exists()


# --- Hyperparameters --------------------------------------------------------------------------------


class Many(Hyper):
    """One of each kind."""

    rate: Annotated[float, Field(gt=0), Search(0.1, 10, log=True)] = 1.0
    epochs: Annotated[int, Field(ge=1), Search(5, 500)] = 50
    size: Annotated[int | None, Field(ge=1), Search(8, 64)] = None
    norm: Literal["l1", "l2"] = "l2"
    centred: bool = True
    fixed: float = 3.0


def subject(bench, params, **changes):
    entry = dataclasses.replace(REGISTRY.entries["attack", "loss"], params=params, **changes)
    return checks.Subject(bench, entry)


def test_counts_cost_time_and_run_at_their_low_end():
    assert checks._cheapest(Many) == {"epochs": 5, "size": 8}
    assert list(checks._choices(Many)) == [
        ("rate", 0.1), ("rate", 10), ("epochs", 5), ("size", 8),
        ("norm", "l1"), ("norm", "l2"), ("centred", False), ("centred", True),
    ]  # fmt: skip


class Beyond(Hyper):
    """Its search range reaches 0, which is not valid."""

    rate: Annotated[float, Field(gt=0), Search(0, 1)] = 0.5


class Reversed(Hyper):
    """Low is above high."""

    rate: Annotated[float, Search(2, 1)] = 1.5


class LogOfZero(Hyper):
    """A logarithmic range can't start at 0."""

    rate: Annotated[float, Search(0, 1, log=True)] = 0.5


class Halves(Hyper):
    """A whole number whose range starts at one half."""

    epochs: Annotated[int, Search(0.5, 4)] = 2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (Beyond, "rate: expected a search range inside the valid range, given the end 0"),
        (Reversed, "rate: expected a search range with low < high, given 2 to 1"),
        (LogOfZero, "rate: expected a search range with 0 < low < high, given 0 to 1"),
        (Halves, "epochs: expected a search range inside the valid range, given the end 0.5"),
    ],
)
def test_search_ranges_that_cannot_be(bench, params, message):
    with pytest.raises(Broken, match=message):
        checks._ranges(subject(bench, params))


def test_search_ranges_that_can_be(bench):
    assert checks._ranges(subject(bench, Many)) == ""


class Smoothing(Hyper):
    """Half of its range is too much for two classes."""

    epsilon: Annotated[float, Field(gt=0), Search(0.1, 0.8)] = 0.8


def test_a_value_that_data_rule_out_may_be_refused_by_name(bench, monkeypatch):
    seen = []

    def run(self, protocol, part):
        seen.append(part.params.epsilon)
        if part.params.epsilon > 0.5:
            raise ValueError("epsilon: expected below 0.5, given 0.8")

    monkeypatch.setattr(checks.Subject, "run", run)
    assert "epsilon=0.1" in checks._works_on("smoke-2x1")(subject(bench, Smoothing))
    assert seen == [0.8, 0.1]


def test_any_other_error_on_such_data_stands(bench, monkeypatch):
    def run(self, protocol, part):
        raise ValueError("index out of range")

    monkeypatch.setattr(checks.Subject, "run", run)
    with pytest.raises(ValueError, match="index out of range"):
        checks._works_on("smoke-2x1")(subject(bench, Smoothing))


# --- What carries a certificate ---------------------------------------------------------------------


def test_attacks_on_certificates_meet_a_defense_that_carries_one_with_a_small_ball(bench):
    attack = dataclasses.replace(REGISTRY.entries["attack", "loss"], needs=frozenset({"certificate"}))
    artifacts = bench.artifacts()
    chain = checks.Subject(bench, attack).chain(artifacts)
    certified = chain, artifacts.chain(chain.training.entry.id)
    found, usual = (artifacts.network(c.training, 0).claims().certificate for c in certified)
    assert 0 < found < usual
    assert checks.Subject(bench, REGISTRY.entries["attack", "loss"]).chain(artifacts).name == "undefended"


def test_without_a_certificate_they_cannot_be_checked(tmp_path):
    registry = Registry(ROOT / "submissions")
    registry.entries = {k: e for k, e in registry.entries.items() if "certificate" not in e.text}
    with pytest.raises(Broken, match="expected a defense that carries a certificate among the submissions, given none"):
        Bench(registry, tmp_path).certified("smoke")


# --- Direction --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("auc", "holds"), [(1.0, True), (0.5, True), (0.34, True), (0.32, False), (0.0, False)])
def test_the_limit_of_direction(bench, monkeypatch, auc, holds):
    found = {"auc": auc, "members": 90.0, "nonmembers": 90.0}
    monkeypatch.setattr(checks.Subject, "run", lambda self, protocol: found)
    if holds:
        checks._direction(subject(bench, Hyper))
    else:
        with pytest.raises(Broken, match="change its sign"):
            checks._direction(subject(bench, Hyper))


def test_pure_chance_stays_above_the_limit_of_direction():
    """The stated deviation is that of the AUC of random scores: 4 of it are enough for 2,000 draws."""
    rng = np.random.default_rng(0)
    n = 90
    ranks = np.argsort(np.argsort(rng.random((2000, 2 * n)), axis=1), axis=1)[:, :n] + 1
    auc = (ranks.sum(1) - n * (n + 1) / 2) / n**2
    deviation = np.sqrt((2 * n + 1) / (12 * n * n))
    assert np.std(auc) == pytest.approx(deviation, rel=0.06)  # 4 standard errors of a deviation of 2,000 draws
    assert auc.min() > 0.5 - checks.DIRECTION * deviation


# --- The meter --------------------------------------------------------------------------------------


def test_the_meter_sees_time_and_memory():
    with checks._Meter() as meter:
        hoard = np.ones(25 * 2**20)  # 200 MB
        time.sleep(0.2)
        del hoard
    assert 0.2 <= meter.seconds < 5
    assert 150 < meter.peak_mb < 600


def test_a_meter_goes_on():
    meter = checks._Meter()
    for size in (25, 1):
        with meter:
            hoard = np.ones(size * 2**20)
            time.sleep(0.2)
            del hoard
    assert 0.4 <= meter.seconds < 5
    assert meter.peak_mb > 150, "the higher peak stays"


def test_what_a_defense_makes_is_measured_once_and_from_nothing(bench, monkeypatch):
    """Though the bench's own store holds what it would make; the limit covers making and answering together."""
    entry = REGISTRY.entries["defense", "label_smoothing"]
    subject = checks.Subject(bench, entry)
    checks._made(subject, subject.target())
    bench.rest()
    trained, train = [], Defender.train
    monkeypatch.setattr(Defender, "train", lambda self, tasks: (trained.append(time.sleep(0.7)), train(self, tasks))[1])
    monkeypatch.setattr(checks, "utility", lambda *_: time.sleep(0.4))
    kept = ("trains, or prepares its guard", "keeps within the time and memory of smoke")
    monkeypatch.setattr(checks, "RULES", [r for r in checks.RULES if r.name in kept])
    found = {c.name: c for c in checks.check_entry(bench, entry)}
    assert found[kept[1]].ok and float(found[kept[1]].detail.split(" s,")[0]) >= 1.1
    assert len(trained) == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_the_meter_sees_processes_under_this_one():
    with checks._Meter() as meter:
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; x = bytes(300 << 20); x = bytearray(x); time.sleep(0.5)'])"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert meter.peak_mb > 250


def test_an_entry_that_is_too_slow_is_caught(bench, monkeypatch):
    slow = protocol.load("smoke").model_copy(update={"limits": protocol.Limits(seconds=1)})
    monkeypatch.setattr(protocol, "load", lambda name: slow)
    monkeypatch.setattr(checks, "_result", lambda _: time.sleep(1.1))
    with pytest.raises(Broken, match="expected at most 1 s"):
        checks._limits(subject(bench, Hyper))


# --- The protocols ----------------------------------------------------------------------------------


def test_the_protocols_of_the_checks_are_not_offered():
    assert not set(HIDDEN) & set(protocol.names())
    assert not set(data.SYNTHETIC) & set(data.NAMES)
    with pytest.raises(UserError) as error:
        protocol.load("smok")
    assert "smoke-" not in str(error.value)


@pytest.mark.parametrize("name", HIDDEN)
def test_the_protocols_of_the_checks_are_whole(name):
    loaded = protocol.load(name)
    assert loaded.name == name
    assert loaded.limits == protocol.load("smoke").limits
    population = populate(loaded, 0)  # holds data and split to their digests
    for indices in population.parts.values():
        assert population.data.y[torch.from_numpy(indices)].bincount(minlength=population.data.classes).min() >= 2


def test_what_the_protocols_of_the_checks_are_for():
    shapes = {name: data.load(protocol.load(name).dataset) for name in HIDDEN}
    assert [(d.classes, d.shape[0]) for d in shapes.values()] == [(2, 1), (100, 3), (10, 1)]
