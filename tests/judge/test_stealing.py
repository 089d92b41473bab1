"""What the judge gives a stealing attack, by what it needs; answers are stored for the copies to come; other networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import networks, protocol
from benchmark.entries.registry import Chain, Part
from benchmark.judge import kinds
from benchmark.judge.scenario import Measurements, asked_parts
from benchmark.networks.access import raw
from benchmark.run.plan import AnswersJob, make_plan
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.served import ServedModel
from tests.conftest import artifacts_in

SMOKE = protocol.load("smoke")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return artifacts_in(tmp_path_factory.mktemp("smoke"), SMOKE)


def outcome(artifacts: Artifacts, attack: str, chain: str = "undefended") -> Measurements:
    try:
        return kinds.scenario(artifacts, artifacts.registry.attack(attack), artifacts.chain(chain), 0).score()
    finally:
        artifacts.end_job()


class Thief:
    """Stands for an attack; keeps what it is given, and hands in what `steal` makes of it."""

    def __init__(self, steal: Callable[..., nn.Module]) -> None:
        self.steal = steal

    def fit(self, knowledge: Any) -> None:
        self.knowledge = knowledge

    def answer(self, target: Any, queries: Any, build: Any) -> Any:
        self.target, self.queries, self.build = target, queries, build
        return raw(self.steal(target, queries, build), CPU)

    def close(self) -> None:
        """Nothing to end."""


def robbed(
    artifacts: Artifacts, attack: str, monkeypatch: pytest.MonkeyPatch, steal: Any = None
) -> tuple[Thief, Measurements]:
    thief = Thief(steal or (lambda target, queries, build: build().eval()))
    monkeypatch.setattr(artifacts, "attacker", lambda part, seed: thief)
    return thief, outcome(artifacts, attack)


# --- What it is given -------------------------------------------------------------------------------


def test_queries_are_what_the_attack_knows_and_nothing_of_what_it_is_scored_on(
    smoke: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = smoke.population(0)
    test = population.part("target-test").x
    parts = {
        "steal_posteriors": population.parts["shadow-train"], "steal_partial": population.known(0)[0],
        "steal_no_data": np.zeros(0, np.int64),
    }  # fmt: skip
    assert set(parts["steal_partial"]) <= set(population.parts["target-train"])
    for attack, rows in parts.items():
        thief, _ = robbed(smoke, attack, monkeypatch)
        assert torch.equal(thief.queries.x, population.samples(rows).x)
        assert thief.knowledge.partial is None and thief.knowledge.shadow is None
        assert not any(torch.equal(x, t) for x in thief.queries.x for t in test)
        with pytest.raises(PermissionError, match="answers no more"):
            thief.target.labels(test)


def test_a_copy_is_counted_where_the_target_errs(smoke: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's own network, and one that has every label right."""
    population, model = smoke.population(0), smoke.served(smoke.chain("undefended"), 0)
    test = population.part("target-test")

    class Right(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = [int((test.x == image).flatten(1).all(1).nonzero()) for image in x]
            return nn.functional.one_hot(test.y[rows], 10).float()

    _, same = robbed(smoke, "steal_posteriors", monkeypatch, lambda *_: model.network.judge_copy())
    _, right = robbed(smoke, "steal_posteriors", monkeypatch, lambda *_: Right())
    accuracy = float((model.answers("target-test").argmax(1) == test.y).double().mean())
    assert (same.metrics["agreement"], same.metrics["agreement_on_errors"]) == (1, 1)
    assert same.metrics["stolen_accuracy"] == pytest.approx(accuracy)
    assert (right.metrics["stolen_accuracy"], right.metrics["agreement_on_errors"]) == (1, 0)
    assert right.metrics["agreement"] == pytest.approx(accuracy) and 0 < accuracy < 1


def test_copies_may_be_other_networks(smoke: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    thief, _ = robbed(smoke, "steal_posteriors", monkeypatch)
    own, again, other = thief.build(), thief.build(None), thief.build("simple_cnn")
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), again.parameters(), strict=True))
    assert [p.shape for p in own.parameters()] == [
        p.shape for p in networks.build("small_cnn", 10, (1, 8, 8), 0).parameters()
    ]
    assert [p.shape for p in other.parameters()] == [
        p.shape for p in networks.build("simple_cnn", 10, (1, 8, 8), 0).parameters()
    ]
    with pytest.raises(ValueError, match="unknown architecture 'smal_cnn'"):
        thief.build("smal_cnn")


# --- Answers are made once --------------------------------------------------------------------------


def test_a_target_is_asked_about_an_image_once_for_all_copies(
    smoke: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = "epochs=1,queries=60"
    first = [outcome(smoke, f"{name}[{fast}]") for name in ("steal_posteriors", "steal_no_data")]

    def asked(self: ServedModel, **_: Any) -> Any:
        raise AssertionError("the target is asked again")

    monkeypatch.setattr(ServedModel, "predictor", asked)
    for name, params in (
        ("steal_posteriors", "loss=kl"), ("steal_posteriors", "architecture=simple_cnn"), ("steal_no_data", "loss=mse"),
        ("steal_no_data", "architecture=simple_cnn"),
    ):  # fmt: skip
        assert outcome(smoke, f"{name}[{fast},{params}]").cost["queries"] == 60
    assert [m.cost["queries"] for m in first] == [60, 60], "as many as it asks, stored or not"


def test_single_images_fill_no_store(smoke: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(target: Any, queries: Any, build: Any) -> Any:
        for seed in range(5):
            target.labels(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
        return build().eval()

    def files() -> int:
        return sum(path.is_file() for path in Path(smoke.store.root).rglob("*"))

    robbed(smoke, "steal_posteriors", monkeypatch)
    before = files()
    robbed(smoke, "steal_posteriors", monkeypatch, one_by_one)
    assert files() == before


# --- What is planned --------------------------------------------------------------------------------


def planned(artifacts: Artifacts, attack: str) -> set[str]:
    plan = make_plan(artifacts, [artifacts.registry.attack(attack)], [artifacts.chain("undefended")], [0])
    scenario = next(job for job in plan.jobs.values() if job.attack)
    return {
        part
        for job in plan.jobs.values()
        if isinstance(job, AnswersJob) and job.id in scenario.needs
        for part in job.parts
    }


@pytest.mark.parametrize(
    ("attack", "shadow"),
    [
        ("steal_posteriors", True), ("steal_labels", True), ("steal_partial", False), ("steal_no_data", False),
        ("steal_null", False), ("attribute_posteriors", True), ("attribute_labels", True), ("attribute_mlp", False),
        ("attribute_partial", False), ("attribute_null", False), ("loss", False), ("fredrikson", False),
    ],
)  # fmt: skip
def test_shadow_images_are_asked_about_where_an_attack_needs_them(tmp_path: Path, attack: str, shadow: bool) -> None:
    artifacts = artifacts_in(tmp_path, SMOKE)
    asked = {"target-train", "target-test"} | ({"shadow-train"} if shadow else set())
    assert planned(artifacts, attack) - ({"shadow-train", "shadow-test"} if attack == "loss" else set()) == asked


def test_parts_that_are_none_of_the_shadow_worlds_are_always_asked_about(smoke: Artifacts) -> None:
    part: Part = smoke.registry.attack("steal_no_data")
    chain: Chain = smoke.chain("undefended")
    assert asked_parts(("candidates", "shadow-train"), part.entry) == ("candidates",)
    assert kinds.scenario(smoke, part, chain, 0).asks == ("shadow-train",)
