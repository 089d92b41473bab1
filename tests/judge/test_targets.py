"""Every network of the population is a target: fitted once, met by a fresh copy each, with guards of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmark import protocol
from benchmark.data.population import seed_of
from benchmark.entries.registry import Registry
from benchmark.judge import kinds
from benchmark.judge.scenario import Measurements
from benchmark.judge.utility import asked_targets, utility
from benchmark.metrics import BY_TARGET
from benchmark.protocol import Protocol
from benchmark.run.plan import AnswersJob, make_plan
from benchmark.sandbox.host import Launcher
from benchmark.sandbox.remote import Isolation
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store
from tests.conftest import SUBMISSIONS, artifacts_in

SMOKE = protocol.load("smoke")


def changed(**axes: Any) -> Protocol:
    return Protocol.model_validate(SMOKE.model_dump() | axes)


FOUR = changed(targets=4, costly={"targets": 2, "defenses": ["memguard"], "attacks": ["metric_corr"]})
ATTACK = """
import torch
from benchmark.api import Attack, Card, Hyper

class Mine(Attack):
    card = Card(title="Mine", authors=("nobody",), reference="none", year=None)
    access = "posterior"
    needs = frozenset({needs})
    calibrate = "none"

    def fit(self, knowledge):
        {fit}

    def score(self, target, candidates, references):
        {score}
"""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return artifacts_in(tmp_path_factory.mktemp("four"), FOUR)


def outcome(artifacts: Artifacts, attack: str, chain: str = "undefended") -> Measurements:
    return kinds.scenario(artifacts, artifacts.registry.attack(attack), artifacts.chain(chain), 0).score()


@pytest.fixture(params=["never", "always"])
def own(request: pytest.FixtureRequest, four: Artifacts, tmp_path: Path, launcher: Launcher) -> Any:
    """Scores an attack of the tests on four targets, in this process and in a sandbox."""
    (tmp_path / "attacks").mkdir()
    isolation = Isolation(request.param, launcher, FOUR.limits)

    def run(needs: str = "", fit: str = "pass", score: str = "pass", chain: str = "undefended") -> Measurements:
        text = ATTACK.replace("{needs}", "{" + needs + "}" if needs else "()")
        (tmp_path / "attacks" / "mine.py").write_text(text.replace("{fit}", fit).replace("{score}", score))
        registry = Registry(tmp_path, SUBMISSIONS)
        artifacts = Artifacts(FOUR, registry, Store(four.store.root), torch.device("cpu"), isolation)
        return outcome(artifacts, "mine", chain)

    yield run
    isolation.close()


def test_what_is_blind_to_membership_has_exactly_chance_over_each_pair(four: Artifacts) -> None:
    """Both targets of a pair have the same candidates, each a member of one of them."""
    aucs = outcome(four, "random_scores").values["auc"]  # type: ignore[index]
    assert len(aucs) == 4 and aucs[0] != pytest.approx(0.5, abs=1e-6)
    assert aucs[0] + aucs[1] == pytest.approx(1, abs=1e-12) and aucs[2] + aucs[3] == pytest.approx(1, abs=1e-12)


def test_metrics_are_means_over_targets_and_the_first_is_what_one_target_gives(four: Artifacts, tmp_path: Path) -> None:
    one = outcome(artifacts_in(tmp_path, SMOKE), "loss")
    many = outcome(four, "loss")
    assert many.values is not None and set(many.values) - {"class_auc"} <= set(BY_TARGET)
    assert many.values["auc"][0] == one.metrics["auc"]
    for name in many.values:
        assert many.metrics[name] == pytest.approx(np.mean(many.values[name]))
    assert not set(one.values or ()) & set(BY_TARGET) and many.metrics["members"] <= one.metrics["members"], (
        "the least of the targets"
    )
    assert many.cost["queries"] == one.cost["queries"], "of one target"


def test_every_target_is_told_of_as_many_references_and_never_of_its_pair(four: Artifacts) -> None:
    population, chain = four.population(0), four.chain("undefended")
    assert four.population_models(chain.training) == [0, 1, 2, 3, 4, 5]
    for k in range(4):
        ids = four.reference_ids(chain, 0, "online", k)
        assert [number for _, number in ids] == [j for j in range(6) if j // 2 != k // 2]
        members = four.references(chain, 0, "online", k).members.numpy()
        assert np.array_equal(members, np.stack([population.members_of("target", j) for _, j in ids]))


def test_lira_and_white_boxes_meet_every_target(four: Artifacts) -> None:
    for attack in ("lira", "grad_norm", "ml_doctor_partial", "lira_offline"):
        values = outcome(four, attack).values
        assert values is not None and len(values["auc"]) == 4 and len(set(values["auc"])) > 1, attack


def test_what_is_costly_meets_fewer_targets(four: Artifacts) -> None:
    assert len(outcome(four, "loss", "memguard").values["auc"]) == 2  # type: ignore[index]
    assert len(outcome(four, "metric_corr").values["auc"]) == 2  # type: ignore[index]


def test_guards_that_an_attack_does_not_meet_make_it_no_dearer(four: Artifacts) -> None:
    """MemGuard keeps labels: who asks for labels alone has the numbers of the chain without it, on as many targets."""
    behind, plain = (outcome(four, "label_only_noise", chain) for chain in ("memguard", "undefended"))
    assert behind.values == plain.values and len(plain.values["auc"]) == 4  # type: ignore[index]


def test_an_attack_that_remembers_scores_the_last_target_as_the_first(own: Any) -> None:
    """Whatever it keeps, it keeps for one target: a bank of its own would be reference models that it did not declare."""
    remembers = (
        "met = self.__dict__.setdefault('met', []); met.append(1); "
        "assert len(met) == 1; return target.log_posteriors(candidates.x)[:, 0]"
    )
    assert len(own(score=remembers).values["auc"]) == 4


@pytest.mark.parametrize(
    "kept",
    [
        "self.kept = knowledge",
        "self.kept = (i for i in 'abc')",
        "self.kept = lambda x: x; self.g = knowledge.generator('a')",
    ],
    ids=["knowledge", "a generator", "functions"],
)
def test_what_can_not_be_copied_is_fitted_again(own: Any, kept: str) -> None:
    """With the same numbers: fitting draws from the scenario's seed."""
    fit = f"{kept}; self.w = torch.rand(10, generator=knowledge.generator('w'), dtype=torch.float64)"
    score = "return target.log_posteriors(candidates.x) @ self.w"
    found = own(needs="'shadow'", fit=fit, score=score)
    plain = own(needs="'shadow'", fit=fit.split("; ", 1)[1].rpartition("; ")[2], score=score)
    assert found.metrics == plain.metrics and len(found.values["auc"]) == 4


def test_an_attack_is_fitted_once_but_for_what_each_target_has_of_its_own(own: Any, tmp_path: Path) -> None:
    """Its copies score by what was fitted, and ask the shadow target that it was handed."""
    fit = "self.fitted = getattr(self, 'fitted', 0) + 1; self.shadow = knowledge.shadow"
    score = (
        "s = self.shadow; assert self.fitted == 1; "
        "a = s.target.log_posteriors(s.members.x).mean(); return target.log_posteriors(candidates.x)[:, 0] - a"
    )
    assert len(own(needs="'shadow'", fit=fit, score=score).values["auc"]) == 4


def test_every_target_is_scored_by_as_many_attack_seeds(own: Any) -> None:
    score = "p = target.log_posteriors(candidates.x); return p[:, :1].T.repeat(1 + int(-p[0, 0] * 1e6) % 97, 1)"
    with pytest.raises(ValueError, match="expected as many attack seeds for every target"):
        own(score=score)


def test_who_holds_the_targets_guards_learns_from_models_behind_those_of_each(
    four: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[float] = []

    class Recorder:
        def fit(self, knowledge: Any) -> None:
            fitted.append(float(knowledge.shadow.target.log_posteriors(knowledge.shadow.members.x).sum()))

        def freeze(self) -> Any:
            return lambda: self

        def answer(self, target: Any, candidates: Any, references: Any) -> torch.Tensor:
            return candidates.id.double()

        def close(self) -> None:
            pass

    monkeypatch.setattr(type(four), "attacker", lambda *_: Recorder())
    for attack, times in (("nn_sorted", 1), ("nn_sorted[guards=target]", 2)):
        fitted.clear()
        outcome(four, attack, "memguard")
        assert len(fitted) == times == len(set(fitted)), attack


def test_partial_knowledge_is_of_the_target_that_is_attacked(four: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Recorder:
        def fit(self, knowledge: Any) -> None:
            self.partial = knowledge.partial

        def freeze(self) -> Any:
            return lambda: self

        def answer(self, target: Any, candidates: Any, references: Any) -> torch.Tensor:
            seen.append((target, self.partial))
            return candidates.id.double()

        def close(self) -> None:
            pass

    monkeypatch.setattr(type(four), "attacker", lambda *_: Recorder())
    outcome(four, "ml_doctor_partial")
    population = four.population(0)
    targets = [(t, p) for t, p in seen if t is p.target]
    assert len({id(t) for t, _ in targets}) == 4
    for k, (_, partial) in enumerate(targets):
        members = population.samples(population.indices("target", k)).x
        inside = [any(torch.equal(x, m) for m in members) for x in partial.members.x]
        outside = [any(torch.equal(x, m) for m in members) for x in partial.nonmembers.x]
        assert all(inside) and not any(outside) and len(inside) == len(outside) > 0


def test_targets_stand_behind_guards_of_their_own_and_references_behind_the_adversarys(four: Artifacts) -> None:
    chain = four.chain("memguard")
    targets = [four.served(chain, 0, "target", k) for k in range(4)]
    assert len({t.guards[0].key for t in targets}) == 4 and len({t.owner for t in targets}) == 4
    shadow = four.served(chain, 0, "shadow")
    for k in range(4):
        reference = four.served(chain, 0, "online", k)
        assert reference.network is targets[k].network, "one network in two roles"
        assert reference.guards == shadow.guards and reference.owner == "shadow"
    keys = {four.noise_key(0, t.owner) for t in (*targets, shadow)}
    assert len(keys) == 5
    adaptive = four.registry.attack("lira[guards=target]")
    for k in range(4):
        assert four.served(chain.facing(adaptive, k), 0, "online", 5).guards == targets[k].guards


def test_a_guard_of_one_target_is_prepared_on_its_members(four: Artifacts) -> None:
    states = [four.served(four.chain("memguard"), 0, "target", k).guards[0].state() for k in range(2)]
    assert any(not torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


@pytest.mark.parametrize(
    ("attack", "chain"),
    [
        ("loss", "undefended"), ("lira", "undefended"), ("grad_norm", "undefended"),
        ("loss", "memguard"), ("lira", "memguard"), ("nn_sorted[epochs=5,guards=target]", "memguard"),
        ("", "undefended"), ("", "temperature"),
    ],
)  # fmt: skip
def test_all_that_a_scenario_reads_was_made_by_the_jobs_that_it_waits_for(
    four: Artifacts, attack: str, chain: str, tmp_path: Path
) -> None:
    """Without an attack: what utility reads."""
    artifacts = artifacts_in(tmp_path, FOUR)
    part = artifacts.registry.attack(attack) if attack else None
    plan = make_plan(artifacts, [part] if part else [], [artifacts.chain(chain)], [0])
    scenario = next(
        job for job in plan.jobs.values() if job.kind == "scenario" and job.attack == (part.name if part else "")
    )
    done: set[str] = set()

    def wait_for(ids: frozenset[str]) -> None:
        for id in ids - done:
            done.add(id)
            wait_for(plan.jobs[id].needs)
            plan.jobs[id].make(artifacts)

    wait_for(scenario.needs)
    artifacts.store.made.clear()
    if part:
        kinds.scenario(artifacts, part, artifacts.chain(chain), 0).score()
    else:
        utility(artifacts, artifacts.chain(chain), 0)
    assert not artifacts.store.made


def test_sensitivity_is_the_rise_of_confidence_with_a_sample_in_training(four: Artifacts) -> None:
    """By a loop over samples, pairs of pairs, and the stored answers."""
    found = utility(four, four.chain("undefended"), 0).metrics["sensitivity"]
    population, rises = four.population(0), []
    trained = [set(population.indices("target", k).tolist()) for k in range(4)]
    models = [four.served(four.chain("undefended"), 0, "target", k) for k in range(4)]
    for part in ("target-train", "target-test"):
        for i, row in enumerate(population.rows(part).tolist()):
            p = [float(m.answers(part)[i, population.data.y[row]].exp()) for m in models]
            each = [(p[k] - p[k + 1]) * (1 if row in trained[k] else -1) for k in (0, 2)]
            rises.append(each[0] * each[1])
    assert found == pytest.approx(np.sqrt(max(0, np.mean(rises))))


@pytest.mark.parametrize("axes", [{"targets": 2}, {"canaries": {"count": 20}, "targets": 5}], ids=str)
def test_without_two_pairs_no_sensitivity_is_measured(axes: dict[str, Any], tmp_path: Path) -> None:
    artifacts = artifacts_in(tmp_path, changed(**axes, recipe=SMOKE.recipe.model_dump() | {"ensemble": 1}))
    assert asked_targets(artifacts, artifacts.chain("undefended")) == range(1)
    plan = make_plan(artifacts, [], [artifacts.chain("undefended")], [0])
    assert [j.models for j in plan.jobs.values() if isinstance(j, AnswersJob)] == [(("target", 0),)]


def test_a_defense_that_is_costly_has_no_sensitivity(four: Artifacts) -> None:
    assert len(asked_targets(four, four.chain("undefended"))) == 4
    assert asked_targets(four, four.chain("memguard")) == range(1)


def test_answers_are_jobs_by_target_and_shared_by_attacks(four: Artifacts, tmp_path: Path) -> None:
    artifacts = artifacts_in(tmp_path, FOUR)
    attacks = [artifacts.registry.attack(name) for name in ("loss", "metric_ment", "lira", "rmia")]
    plan = make_plan(artifacts, attacks, [artifacts.chain("undefended")], [0])
    jobs = [job for job in plan.jobs.values() if isinstance(job, AnswersJob)]
    assert sorted(job.models for job in jobs if job.models[0][0] == "target") == [(("target", k),) for k in range(4)]
    assert [job.models for job in jobs if job.models[0][0] == "online"] == [tuple(("online", k) for k in range(6))]


def test_streams_of_networks_are_their_own(four: Artifacts) -> None:
    population = four.population(0)
    seeds = [seed_of("network", "digits", 0, *population.stream("target", k)) for k in range(40)]
    assert len(set(seeds)) == 40


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"targets": 3}, r"targets: expected 1, or complete pairs of the 6 networks of the population, given 3"),
        ({"targets": 8}, r"targets: expected 1, or complete pairs of the 6 networks of the population, given 8"),
        ({"targets": 4, "costly": {"targets": 3}}, r"costly.targets: expected 1, or complete pairs"),
        (
            {"targets": 2, "costly": {"references": {"online": 2, "offline": 2}, "defenses": ["dp_sgd"]}},
            r"costly.references: expected none where several",
        ),
    ],
)
def test_targets_are_complete_pairs(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(**axes)


def test_one_target_leaves_the_digest_of_a_protocol_alone() -> None:
    assert changed(targets=1).measures == SMOKE.measures != changed(targets=2).measures
