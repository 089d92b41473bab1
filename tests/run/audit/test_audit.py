"""Audits of answers: a published target's as the judge scores it, of models that never saw the members, and of ones that look them up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.entries.registry import Registry
from benchmark.errors import UserError
from benchmark.judge.kinds import scenario
from benchmark.run.audit import chance, gate, question
from benchmark.run.audit.attacks import Bench, Table, image_of, pool
from benchmark.run.audit.predicted import EXPOSED, Line, _verdict, audit
from benchmark.run.audit.predictions import predictions
from benchmark.run.audit.report import Audit, WorstCase
from tests.conftest import ROOT, SUBMISSIONS, artifacts_in
from tests.run.audit.worlds import logits, registry, world

WHEN = "2026-01-01T00:00:00Z"


def audited(given: object, seed: int = 0) -> Audit:
    return audit(given, registry(), when=WHEN, seed=seed)[0]  # type: ignore[arg-type]


def test_a_target_has_the_judges_auc_of_the_loss_attack(smoke_store: Path, tmp_path: Path) -> None:
    """To the last digit: the target's answers to its candidates are all that both see."""
    shutil.copytree(smoke_store, tmp_path / "store")
    artifacts = artifacts_in(tmp_path / "store")
    found = scenario(artifacts, registry().attack("loss"), registry().chain("undefended", "undefended"), 0)
    judged = found.score()
    found._face(0)
    _, candidates, _ = found.fitted()  # type: ignore[attr-defined]
    answers = found.target.log_posteriors(candidates.x).numpy()
    members = found.population.members_of("target", 0)[found.population.scored("posterior")]
    given = predictions(answers, candidates.y.numpy(), members, form="log-probabilities")
    loss = next(a for a in audited(given).attacks if a.name == "loss")
    assert loss.metrics["auc"].value == judged.metrics["auc"], "smoke has one target"
    assert loss.metrics["auc"].value != 0.5


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 120 audits
def test_chance_passes_and_a_lookup_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 models that never saw their members 95 pass the null gate, at least; of 20 that look them up none does."""
    monkeypatch.setattr(chance, "DRAWS", (199, 99))  # the level is kept with any number of draws
    states = [audited(world(seed), seed).verdict.state for seed in range(100)]
    assert states.count("chance") >= 95 and states.count("leaks") <= 3, states
    for seed in range(20):
        verdict = audited(world(seed, lookup=True), seed).verdict
        assert verdict.state != "chance" and verdict.p <= 0.01


def test_a_leak_is_found_measured_and_told() -> None:
    given = world(1, n=1000, k=4, leak=1.0)
    report, exposed = audit(given, registry(), when=WHEN, lines={"js_entropy": Line("nn_sorted", 0.4, 0.5, 0.03, 80)})
    assert report.verdict.state == "leaks" and report.verdict.p == 0.001
    case = report.worst["tpr_at_fpr_0.01"]
    assert f"the attack {case.attack} finds {case.value:.1%} of the members" in report.verdict.sentence
    assert case.null < case.value and case.low < case.value < case.high
    assert {a.name for a in report.attacks if a.learns} == {a.name for a in report.attacks} - {"loss", "metric_corr"}
    assert not any(a.calibrated for a in report.attacks)
    assert all(a.members == (750 if a.learns else 1000) for a in report.attacks)
    assert (
        0 < len(exposed.rows) <= EXPOSED and given.members[exposed.rows].all() and (np.diff(exposed.scores) <= 0).all()
    )
    (risk,) = report.risks
    assert risk.predicted == 0.4 * risk.distance + 0.5 and risk.distance > risk.null
    assert [g.auc for g in report.groups] == sorted((g.auc for g in report.groups), reverse=True) and len(
        report.groups
    ) == 4
    half, tenth, _ = report.precision
    assert half.value == pytest.approx(case.value / (case.value + 0.01)) and tenth.value < half.value


def case(value: float, null: float, p: float) -> WorstCase:
    return WorstCase(value=value, low=value - 0.01, high=value + 0.01, null=null, p=p, attack="loss", reversed=False)


@pytest.mark.parametrize(
    ("cases", "p", "outside", "said"),
    [
        ({"tpr_at_fpr_0.01": case(0.05, 0.02, 0.001), "auc": case(0.6, 0.53, 0.001)}, 0.001, 1000, "the attack loss finds 5.0% of the members at 1 % false alarms (95 %: 4.0% to 6.0%); by chance alone at most 2.0%."),
        ({"tpr_at_fpr_0.01": case(0.05, 0.02, 0.001), "auc": case(0.6, 0.53, 0.001)}, 0.001, 900, "the attack loss reaches an AUC of 0.600 (95 %: 0.590 to 0.610); by chance alone at most 0.530."),
        ({"tpr_at_fpr_0.01": case(0.015, 0.02, 0.1), "auc": case(0.52, 0.51, 0.012)}, 0.009, 1000, "the attack loss reaches an AUC of 0.520 (95 %: 0.510 to 0.530); by chance alone at most 0.510."),
        ({"tpr_at_fpr_0.01": case(0.015, 0.02, 0.1), "auc": case(0.52, 0.525, 0.012)}, 0.009, 1000, "(95 %: 0.510 to 0.530); over all metrics together chance goes as far in 0.9% of audits."),
        ({"tpr_at_fpr_0.01": case(0.03, 0.02, 0.001), "auc": case(0.52, 0.525, 0.3)}, 0.02, 1000, "the strongest reaches an AUC of 0.520 (95 %: 0.510 to 0.530); by chance alone at most 0.525."),
        ({"tpr_at_fpr_0.01": case(0.03, 0.02, 0.008), "auc": case(0.53, 0.525, 0.009)}, 0.02, 1000, "over all metrics together chance goes as far in 2.0% of audits."),
        ({"tpr_at_fpr_0.001": case(0.0123, 0.002, 0.002), "auc": case(0.5, 0.51, 0.8)}, 0.002, 10_000, "finds 1.23% of the members at 0.1 % false alarms (95 %: 0.23% to 2.23%); by chance alone at most 0.20%."),
    ],
)  # fmt: skip
def test_the_sentence_never_contradicts_itself(cases: dict[str, WorstCase], p: float, outside: int, said: str) -> None:
    verdict = _verdict(cases, p, [], [], outside)
    assert verdict.state == ("leaks" if p <= 0.01 else "chance") and verdict.sentence.endswith(said)


def test_the_same_answers_and_seed_give_the_same_audit_and_the_schema_holds() -> None:
    given = world(2, n=80)
    first, again, other = (audited(given, seed) for seed in (0, 0, 1))
    assert first.as_json() == again.as_json() != other.as_json()
    assert Audit.model_validate_json(first.as_json()) == first
    with pytest.raises(ValueError, match="extra"):
        Audit.model_validate(first.model_dump() | {"more": 1})


def test_threads_find_whole_modules() -> None:
    """In a process that has imported no attack yet, with threads that change places all the time."""
    code = (
        "import sys; sys.setswitchinterval(1e-6)\n"
        "from tests.run.audit.worlds import registry, world\n"
        "from benchmark.run.audit.predicted import audit\n"
        "print(len(audit(world(1, n=30), registry(), when='')[0].attacks))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "9\n", done.stderr


def test_the_order_of_the_records_says_nothing() -> None:
    """Scores of an attack that learns nothing are those of the records, wherever they stand."""
    given = world(3)
    turned = replace(
        given,
        log_posteriors=given.log_posteriors[::-1].copy(),
        y=given.y[::-1].copy(),
        members=given.members[::-1].copy(),
    )
    part = registry().attack("loss")
    one, other = (Bench(g, 0).run(part).scores for g in (given, turned))
    assert (one == other[:, ::-1]).all()


def test_what_learns_is_scored_on_records_that_it_has_not_seen() -> None:
    given = world(4)
    bench = Bench(given, 0)
    for spec in ("metric_conf", "ml_doctor_partial"):
        found = bench.run(registry().attack(spec))
        assert found.fitted and not bench.known[found.rows].any() and len(found.rows) == (~bench.known).sum()
    loss = bench.run(registry().attack("loss"))
    assert len(loss.rows) == len(given) and not bench.known[loss.called].any(), (
        "nor is its threshold judged where it was set"
    )
    assert bench.known.sum() == 100 and given.members[bench.known].sum() == 50


def test_random_memberships_learn_nothing() -> None:
    """Labels that are drawn anew: an attack that saw what it is scored on would tell them apart."""
    rng, values = np.random.default_rng(5), []
    for seed in range(20):
        given = replace(world(6, n=150), members=rng.permutation(300) < 150)
        found = Bench(given, seed).run(registry().attack("ml_doctor_partial"))
        members = given.members[found.rows]
        values.append(np.mean([(row[members][:, None] > row[~members]).mean() for row in found.scores]))
    assert abs(np.mean(values) - 0.5) < 0.03  # 3.5 standard errors of 20 AUCs on 113 + 113


def test_reference_models_calibrate() -> None:
    """Records differ in how hard they are; reference models know that, and find more."""
    rng = np.random.default_rng(7)
    n, k = 1000, 4
    y, members = rng.integers(0, k, 2 * n), np.arange(2 * n) < n
    easy = logits(rng, y, k) * 3
    ours = easy + 0.3 * rng.normal(size=easy.shape)
    ours[members, y[members]] += 1
    inside = rng.random((8, 2 * n)) < 0.5
    theirs = easy + 0.3 * rng.normal(size=(8, *easy.shape))
    base = {"form": "logits", "references": theirs}
    offline = audited(predictions(ours, y, members, **base))  # type: ignore[arg-type]
    names = {a.name for a in offline.attacks if a.calibrated}
    assert names == {"calibrated_loss", "lira_offline", "rmia_offline"}
    assert offline.worst["auc"].attack in names
    loss = next(a for a in offline.attacks if a.name == "loss").metrics["auc"]
    assert offline.worst["auc"].low > loss.high + 0.1
    theirs[:, np.arange(2 * n), y] += inside
    online, left = pool(registry(), predictions(ours, y, members, **base, reference_members=inside))  # type: ignore[arg-type]
    assert {p.name for p in online} >= {"lira", "rmia"} and "lira_offline" in {x.name for x in left}
    everyone = predictions(ours, y, members, **base, reference_members=np.ones_like(inside))  # type: ignore[arg-type]
    assert "lira" in {x.name for x in pool(registry(), everyone)[1]}


def test_every_attack_runs_or_has_its_reason() -> None:
    report = audited(world(8, n=60))
    known = {
        e.id
        for (kind, _), e in registry().entries.items()
        if kind == "attack" and e.task == "membership" and e.card and not e.card.null
    }
    told = {name.partition("[")[0] for name in (*(a.name for a in report.attacks), *(x.name for x in report.left))}
    assert told == known and all(x.reason for x in report.left)


def test_a_changed_attack_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SUBMISSIONS / "attacks", tmp_path / "attacks")
    with (tmp_path / "attacks" / "loss.py").open("a") as file:
        file.write("# mine\n")
    with pytest.raises(
        UserError, match=r"loss\.py: expected the attack as it comes with Leakboard, given a changed one"
    ):
        pool(Registry(tmp_path), world(9, n=60))


@pytest.mark.parametrize(
    "x", [image_of(torch.tensor([99])), image_of(torch.tensor([3])) + 1 / 255, torch.zeros(1, 1, 2, 2)]
)
def test_a_table_answers_for_its_records_alone(x: torch.Tensor) -> None:
    table = Table(torch.eye(9, dtype=torch.float64))
    assert table.labels(image_of(torch.tensor([3, 5]))).tolist() == [3, 5]
    with pytest.raises(PermissionError, match="records alone"):
        table.log_posteriors(x)


def test_every_number_of_a_record_is_exact() -> None:
    rows = torch.tensor([0, 1, 2**24 - 2, 2**24 - 1])
    assert ((image_of(rows).flatten().double() * 2**24) == rows).all()


# --- Checks of the question -------------------------------------------------------------------------


def checks(given: object) -> dict[str, question.Check]:
    return {c.name: c for c in question.checks(given, 0, 0.01)}  # type: ignore[arg-type]


def test_the_same_records_on_both_sides_make_the_verdict_unclear() -> None:
    """In another order and format as well: a mistake in a script must not let a model pass."""
    one = world(3, n=400)
    half = np.flatnonzero(one.members)
    order = np.random.default_rng(0).permutation(len(half))
    answers = np.concatenate([one.log_posteriors[half], one.log_posteriors[half][order]])
    given = predictions(answers, np.r_[one.y[half], one.y[half][order]], np.arange(800) < 400, form="log-probabilities")
    report = audited(given)
    assert (
        report.verdict.state == "unclear" and "members and non-members are the same records" in report.verdict.sentence
    )
    assert gate.decide(report, gate.condition("auc > 0.9")).outcome == "cannot tell"


def test_a_shift_of_labels_or_subgroups_makes_the_verdict_unclear() -> None:
    rng = np.random.default_rng(10)
    given = world(10)
    sites = np.where(given.members & (rng.random(400) < 0.5), "Bonn", "Kiel")
    found = checks(replace(given, groups={"site": sites}))["Labels and subgroups without the model"]
    assert found.state == "broken" and "AUC 0.7" in found.found
    report = audited(replace(given, groups={"site": sites}))
    assert report.verdict.state == "unclear" and "Draw both sides from one pool" in report.verdict.more
    y = np.where(given.members, given.y, given.y // 2)
    assert checks(replace(given, y=y))["Labels and subgroups without the model"].state == "broken"
    empty = checks(replace(given, y=np.where(given.members, given.y % 4, given.y)))["Class balance"]
    assert empty.state == "warning" and "1 of 5 classes lack members or non-members" in empty.effect


def test_a_shift_of_the_inputs_is_seen() -> None:
    rng = np.random.default_rng(11)
    given = world(11)
    x = rng.normal(size=(400, 3, 4))
    name = "Inputs without the model"
    assert checks(given)[name].state == "not checked"
    assert checks(replace(given, inputs=x.reshape(400, -1)))[name].state == "ok"
    x[given.members, 0, 2] += 1.5
    assert checks(replace(given, inputs=x.reshape(400, -1)))[name].state == "broken"


def test_no_shift_is_seen_where_there_is_none() -> None:
    """At 1 %: of 60 worlds one or two, not five."""
    rng = np.random.default_rng(12)
    seen = 0
    for seed in range(60):
        given = replace(world(100 + seed, n=100), groups={"site": rng.choice(["a", "b", "c"], 200)})
        seen += question._blind("x", question._by_shares, given, seed, 0.01).state == "broken"
    assert seen <= 4


def test_duplicates_sizes_and_digits_are_told() -> None:
    given = world(13)
    same = given.log_posteriors.copy()
    inside, outside = (np.flatnonzero(given.members == side)[:40] for side in (True, False))
    y = given.y.copy()
    same[inside], y[inside] = same[outside], y[outside]
    found = checks(replace(given, log_posteriors=same, y=y))["Equal answers on both sides"]
    assert found.state == "warning" and found.found.startswith("40 members have the answer")
    size = checks(given)["Enough records for low rates"]
    assert (
        size.state == "warning"
        and "TPR at 0.1 % FPR cannot be measured" in size.effect
        and "TPR at 1 % FPR is rough" in size.effect
    )
    certain = predictions(np.eye(5)[given.y], given.y, given.members, form="probabilities")
    report = audited(certain)
    assert next(c for c in report.checks if c.name == "Digits of the answers").state == "warning"
    assert next(c for c in report.checks if c.name == "Equal answers on both sides").state == "ok", (
        "a certain answer is no duplicate"
    )
    assert report.verdict.state == "chance" and report.worst["auc"].value == 0.5
