"""Fredrikson's inversion: its gradient against finite differences, and the released loop one class at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from tests.submissions.test_attacks import CLASSES, SHAPE, Linear, fitted, knowledge, module

MODULE = module("fredrikson")


class Curved(nn.Module):
    """A smooth network of logits (n, 4), in float64 inside, so that finite differences are exact enough."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(4)
        self.first = torch.randn(6, 8, generator=g, dtype=torch.float64)
        self.last = torch.randn(8, CLASSES, generator=g, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ self.first).tanh() @ self.last


@pytest.mark.parametrize("cost", ["posterior", "cross-entropy"])
def test_a_step_follows_the_gradient_by_finite_differences(cost: str) -> None:
    network, rate = Curved(), 1e-2
    attack = fitted("fredrikson", steps=1, learning_rate=rate, cost=cost, noise=0.1)
    y = [2, 0, 1]

    def value(x: Tensor) -> Tensor:
        log_posterior = network(x).log_softmax(1)[range(3), y]
        return log_posterior if cost == "cross-entropy" else log_posterior.exp()

    start = attack.start[y]
    h, slopes = 1e-3, torch.zeros(3, 6)
    for i in range(6):
        step = torch.zeros(6)
        step[i] = h
        slopes[:, i] = ((value(start + step.view(SHAPE)) - value(start - step.view(SHAPE))) / (2 * h)).float()
    got = attack.reconstruct(Linear(network=network), y)
    torch.testing.assert_close((got - start).flatten(1) / rate, slopes, rtol=1e-3, atol=1e-4)


def test_cross_entropy_leaves_the_plateau_on_which_the_posterior_stays() -> None:
    """Where p is e^-30, the gradient of 1 - p is e^-30 too."""
    last = nn.Linear(6, CLASSES)
    last.weight.data = 40 * torch.eye(CLASSES, 6)
    last.bias.data = torch.tensor([0.0, -42.0, -42.0, -42.0])
    target = Linear(network=nn.Sequential(nn.Flatten(), last))
    reached = {}
    for cost in ("posterior", "cross-entropy"):
        got = fitted("fredrikson", cost=cost, steps=300).reconstruct(target, [1])
        reached[cost] = target.log_posteriors(got).exp()[0, 1].item()
    assert reached["posterior"] < 1e-3 and reached["cross-entropy"] > 1e-2, reached


def released(network: nn.Module, label: int, steps: int, patience: int) -> np.ndarray[Any, Any]:
    """One class in normalised pixels, step by step as the released code has it."""
    x, xs, costs = torch.zeros(1, *SHAPE), [], []

    def cost_of(x: Tensor) -> Tensor:
        return 1 - network((x + 1) / 2)[0, label]

    for i in range(steps):
        x = x.detach().requires_grad_()
        cost = cost_of(x)
        cost.backward()
        assert x.grad is not None
        xs.append(x.detach())
        costs.append(cost.item())
        x = (x - 0.003 * x.grad).detach()
        now = cost_of(x).item()
        if now <= 0.001 or (i >= patience and now >= max(costs[patience : i + 1])):
            break
    return ((xs[int(np.argmin(costs))][0] + 1) / 2).clamp(0, 1).numpy()


@pytest.mark.parametrize(
    ("scale", "steps", "patience"), [(1.0, 700, 100), (0.5, 400, 50), (6.0, 3000, 100), (1.0, 1, 1)]
)
def test_as_released_against_its_own_loop(scale: float, steps: int, patience: int) -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    network[3].weight.data *= scale
    network.requires_grad_(False)
    got = fitted("fredrikson", as_released=True, steps=steps, patience=patience).reconstruct(
        Linear(network=network), range(CLASSES)
    )
    for label in range(CLASSES):
        np.testing.assert_allclose(got[label].numpy(), released(network, label, steps, patience), atol=2e-5)


def test_as_released_stops_where_the_cost_rises() -> None:
    """A network that overshoots: the steps go up and down, and the best image is kept."""

    class Sharp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            away = ((2 * x.flatten(1) - 1 - 0.3) ** 2).sum(1, keepdim=True)
            return -(400 * away).expand(-1, CLASSES)

    network = Sharp()
    got = fitted("fredrikson", as_released=True, steps=200, patience=5).reconstruct(Linear(network=network), [0])
    np.testing.assert_allclose(got[0].numpy(), released(network, 0, 200, 5), atol=1e-5)


@pytest.mark.parametrize("deviation", [0.4, 1.0])
def test_the_blur_against_scipy(deviation: float) -> None:
    x = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    reach = max(1, round(2 * deviation))
    want = [
        [gaussian_filter(c.double().numpy(), deviation, mode="nearest", radius=reach) for c in image] for image in x
    ]
    np.testing.assert_allclose(MODULE.blurred(x, deviation).numpy(), np.array(want), atol=1e-6)
    torch.testing.assert_close(MODULE.blurred(torch.full((1, 1, 5, 5), 0.3), deviation), torch.full((1, 1, 5, 5), 0.3))


@pytest.mark.parametrize("params", [{}, {"smoothing": 0.5}, {"cost": "cross-entropy"}, {"as_released": True}])
def test_all_classes_at_once_are_each_alone(params: dict[str, Any]) -> None:
    target = Linear(3, scale=1)
    target.network[1].weight.data *= 5
    attack = fitted("fredrikson", knowledge(), steps=200, **params)
    together = attack.reconstruct(target, range(CLASSES))
    assert together.min() >= 0 and together.max() <= 1
    for label in range(CLASSES):
        torch.testing.assert_close(together[[label]], attack.reconstruct(target, [label]), rtol=1e-4, atol=1e-5)
