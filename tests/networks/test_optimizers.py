"""Recipes of later protocols: AMSGrad and another factor of the step schedule, as PyTorch computes them."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmark.api import Samples
from benchmark.networks.optimizers import as_asked, asked_code
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Recipe

PLAIN = {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 4, "epochs": 3, "schedule": "constant"}


def run_of(**changes: object) -> TrainingRun:
    samples = Samples(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    return TrainingRun(
        train=samples, reference=samples, validation=samples, classes=2, recipe=Recipe(**PLAIN | changes), architecture="small_cnn",
        simple={}, seed=0, device=torch.device("cpu"),
    )  # fmt: skip


def test_a_plain_recipe_is_left_alone() -> None:
    run = run_of()
    assert as_asked(run) is run and asked_code(run.recipe) == []
    assert len(asked_code(run_of(amsgrad=True).recipe)) == 1


def test_amsgrad_is_pytorchs() -> None:
    run = as_asked(run_of(amsgrad=True))
    network = run.build()
    expected = copy.deepcopy(network).train()
    update = torch.optim.Adam(expected.parameters(), 0.01, weight_decay=5e-4, amsgrad=True, fused=True)
    order = run.generator("order")
    for _ in range(3):
        for rows in torch.randperm(8, generator=order).split(4):
            update.zero_grad()
            torch.nn.functional.cross_entropy(expected(run.train.x[rows]), run.train.y[rows]).backward()
            update.step()
    run.fit(network)
    plain = run_of().fit(run_of().build())
    for one, two, other in zip(network.parameters(), expected.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, other)


def test_an_optimizer_of_a_defenses_own_is_amsgrad_by_its_schedule() -> None:
    run = as_asked(run_of(amsgrad=True))
    network = run.build()
    adam, sgd = torch.optim.Adam(network.parameters(), 0.01), torch.optim.SGD(network.parameters(), 0.01)
    for each in (adam, sgd):
        run.schedule(each)
    assert adam.param_groups[0]["amsgrad"] and "amsgrad" not in sgd.param_groups[0]
    plain = torch.optim.Adam(network.parameters(), 0.01)
    as_asked(run_of(schedule="step", milestones=(1,), gamma=0.5)).schedule(plain)
    assert not plain.param_groups[0]["amsgrad"]


@pytest.mark.parametrize(("gamma", "rates"), [(0.5, [0.1, 0.05, 0.05, 0.025]), (0.1, [0.1, 0.01, 0.01, 0.001])])
def test_gamma_multiplies_the_learning_rate(gamma: float, rates: list[float]) -> None:
    step = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "step", "milestones": (1, 3), "epochs": 4}
    run = as_asked(run_of(gamma=gamma, **step))
    update = torch.optim.SGD(run.build().parameters(), 0.1)
    schedule, found = run.schedule(update), []
    for _ in range(4):
        found.append(update.param_groups[0]["lr"])
        update.step()
        schedule.step()
    assert found == pytest.approx(rates)
