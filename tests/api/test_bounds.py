"""Interval bounds against random perturbations, closed forms, and the networks that they must know or refuse."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from benchmark import networks
from benchmark.api import interval_bounds

SHAPE = (1, 8, 8)


def lived_in(made: nn.Module) -> nn.Module:
    """In eval mode; BatchNorm with statistics and scales of both signs, as if it had been trained."""
    g = torch.Generator().manual_seed(0)
    for m in made.modules():
        if isinstance(m, nn.BatchNorm2d):
            with torch.no_grad():
                for t, scale in ((m.running_mean, 0.1), (m.weight, 1.0), (m.bias, 0.1)):
                    t.copy_(scale * torch.randn(m.num_features, generator=g))
                m.running_var.copy_(0.5 + torch.rand(m.num_features, generator=g))
    return made.eval()


def network(name: str) -> nn.Module:
    return lived_in(networks.build(name, 4, SHAPE, 0))


def pools() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU(inplace=True), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 8, 3, groups=2, dilation=2, padding=2, bias=False), nn.BatchNorm2d(8), nn.Identity()),
        nn.MaxPool2d(2),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4, bias=False)),
    )
    return lived_in(made)


def image(n: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


BOUNDED = ("simple_cnn", "small_cnn", "resnet18", "vgg11")
NETWORKS = {name: network(name) for name in BOUNDED} | {"pools": pools()}


@pytest.mark.parametrize("radius", [0.01, 0.1])
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_hold_against_random_perturbations(name, radius):
    """10,000 images of the ball, half of them corners; float64, so that rounding hides nothing."""
    rounds, count = (
        (1, 300) if name in ("vgg11", "resnet18") else (10, 1000)
    )  # large ones are slow, and bounds of small ones tight
    tested = copy.deepcopy(NETWORKS[name]).double()
    x, g = image().double(), torch.Generator().manual_seed(2)
    low, high = interval_bounds(tested, x - radius, x + radius)
    assert (low < high).all()
    with torch.no_grad():
        for _ in range(rounds):
            moves = 2 * torch.rand(count, *SHAPE, generator=g, dtype=torch.float64) - 1
            moves[::2] = moves[::2].sign()
            logits = tested(x + radius * moves)
            assert (logits >= low - 1e-12).all() and (logits <= high + 1e-12).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_of_a_point_are_its_logits(name):
    x, tested = image(20), NETWORKS[name]
    low, high = interval_bounds(tested, x, x)
    torch.testing.assert_close(low, tested(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(high, tested(x), rtol=1e-4, atol=1e-5)


def test_bounds_of_a_linear_network_are_attained():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    x, radius = image(5), 0.1
    low, high = interval_bounds(linear, x - radius, x + radius)
    spread = radius * linear[1].weight.abs().sum(1)
    torch.testing.assert_close(low, linear(x) - spread)
    torch.testing.assert_close(high, linear(x) + spread)
    for k in range(4):  # the corner that each bound is attained at
        corner = x + radius * linear[1].weight[k].sign().view(SHAPE)
        torch.testing.assert_close(linear(corner)[:, k], high[:, k])


def test_bounds_of_relu_by_hand():
    """x in [-1, 2] and y in [0, 1]: relu(x - y) in [0, 2] and relu(x + y) in [0, 3], so 1 - a + 2 b in [-1, 7]."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        net[2].weight.copy_(torch.tensor([[-1.0, 2.0]]))
        net[2].bias.fill_(1.0)
    low, high = interval_bounds(net, torch.tensor([[-1.0, 0.0]]), torch.tensor([[2.0, 1.0]]))
    assert (low.item(), high.item()) == (-1.0, 7.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_widen_with_the_radius(name):
    x, tested = image(10), NETWORKS[name]
    found = [interval_bounds(tested, x - r, x + r) for r in (0.0, 0.01, 0.02, 0.05, 0.1)]
    for (low, high), (lower, higher) in pairwise(found):
        assert (lower < low).all() and (higher > high).all()


def test_bounds_take_the_eval_mode_of_a_network_in_training_and_leave_it_alone():
    tested, x = copy.deepcopy(NETWORKS["vgg11"]), image(6)
    expected = interval_bounds(tested, x - 0.1, x + 0.1)
    before = copy.deepcopy(tested.state_dict())
    found = interval_bounds(tested.train(), x - 0.1, x + 0.1)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(torch.equal(before[k], v) for k, v in tested.state_dict().items())


def test_bounds_are_differentiable_in_weights_and_images():
    tested, x = network("simple_cnn").double(), image(3).double().requires_grad_()
    low, high = interval_bounds(tested, x - 0.1, x + 0.1)
    (high - low).sum().backward()
    assert float(x.grad.abs().sum()) > 0
    weight = tested.features[0].weight
    with torch.no_grad():  # a finite difference in one weight
        step = 1e-6

        def width(move):
            weight[0, 0, 1, 1] += move
            low, high = interval_bounds(tested, x - 0.1, x + 0.1)
            weight[0, 0, 1, 1] -= move
            return float((high - low).sum())

        slope = (width(step) - width(-step)) / (2 * step)
    assert float(weight.grad[0, 0, 1, 1]) == pytest.approx(slope, rel=1e-5)


def test_what_the_caller_holds_stays_as_it_is():
    relu = nn.Sequential(nn.ReLU(inplace=True))
    low, high = -image(2), image(2)
    interval_bounds(relu, low, high)
    assert (low <= 0).all() and float(low.min()) < 0


class Odd(nn.Linear):
    """A layer whose forward pass is not its parent's."""

    def forward(self, x):
        return -super().forward(x)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.Sigmoid(), "Sigmoid"),
        (Odd(64, 4), "Odd"),
        (nn.BatchNorm2d(1, track_running_stats=False), "BatchNorm2d"),
        (BasicBlock(1, 1, attn_layer="se"), "BasicBlock"),
        (Bottleneck(4, 1), "Bottleneck"),
    ],
)
def test_layers_that_cannot_be_bounded_are_named(layer, named):
    with pytest.raises(ValueError, match=f"interval bounds: expected layers of .*, given {named}$"):
        interval_bounds(layer, image(), image())


def test_boxes_of_two_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"expected low and high of one shape, given \(1, 1, 8, 8\) and \(2, 1, 8, 8\)"
    ):
        interval_bounds(NETWORKS["simple_cnn"], image(1), image(2))
