"""Averaging over near-copies: they are what they should be, honest targets lose nothing, noise goes away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmark.api import Candidates, Context, Predict, Target
from submissions.defenses import diffence, gaussian_smoothing, memguard, undefended
from tests.submissions.test_attacks import CLASSES, Linear, candidates, fitted, module
from tests.submissions.test_defenses import TinyTask, context, make, predictor


class Noisy(Target):
    """A target whose guard adds noise to its log-odds, drawn from the 8-bit query as every guard must."""

    def __init__(self, target: Linear, size: float):
        self.target, self.size = target, size
        self.context = Context(b"key", torch.device("cpu"), lambda name, x, make: make())

    def log_posteriors(self, x: Tensor) -> Tensor:
        noise = torch.special.ndtri(self.context.uniform("noise", x, CLASSES))
        return (self.target.log_posteriors(x) + self.size * noise).log_softmax(1)


def test_copies_are_one_step_of_one_pixel_apart() -> None:
    c = candidates(20)
    copies = fitted("near_copies", copies=6)._copies(c.x)
    assert len(copies) == 6 and torch.equal(copies[0], c.x)
    places = set()
    for copy in copies[1:]:
        moved = (copy - c.x).flatten(1)
        (place,) = set(moved.nonzero()[:, 1].tolist())
        torch.testing.assert_close(moved[:, place].abs(), torch.full((20,), 1 / 255))
        assert 0 <= copy.min() and copy.max() <= 1
        places.add(place)
    assert len(places) == 5, "each copy at a pixel of its own"


def test_an_honest_target_is_attacked_as_by_its_loss() -> None:
    c, target = candidates(60), Linear(2, scale=3)
    averaged, plain = (fitted(n).score(target, c, None) for n in ("near_copies", "loss"))
    torch.testing.assert_close(averaged, plain, atol=0.02, rtol=0.02)
    one = fitted("near_copies", copies=1).score(target, c, None)
    torch.testing.assert_close(one, plain)


def test_noise_averages_out() -> None:
    """16 copies take at least two thirds of the noise away; independent draws leave a quarter."""
    c, target = candidates(400), Linear(2)
    truth = fitted("loss").score(target, c, None)
    noisy = Noisy(target, 0.5)
    errors = [(fitted(n).score(noisy, c, None) - truth).std().item() for n in ("near_copies", "loss")]
    assert errors[0] < errors[1] / 3
    assert module("near_copies").NearCopies.calibrate == "shadow"


# --- Every randomised guard -------------------------------------------------------------------------


class Guarded(Target):
    """A guard on a predictor."""

    def __init__(self, predict: Predict):
        self.predict = predict

    def log_posteriors(self, x: Tensor) -> Tensor:
        return self.predict(x)


RANDOMISED = {
    "diffence, scenario 1": (diffence, {"n": 3, "timestep": 200, "scenario": 1, "train_steps": 15}),
    "diffence, scenario 2": (diffence, {"n": 3, "timestep": 200, "scenario": 2, "train_steps": 15}),
    "diffence, scenario 3": (diffence, {"n": 3, "timestep": 200, "train_steps": 15}),
    "diffence, averaging": (diffence, {"n": 2, "timestep": 200, "average": True, "train_steps": 15}),
    "gaussian_smoothing": (gaussian_smoothing, {"n": 1, "sigma": 0.15}),
}


@pytest.fixture(scope="module")
def task() -> TinyTask:
    return TinyTask(n=60, epochs=8)


@pytest.fixture(scope="module")
def predict(task: TinyTask) -> Predict:
    return predictor(make(undefended).train(task))


@pytest.mark.parametrize("name", RANDOMISED)
def test_near_copies_average_the_noise_of_every_randomised_guard_out(
    name: str, task: TinyTask, predict: Predict
) -> None:
    """The noise that one answer has about the mean over 24 keys; 16 near-copies leave at most half of it."""
    defense, keys = make(RANDOMISED[name][0], **RANDOMISED[name][1]), 24
    state = defense.prepare(predict, task)
    x, y = torch.cat([task.train.x[:30], task.reference.x[:30]]), torch.cat([task.train.y[:30], task.reference.y[:30]])
    samples = Candidates(x, y, torch.arange(60))
    guards = [defense.guard(predict, state, context(key=bytes([i]))) for i in range(keys)]
    told = torch.stack([guard(x).exp()[torch.arange(60), y] for guard in guards])
    averaged = fitted("near_copies", copies=16).score(Guarded(guards[0]), samples, None).exp()
    truth = told[1:].mean(0)
    errors = [float((answer - truth).square().mean().sqrt()) for answer in (averaged, told[0])]
    assert errors[1] > 0.01, "the guard hides something"
    assert errors[0] < errors[1] / 2, f"{name}: {errors}"


def test_near_copies_average_memguards_draw_out(task: TinyTask, predict: Predict) -> None:
    """Phase II tells all of the noise or none of it, by one draw a query; its mean is known. 8 copies leave a third."""
    x, y = task.train.x[:40], task.train.y[:40]
    clean, rows = predict(x), torch.arange(40)
    unsure = 0.5 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # A classifier that calls sure answers members: it takes much noise to please.
    state = memguard.train_classifier(
        clean.sort(1).values, unsure.log_softmax(1).sort(1).values, torch.Generator().manual_seed(0)
    )
    noise = memguard.add_noise(clean, state).exp() - clean.exp()
    share = (0.2 / noise.abs().sum(1)).clamp_max(1)
    assert (share < 0.9).double().mean() > 0.5, "the draw decides"
    truth = (clean.exp() + share.unsqueeze(1) * noise)[rows, y]
    guard = Guarded(make(memguard, budget=0.2).guard(predict, state, context()))
    answers = (
        fitted("near_copies", copies=8).score(guard, Candidates(x, y, rows), None).exp(),
        guard.log_posteriors(x).exp()[rows, y],
    )
    errors = [float((answer - truth).square().mean().sqrt()) for answer in answers]
    assert errors[0] < 0.6 * errors[1]
