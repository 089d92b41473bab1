"""Attacks that compare with reference models or a population, against slow per-sample oracles."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from benchmark.api import Candidates, References, Target, World, logit_margin
from tests.submissions.test_attacks import CLASSES, Linear, candidates, fitted, images, knowledge, references


def confidence(log_posteriors: Tensor, y: Tensor, temperature: float = 1.0) -> np.ndarray:
    """Posteriors (..., n) of the labels, by numpy's own softmax."""
    powers = np.exp(log_posteriors.numpy() / temperature)
    return np.take_along_axis(
        powers / powers.sum(-1, keepdims=True), np.broadcast_to(y.numpy()[:, None], (*powers.shape[:-1], 1)), -1
    )[..., 0]


@pytest.mark.parametrize(
    ("gamma", "temperature", "a"), [(2.0, 2.0, 0.3), (1.2, 1.0, 0.6), (1.0, 0.7, 1.0), (1.5, 3, 0)]
)
def test_offline_rmia_against_the_matrix(gamma: float, temperature: float, a: float) -> None:
    shadow, target, c, b = Linear(1, scale=3), Linear(2, scale=4), candidates(60), references(60, 12, online=False)
    world = World(shadow, images(40, 1), images(70, 2))
    attack = fitted("rmia_offline", knowledge(shadow=world), gamma=gamma, temperature=temperature, a=a)
    got = attack.score(target, c, b)

    def ratio(x: Tensor, y: Tensor, theirs: Tensor) -> np.ndarray:
        reference = ((1 + a) * confidence(theirs, y, temperature).mean(0) + (1 - a)) / 2
        return confidence(target.log_posteriors(x), y, temperature) / reference

    z = world.nonmembers
    ratio_x, ratio_z = ratio(c.x, c.y, b.log_posteriors), ratio(z.x, z.y, shadow.log_posteriors(z.x)[None])
    expected = [np.mean([rx / rz > gamma for rz in ratio_z]) for rx in ratio_x]
    assert got.tolist() == expected
    assert len(set(expected)) > 10


@pytest.mark.parametrize("temperature", [2.0, 0.7])
def test_online_rmia_ranks_as_the_matrix_does(temperature: float) -> None:
    c, b, target = candidates(60), references(60, 12), Linear(2, scale=4)
    got = fitted("rmia", temperature=temperature).score(target, c, b)
    reference = confidence(b.log_posteriors, c.y, temperature).mean(0)
    ratio = confidence(target.log_posteriors(c.x), c.y, temperature) / reference
    assert got.tolist() == pytest.approx(np.log(ratio), rel=1e-9, abs=1e-12)
    for gamma in (1.0, 2.0):
        ratio_z = np.exp(np.random.default_rng(1).normal(-math.log(gamma), 1, 2000))
        share = np.mean(ratio[:, None] / ratio_z > gamma, 1)
        assert (np.diff(share[got.argsort()]) >= 0).all() and len(set(share)) > 40


@pytest.mark.parametrize("models", [1, 2, 9])
def test_online_rmia_weighs_both_sides_alike(models: int) -> None:
    """Inclusion drawn independently, as for canaries: another share of the models for each sample, or a side without any."""
    c, b, target = candidates(60), references(60, models), Linear(2, scale=4)
    members = torch.rand(models, 60, generator=torch.Generator().manual_seed(3)) < 0.3
    got = fitted("rmia").score(target, c, References(members, b.log_posteriors))
    own, others = confidence(target.log_posteriors(c.x), c.y, 2.0), confidence(b.log_posteriors, c.y, 2.0)
    sides = set()
    for j in range(60):
        both = [others[side, j].mean() for side in (members[:, j].numpy(), ~members[:, j].numpy()) if side.any()]
        sides.add(len(both))
        assert got[j].item() == pytest.approx(math.log(own[j] / np.mean(both)), rel=1e-9, abs=1e-12)
    assert sides == ({1} if models == 1 else {1, 2})


def test_online_rmia_finds_more_canaries_than_the_mean_of_reference_models() -> None:
    """240 canaries in 16 models: a model that holds one is surer of it by 4; how many hold it says nothing."""
    g = torch.Generator().manual_seed(0)
    members, own = torch.rand(16, 240, generator=g) < 0.5, torch.rand(240, generator=g) < 0.5
    ease = torch.randn(240, generator=g, dtype=torch.float64)

    def answers(inside: Tensor) -> Tensor:
        noise = torch.randn(inside.shape, generator=g, dtype=torch.float64)
        margin = 4 * inside + ease + noise - 2
        return torch.stack([margin, torch.zeros_like(margin)], -1).log_softmax(-1)

    b, c = (
        References(members, answers(members)),
        Candidates(torch.zeros(240, 1, 1, 1), torch.zeros(240).long(), torch.arange(240)),
    )
    target = answers(own)

    class Planted(Linear):
        def log_posteriors(self, x: Tensor) -> Tensor:
            return target

    def auc(v: np.ndarray) -> float:
        return float(stats.mannwhitneyu(v[own], v[~own]).statistic) / (int(own.sum()) * int((~own).sum()))

    mean = confidence(target, c.y, 2.0) / confidence(b.log_posteriors, c.y, 2.0).mean(0)
    assert auc(fitted("rmia", temperature=2.0).score(Planted(2), c, b).numpy()) > auc(mean)


def test_rmia_is_about_the_sample_not_about_its_ease() -> None:
    """The target is as sure of the second sample as of the first, but so is every reference."""
    answers = torch.tensor([[3.0, 0, 0, 0], [3.0, 0, 0, 0]], dtype=torch.float64).log_softmax(1)
    theirs = torch.stack([torch.zeros(8, 4), torch.tensor([3.0, 0, 0, 0]).expand(8, -1)], 1).double().log_softmax(2)

    class Two(Linear):
        def log_posteriors(self, x: Tensor) -> Tensor:
            return answers if len(x) == 2 else super().log_posteriors(x)

    two = Candidates(images(2).x, torch.zeros(2).long(), torch.arange(2))
    b = References(torch.arange(8).unsqueeze(1).expand(-1, 2) % 2 == 0, theirs)
    for name in ("rmia", "rmia_offline"):
        params = {"gamma": 1.0, "a": 1.0} if name == "rmia_offline" else {}
        hard, easy = fitted(name, **params).score(Two(2, scale=4), two, b)
        assert hard > easy


def test_attack_r_against_a_loop() -> None:
    c, b, target = candidates(40), references(40, 9, online=False), Linear(2, scale=4)
    answers = b.log_posteriors.clone()
    answers[0] = target.log_posteriors(c.x)  # a reference that equals the target counts half
    got = fitted("attack_r").score(target, c, References(b.members, answers))
    own, others = confidence(target.log_posteriors(c.x), c.y), confidence(answers, c.y)
    for j in range(40):
        assert got[j].item() == pytest.approx((0.5 + sum(own[j] > v for v in others[1:, j])) / 9)
    assert len(got.unique()) > 4


def test_calibrated_loss_against_a_loop() -> None:
    c, b, target = candidates(40), references(40, 9, online=False), Linear(2, scale=4)
    got = fitted("calibrated_loss").score(target, c, b)
    own, others = confidence(target.log_posteriors(c.x), c.y), confidence(b.log_posteriors, c.y)
    for j in range(40):
        assert got[j].item() == pytest.approx(math.log(own[j]) - np.mean([math.log(v) for v in others[:, j]]))


@pytest.mark.parametrize("fpr", [0.1, 0.5])
def test_attack_p_calls_as_many_of_the_population_members_as_it_may(fpr: float) -> None:
    population, target = images(400, 2), Linear(2, scale=4)
    attack = fitted("attack_p", knowledge(shadow=World(Linear(1), images(50, 1), population)), fpr=fpr)
    same = Candidates(population.x, population.y, torch.arange(400))
    assert (attack.score(target, same, None) > 0).double().mean().item() == pytest.approx(fpr, abs=1 / 400)
    c = candidates(50)
    loss = -np.log(confidence(target.log_posteriors(c.x), c.y))
    assert stats.spearmanr(attack.score(target, c, None), -loss).statistic == pytest.approx(1)


class Graded(Target):
    """Every image has an ease of its own, four times its mean; the target is surer by 1 of what it was trained on."""

    def __init__(self, members: Tensor):
        self.members = {image.numpy().tobytes() for image in members}

    def log_posteriors(self, x: Tensor) -> Tensor:
        extra = torch.tensor([image.numpy().tobytes() in self.members for image in x]).double()
        noise = torch.randn(len(x), generator=torch.Generator().manual_seed(len(x)), dtype=torch.float64)
        margin = 20 * x.flatten(1).double().mean(1) + extra + 0.3 * noise
        return torch.stack([margin, *[torch.zeros(len(x)).double()] * (CLASSES - 1)], 1).log_softmax(1)


def test_quantile_regression_knows_what_is_easy() -> None:
    """The score alone says little of membership, for the images differ more among themselves."""
    public, c = images(400, 1, 1), candidates(400, 5)
    c = Candidates(c.x, torch.zeros(400).long(), c.id)
    target = Graded(c.x[:200])
    world = World(Linear(1), images(9), public)
    scores = fitted("quantile_regression", knowledge(shadow=world), fpr=0.1, epochs=40).score(target, c, None)
    margin = logit_margin(target.log_posteriors(c.x), c.y)

    def auc(v: Tensor) -> float:
        return float(stats.mannwhitneyu(v[:200], v[200:]).statistic) / 200**2

    assert auc(margin) < 0.75
    assert not torch.equal(scores[0], scores[1])
    for row in scores:
        assert auc(row) > 0.85
        assert 0.02 < (row[200:] > 0).double().mean() < 0.25


@pytest.mark.parametrize("variance", ["per-sample", "fixed"])
def test_offline_lira_by_density_against_a_loop(variance: str) -> None:
    c, b, target = candidates(20), references(20, 12, online=False), Linear(2, scale=4)
    got = fitted("lira_offline", variance=variance, law="density").score(target, c, b)
    own, margins = logit_margin(target.log_posteriors(c.x), c.y), logit_margin(b.log_posteriors, c.y)
    for j in range(20):
        v = margins[:, j].numpy()
        law = stats.norm(v.mean(), 1.0 if variance == "fixed" else v.std(ddof=1))
        assert got[j].item() == pytest.approx(-law.logpdf(own[j].item()) - math.log(2 * math.pi) / 2, rel=1e-9)
