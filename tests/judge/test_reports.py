"""Metrics of inversion, attributes, stealing and utility, against closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import binom
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

from benchmark.api import Samples
from benchmark.judge.reports import (
    attribute_metrics,
    feature_distance,
    frechet_distance,
    inversion_metrics,
    moved_answers,
    nearest_metrics,
    rate_difference,
    recognised,
    shares,
    stealing_metrics,
    utility_metrics,
    worse_at_members,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("side", [8, 28])
def test_inversion_of_what_is_known(side: int) -> None:
    means = torch.rand(10, 1, side, side, generator=torch.Generator().manual_seed(0))
    same = inversion_metrics(means, means)
    assert same["ssim_to_class_mean"] == pytest.approx(1, abs=1e-5)
    assert same["mse_to_class_mean"] == 0
    assert inversion_metrics(1 - means, means)["ssim_to_class_mean"] < 0
    near, far = (inversion_metrics((means + d).clamp(0, 1), means)["ssim_to_class_mean"] for d in (0.05, 0.5))
    assert 1 > near > far


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.7), (0.0, 1.0), (0.5, 0.5)])
def test_flat_images_have_a_closed_form(a: float, b: float) -> None:
    """Without variance SSIM is its luminance term (Wang et al. 2004, equation 6), here with C1 = 0.01^2."""
    found = inversion_metrics(torch.full((3, 1, 28, 28), a), torch.full((3, 1, 28, 28), b))
    assert found["mse_to_class_mean"] == pytest.approx((a - b) ** 2, abs=1e-7)
    assert found["ssim_to_class_mean"] == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_ssim_against_a_loop_over_windows(side: int, channels: int) -> None:
    """Wang et al. 2004, equation 13: Gaussian weights, C1 = 0.01^2, C2 = 0.03^2, the mean over all pixels with reflected borders."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 3, channels, side, side, generator=g)
    y = (x + 0.3 * y).clamp(0, 1)
    kernel = min(11, side - 1 + side % 2)
    at, sigma = np.arange(kernel) - kernel // 2, kernel * 1.5 / 11
    weights = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    border = kernel // 2
    indices = []
    for a, b in zip(
        x.double().numpy().reshape(-1, side, side), y.double().numpy().reshape(-1, side, side), strict=True
    ):
        a, b = (np.pad(image, border, mode="reflect") for image in (a, b))
        for i in range(side):
            for j in range(side):
                p, q = (image[i : i + kernel, j : j + kernel] for image in (a, b))
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                both = (weights * (p - mp) * (q - mq)).sum()
                luminance = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
                indices.append(luminance * (2 * both + 9e-4) / (vp + vq + 9e-4))
    found = inversion_metrics(x, y)["ssim_to_class_mean"]
    assert found == pytest.approx(np.mean(indices), abs=1e-4)


@pytest.mark.parametrize("classes", [3, 20])
def test_recognition_is_the_share_of_the_class_asked_for(rng: np.random.Generator, classes: int) -> None:
    y = rng.integers(0, classes, 200)
    answers = rng.normal(size=(2, 200, classes))
    answers[:, np.arange(200), y] += 1.5
    found = recognised(answers[0], answers[1], y)
    right = [[row.argmax() == label for row, label in zip(each, y, strict=True)] for each in answers]
    assert found["evaluator_accuracy"] == np.mean(right[0]) and found["second_evaluator_accuracy"] == np.mean(right[1])
    assert found["both_evaluators"] == np.mean([a and b for a, b in zip(*right, strict=True)])
    assert ("evaluator_top5" in found) == (classes > 10)
    if classes > 10:
        top = [label in np.argsort(row)[-5:] for row, label in zip(answers[1], y, strict=True)]
        assert found["second_evaluator_top5"] == np.mean(top) > found["second_evaluator_accuracy"]


def test_nearest_images_against_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    members, nonmembers = (
        Samples(torch.rand(n, 1, 3, 3, generator=g), torch.randint(4, (n,), generator=g)) for n in (50, 30)
    )
    y = torch.tensor([0, 1, 1, 3, 2, 4])  # 4 is in neither
    images = torch.rand(6, 1, 3, 3, generator=g)
    found, rows = nearest_metrics(images, y, members, nonmembers)
    inside, outside = [], []
    for image, label, row in zip(images, y, rows.tolist(), strict=True):
        own, others = ([x for x, c in zip(s.x, s.y, strict=True) if c == label] for s in (members, nonmembers))
        fair = min(len(own), len(others))
        if not fair:
            assert row == -1
            continue
        away = [[((image - x) ** 2).mean().sqrt().item() for x in side[:fair]] for side in (own, others)]
        inside.append(min(away[0]))
        outside.append(min(away[1]))
        assert torch.equal(members.x[row], own[int(np.argmin(away[0]))])
    assert found["nearest_member_distance"] == pytest.approx(np.mean(inside), abs=1e-6)
    assert found["nearest_nonmember_distance"] == pytest.approx(np.mean(outside), abs=1e-6)
    assert found["nearest_is_member"] == np.mean(np.array(inside) < outside)


def test_a_stored_member_is_told_from_a_stored_image_of_others_and_from_the_class() -> None:
    """What shows members lies on them; what shows others lies on no member; what depends on neither is a tie or a coin."""
    g = torch.Generator().manual_seed(0)
    members, nonmembers = (Samples(torch.rand(400, 1, 3, 3, generator=g), torch.arange(400) % 2) for _ in range(2))
    y = torch.arange(200) % 2
    stolen, _ = nearest_metrics(members.x[:200], y, members, nonmembers)
    assert stolen["nearest_is_member"] == 1 and stolen["nearest_member_distance"] == 0
    other, _ = nearest_metrics(nonmembers.x[:200], y, members, nonmembers)
    assert other["nearest_is_member"] == 0 and other["nearest_nonmember_distance"] == 0
    blind, _ = nearest_metrics(torch.rand(200, 1, 3, 3, generator=g), y, members, nonmembers)
    assert abs(blind["nearest_is_member"] - 0.5) < 4 * 0.5 / 200**0.5
    assert nearest_metrics(members.x, y.new_full((400,), 7), members, nonmembers)[0] == {}


@pytest.mark.parametrize(("n", "m"), [(10, 300), (200, 300), (2, 50)])
def test_frechet_distance_against_sqrtm(rng: np.random.Generator, n: int, m: int) -> None:
    first, second = rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)), 2 + rng.normal(size=(m, 12)) ** 2
    a, b = (ledoit_wolf(f)[0] for f in (first, second))
    want = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(first, second) == pytest.approx(want, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(want, rel=1e-6)


def test_frechet_distance_of_what_is_known(rng: np.random.Generator) -> None:
    features = rng.normal(size=(500, 6))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features + 3) == pytest.approx(6 * 9, rel=1e-6)
    assert frechet_distance(np.zeros((5, 6)), features) > 0, "one image many times has no covariance"
    assert frechet_distance(features[:1], features) > 0


def test_feature_distance_against_a_loop(rng: np.random.Generator) -> None:
    features, members = rng.normal(size=(8, 4)), rng.normal(size=(40, 4))
    y, members_y = np.array([0, 0, 1, 2, 2, 2, 5, 1]), rng.integers(0, 3, 40)  # 5 has no members
    nearest = [
        min(np.linalg.norm(f - g) for g, c in zip(members, members_y, strict=True) if c == label)
        for f, label in zip(features, y, strict=True)
        if label != 5
    ]
    assert feature_distance(features, y, members, members_y) == pytest.approx(np.mean(nearest))
    assert np.isnan(feature_distance(features, np.full(8, 9), members, members_y))


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_attributes_of_two_values(rng: np.random.Generator, share: float) -> None:
    truth = (rng.random(2000) < share).astype(np.int64)
    guess = np.where(rng.random(2000) < 0.7, truth, 1 - truth)
    found, intervals = attribute_metrics(guess, truth, rng)
    assert found["attribute_accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["attribute_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found["attribute_majority"] == pytest.approx(max(truth.mean(), 1 - truth.mean()))
    for name, (low, high) in intervals.items():
        assert low < found[name] < high
    p = found["attribute_accuracy"]
    low, high = intervals["attribute_accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 2000), rel=0.15)
    variance = sum(np.var((guess == truth)[truth == v]) / (truth == v).sum() for v in (0, 1)) / 4
    low, high = intervals["attribute_balanced_accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.15)


def test_attributes_of_many_values(rng: np.random.Generator) -> None:
    """One of them never occurs and is guessed; another neither occurs nor is guessed."""
    truth = rng.choice([0, 1, 2, 5], 3000, p=[0.6, 0.2, 0.15, 0.05])
    guess = np.where(rng.random(3000) < 0.6, truth, rng.integers(0, 4, 3000))
    found, intervals = attribute_metrics(guess, truth, rng)
    occur = np.isin(guess, np.unique(truth))
    assert found["attribute_accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["attribute_balanced_accuracy"] == pytest.approx(recall_score(truth, guess, labels=[0, 1, 2, 5], average="macro"))  # fmt: skip
    assert found["attribute_macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro")) and not occur.all()
    assert found["attribute_majority"] == pytest.approx((truth == 0).mean())
    draws = [rng.integers(0, 3000, 3000) for _ in range(80)]  # an independent bootstrap
    spread = np.std([f1_score(truth[rows], guess[rows], average="macro") for rows in draws])
    low, high = intervals["attribute_macro_f1"]
    assert low < found["attribute_macro_f1"] < high and high - low == pytest.approx(3.92 * spread, rel=0.35)


def test_one_attribute_value_alone(rng: np.random.Generator) -> None:
    found, _ = attribute_metrics(np.array([1, 0, 1, 1]), np.ones(4, np.int64), rng)
    assert found == {
        "attribute_accuracy": 0.75, "attribute_balanced_accuracy": 0.75, "attribute_majority": 1.0,
        "attribute_macro_f1": pytest.approx(3 / 7),  # 6 / 7 of the value 1, 0 of the value 0
    }  # fmt: skip


def test_stealing(rng: np.random.Generator) -> None:
    y = rng.integers(0, 10, 1000)
    target = np.where(rng.random(1000) < 0.9, y, (y + 1) % 10)
    found, intervals = stealing_metrics(target, target, y, rng)
    expected = {"agreement": 1.0, "agreement_on_errors": 1.0, "stolen_accuracy": accuracy_score(y, target)}
    assert found == pytest.approx(expected)
    assert intervals["agreement"] == (pytest.approx(0.025 ** (1 / 1000)), 1.0), "Clopper and Pearson's"
    low, high = intervals["stolen_accuracy"]
    assert low < found["stolen_accuracy"] < high
    found, _ = stealing_metrics(y, target, y, rng)
    assert found == {
        "agreement": pytest.approx(accuracy_score(target, y)), "stolen_accuracy": 1.0, "agreement_on_errors": 0.0,
    }  # fmt: skip
    copied = np.where(rng.random(1000) < 0.3, target, rng.integers(0, 10, 1000))
    found, intervals = stealing_metrics(copied, target, y, rng)
    wrong = target != y
    assert found["agreement_on_errors"] == pytest.approx(accuracy_score(target[wrong], copied[wrong]))
    spread = np.sqrt(found["agreement_on_errors"] * (1 - found["agreement_on_errors"]) / wrong.sum())
    low, high = intervals["agreement_on_errors"]
    assert low < found["agreement_on_errors"] < high and high - low == pytest.approx(3.92 * spread, rel=0.3)
    assert "agreement_on_errors" not in stealing_metrics(y, y, y, rng)[0], "a target without errors has none"


@pytest.mark.parametrize(("n", "p"), [(200, 0.995), (180, 0.01), (2000, 0.9995), (200, 0.5)])
def test_the_interval_of_a_share_covers_it(rng: np.random.Generator, n: int, p: float) -> None:
    """95 % of the time but for the misses of 400 draws (RULES 28: a one-sided binomial test at .001)."""
    held = 0
    for _ in range(400):
        _, intervals = shares({"x": (rng.random(n) < p).astype(float)}, rng)
        held += intervals["x"][0] <= p <= intervals["x"][1]
    assert binom.cdf(held, 400, 0.95) > 0.001


def test_utility(rng: np.random.Generator) -> None:
    y = np.arange(10).repeat(20)
    certain = np.where(np.eye(10)[y] > 0, 0.0, -np.inf)
    wrong = np.roll(certain, 1, axis=1)
    found, intervals = utility_metrics(certain, y, certain, y, rng)
    assert found == {"train_accuracy": 1.0, "test_accuracy": 1.0, "ece": 0.0}
    assert intervals["train_accuracy"] == intervals["test_accuracy"] == (pytest.approx(0.025 ** (1 / 200)), 1.0)
    found, _ = utility_metrics(certain, y, wrong, y, rng)
    assert found == {"train_accuracy": 1.0, "test_accuracy": 0.0, "ece": 1.0}
    flat = np.full((200, 10), -np.log(10))
    found, _ = utility_metrics(wrong, y, flat, y, rng)
    assert found["train_accuracy"] == 0.0
    assert found["test_accuracy"] == pytest.approx(0.1)
    assert found["ece"] == pytest.approx(0, abs=1e-9)


def answers(rng: np.random.Generator, n: int, sure: float) -> np.ndarray:
    """Log-posteriors (n, 10) of a network that is as sure of itself as this."""
    logits = rng.normal(size=(n, 10)) + sure * np.eye(10)[rng.integers(10, size=n)]
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_a_rate_difference_within_bins(rng: np.random.Generator) -> None:
    """Mantel and Haenszel's: a slow sum over bins, and its spread over draws."""
    draws = []
    for _ in range(300):
        a, b = rng.integers(4, size=200), rng.integers(1, 5, size=150)
        first, second = rng.random(200) < 0.1 + 0.2 * a, rng.random(150) < 0.2 * b
        found, error = rate_difference(first, second, a, b)
        draws.append((found, error))
        top = bottom = 0.0
        for k in range(5):
            n, m = (a == k).sum(), (b == k).sum()
            if n and m:
                top += n * m / (n + m) * (first[a == k].mean() - second[b == k].mean())
                bottom += n * m / (n + m)
        assert found == pytest.approx(top / bottom)
    found, error = np.array(draws).T
    assert found.mean() == pytest.approx(0.1, abs=0.01)
    assert error.mean() == pytest.approx(found.std(), rel=0.2)
    assert rate_difference(np.ones(3, bool), np.zeros(3, bool), np.zeros(3, int), np.ones(3, int)) == (0.0, 0.0)


@pytest.mark.parametrize("guard", ["nothing", "everything", "unsure", "rounding"])
def test_a_guard_that_reads_answers_alone_treats_both_sides_alike(rng: np.random.Generator, guard: str) -> None:
    """Members' answers are surer, so that it leaves more of them alone: no flag, for equally sure ones are treated alike."""
    bare = [answers(rng, 2000, 6), answers(rng, 2000, 4)]
    served = []
    for side in bare:
        p = np.exp(side)
        moved = {"nothing": side, "everything": np.log(0.5 * p + 0.05), "rounding": np.log(np.round(p, 2) + 1e-9)}
        unsure = np.where(p.max(1, keepdims=True) > 0.9, side, np.log(0.5 * p + 0.05))
        served.append(moved.get(guard, unsure))
    rates, flag = moved_answers(served[0], bare[0], served[1], bare[1])
    assert flag == ""
    for side, name in enumerate(("members", "nonmembers")):
        assert rates[f"left_alone_{name}"] == (served[side] == bare[side]).all(1).mean()
    if guard == "unsure":
        assert rates["left_alone_members"] > rates["left_alone_nonmembers"] + 0.2


@pytest.mark.parametrize("share", [1.0, 0.2])
@pytest.mark.parametrize("disguise", [0.0, 1e-9])
def test_a_guard_that_tells_members_is_flagged(rng: np.random.Generator, share: float, disguise: float) -> None:
    """One that rewrites members alone, also where it moves all others by next to nothing; the text says by how much."""
    bare = [answers(rng, 1000, 4), answers(rng, 1000, 4)]
    hit = rng.random((1000, 1)) < share
    served = [np.where(hit, np.log(0.5 * np.exp(bare[0]) + 0.05), bare[0] - disguise), bare[1] - disguise]
    _, flag = moved_answers(served[0], bare[0], served[1], bare[1])
    assert f"{hit.mean():.1%} of members' answers are moved by more than 0.001, 0.0% of others'" in flag
    assert ("left alone" in flag) == (disguise == 0)


@pytest.mark.parametrize(("members", "others", "flagged"), [(0.87, 0.94, True), (0.93, 0.94, False), (1.0, 0.9, False)])
def test_members_that_are_answered_worse_are_flagged(members: float, others: float, flagged: bool) -> None:
    """13 % of 1,000 members beside 6 % of others is no chance; 1 % may be, and members that are answered better are usual."""
    labels = np.zeros(1000, np.int64)
    sides = [np.where(np.arange(1000)[:, None] < 1000 * share, [0.0, -9.0], [-9.0, 0.0]) for share in (members, others)]
    said = worse_at_members(sides[0], labels, sides[1], labels)
    assert bool(said) == flagged
    assert not flagged or "87.0% against 94.0%" in said
