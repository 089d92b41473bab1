"""Attribute inference in an audit: the judge's numbers on the judge's records, who knows what, and what is said where there is none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark import networks
from benchmark.judge.kinds import scenario
from benchmark.run.audit import images
from benchmark.run.audit.attacks import Released
from benchmark.run.audit.kinds.attribute import VALUES, Attribute, forget
from benchmark.run.audit.model import Model, load, of_module
from benchmark.sandbox.host import Launcher
from benchmark.targets.store import Store
from tests.conftest import artifacts_in
from tests.run.audit import pictures
from tests.run.audit.kinds import planned, ran
from tests.run.audit.worlds import registry


def of(
    model: Model,
    data: images.Images,
    released: Released = "posteriors",
    queries: int = 2000,
    store: Store | None = None,
) -> Attribute:
    kind = planned("attribute", model, data, released, queries, store)
    assert isinstance(kind, Attribute)
    return kind


def with_attribute(attribute: object) -> images.Images:
    return images.of_arrays(*pictures.digits(), attribute)


@pytest.fixture(scope="module")
def random() -> images.Images:
    """An attribute that nothing tells."""
    return with_attribute(np.random.default_rng(0).integers(0, 2, 2 * pictures.SIDE))


def test_a_target_of_the_judge_has_the_judges_numbers(smoke_store: Path, tmp_path: Path) -> None:
    """To the last digit, intervals and all, where both learn on the same records and guess those of the same others."""
    shutil.copytree(smoke_store, tmp_path / "store")
    artifacts = artifacts_in(tmp_path / "store")
    names = ("attribute_labels", "attribute_posteriors", "attribute_mlp", "attribute_null")
    judges = {
        n: scenario(artifacts, registry().attack(n), registry().chain("undefended", "undefended"), 0) for n in names
    }
    population = judges["attribute_null"].population
    save_file(judges["attribute_null"]._model().network.weights(), tmp_path / "exported.safetensors")
    order = np.concatenate([population.parts[p] for p in ("target-train", "shadow-train", "target-test")])
    members, known = len(population.parts["target-train"]), len(population.parts["shadow-train"])
    samples = population.samples(order)
    data = images.of_arrays(
        samples.x, samples.y, np.arange(len(order)) < members, population.data.attribute[torch.from_numpy(order)]
    )
    kind = of(load(tmp_path / "exported.safetensors", "small_cnn", 10, data.shape), data)
    vars(kind)["_rows"] = np.arange(members, members + known), np.arange(members + known, len(order))
    for name, judge in judges.items():
        judged = judge.score()
        vars(kind)["knowledge"] = lambda part, target, judge=judge, **more: replace(
            judge._knowledge(**more), partial=None
        )
        outcome = kind.measure(registry().attack(name), kind.work(registry().attack(name)))
        assert outcome.metrics == judged.metrics and outcome.intervals == judged.intervals, name
        assert outcome.queries == judged.cost["queries"], name


def test_it_learns_on_non_members_and_guesses_members(random: images.Images) -> None:
    found = ran(kind := of(of_module(pictures.trained(), 10, random.shape), random))
    known, scored = kind._rows
    assert not random.members[known].any() and random.members[scored].all()
    assert (found.known, found.scored) == (len(known), len(scored)) == (pictures.SIDE, pictures.SIDE)
    gains = {a.name: a.gain for a in found.attacks if a.gain}
    assert {*gains} == {"attribute_labels", "attribute_posteriors", "attribute_mlp"}
    assert {a.name for a in found.counting} == {"attribute_labels", "attribute_posteriors"}
    assert all(gains[n].over.startswith("attribute_null") for n in ("attribute_labels", "attribute_posteriors"))
    for attack in found.attacks:
        if attack.gain:
            null = next(a for a in found.attacks if a.name == attack.gain.over)
            difference = attack.metrics[kind.metric].value - null.metrics[kind.metric].value
            assert attack.gain.value == pytest.approx(difference)
    assert found.sentence.startswith(
        "What the model makes of a member does not tell its attribute better than a null: "
    )


def odd(x: torch.Tensor) -> torch.Tensor:
    """Whether the sum of an image's grey levels is odd, (n,): no class tells it."""
    return (x * 255).round().sum((1, 2, 3)) % 2


class Tells(nn.Module):
    """A model that is unsure of odd images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * (1 - odd(x)).unsqueeze(1) * torch.eye(10)[0]


def test_an_attribute_that_the_answers_hold_is_found() -> None:
    x = torch.from_numpy(pictures.digits()[0]).unsqueeze(1) / 255
    data = with_attribute(odd(x).long())
    found = ran(of(of_module(Tells(), 10, data.shape), data))
    best = found.counting[0]
    assert best.name == "attribute_posteriors" and best.metrics["attribute_balanced_accuracy"].value == 1
    assert best.gain is not None and best.gain.low > 0.2
    assert found.sentence.startswith(
        "What the model makes of a member tells its attribute: attribute_posteriors infers"
    )
    assert next(x.reason for x in found.left if x.name == "attribute_mlp").startswith(
        "needs the input of a last linear"
    )


def test_without_an_attribute_it_says_so() -> None:
    said = {
        "the images have no attribute": None,
        "the attribute has one value among members": np.arange(120) * (np.arange(120) >= 60) % 3,
        f"the attribute has 120 values, more than {VALUES}": np.arange(120),
    }
    for reason, attribute in said.items():
        data = with_attribute(attribute)
        found = ran(of(of_module(pictures.trained(), 10, data.shape), data))
        assert not found.attacks and found.sentence == f"Attribute inference was not measured: {reason}."


def test_every_attack_runs_or_has_its_reason(random: images.Images) -> None:
    parts, left = of(of_module(pictures.trained(), 10, random.shape), random).plan()
    known = {e.id for (k, _), e in registry().entries.items() if k == "attack" and e.task == "attribute"}
    assert {p.entry.id for p in parts} | {x.name for x in left} == known
    assert "known members" in next(x.reason for x in left if x.name == "attribute_partial")


def test_a_second_call_computes_nothing_anew(random: images.Images, tmp_path: Path) -> None:
    save_file(pictures.trained().state_dict(), tmp_path / "model.safetensors")

    def run(store: Store | None, data: images.Images = random) -> str:
        return ran(
            of(load(tmp_path / "model.safetensors", "small_cnn", 10, data.shape), data, store=store)
        ).model_dump_json()

    first, second, third = (Store(tmp_path / "store") for _ in range(3))
    assert run(first) == run(second) == run(None)
    assert len(first.made) == 7 and not second.made, "six attacks and nulls, and the answers"
    assert random.attribute is not None
    run(third, with_attribute(random.attribute[::-1].copy()))
    assert len(third.made) == 6, "of another attribute they are others"


@pytest.mark.parametrize("name", ["small_cnn", "vit"])
def test_a_network_forgets_all_that_it_learnt(name: str) -> None:
    shape = (1, 16, 16)
    one, other = networks.build(name, 10, shape, 1), networks.build(name, 10, shape, 2)
    with torch.no_grad():
        for weights in other.parameters():
            weights.mul_(3).add_(0.1 * torch.rand_like(weights))
    before = {n: p.clone() for n, p in other.named_parameters()}
    state = torch.get_rng_state()
    forget(one, 7)
    forget(other, 7)
    assert (torch.get_rng_state() == state).all()
    drawn = [n for n, m in other.named_modules() if hasattr(m, "reset_parameters")]
    for n, weights in other.named_parameters():
        if n.rpartition(".")[0] in drawn:
            assert (weights == dict(one.named_parameters())[n]).all(), n
        assert weights.numel() == 1 or (weights != before[n]).any(), n


@pytest.mark.slow
def test_a_model_in_a_sandbox_is_asked_for_answers_alone(
    random: images.Images, tmp_path: Path, launcher: Launcher
) -> None:
    pictures.own(tmp_path)
    model = load(tmp_path / "model.safetensors", str(tmp_path / "mine.py"), 10, random.shape)
    try:
        found = ran(of(model, random, "weights"))
    finally:
        model.close()
    assert {a.name for a in found.counting} == {"attribute_labels", "attribute_posteriors"}
    assert "sandbox" in next(x.reason for x in found.left if x.name == "attribute_mlp")
