"""Averaging over near-copies: they are what they should be, honest targets lose nothing, noise goes away."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import Context, Target
from tests.submissions.test_attacks import CLASSES, Linear, candidates, fitted, module


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
