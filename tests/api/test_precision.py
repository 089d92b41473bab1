"""bfloat16 on processors with and without instructions for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark import networks
from benchmark.api import bfloat16, precision

CPU = torch.device("cpu")


def answers(context: AbstractContextManager[object], architecture: str) -> tuple[Tensor, Tensor]:
    """Logits of a fixed network on fixed images in a context, and the gradient of all its parameters."""
    network = networks.build(architecture, 10, (1, 28, 28), 0).eval()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 1, 28, 28, generator=generator), torch.arange(6)  # autocast is slow where it is not computed
    with context:
        logits = network(x)
    functional.cross_entropy(logits.float(), y).backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_products_are_those_of_rounded_operands() -> None:
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.randn(*shape, generator=generator) for shape in ((40, 30), (20, 30)))
    x, w = x.requires_grad_(), w.requires_grad_()
    with precision.SlowAutocast():
        y = functional.linear(x, w)
    exact = x.detach().bfloat16().double() @ w.detach().bfloat16().double().T
    assert y.dtype == torch.bfloat16
    assert ((y - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all(), "at most half a step of eight bits away"
    upstream = torch.randn(40, 20, generator=generator).bfloat16()
    (by_x,) = torch.autograd.grad(y, x, upstream)
    exact = upstream.double() @ w.detach().bfloat16().double()
    assert torch.equal(by_x, by_x.bfloat16().float()), "gradients are rounded as well"
    assert ((by_x - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18"])
def test_it_is_as_near_to_autocast_as_sums_are(architecture: str) -> None:
    plain, of_plain = answers(nullcontext(), architecture)
    cast, of_cast = answers(torch.autocast("cpu", torch.bfloat16), architecture)
    slow, of_slow = answers(precision.SlowAutocast(), architecture)
    assert slow.dtype == cast.dtype == torch.bfloat16
    for one, other, exact in ((cast, slow, plain), (of_cast, of_slow, of_plain)):
        assert (one - exact).norm() > 0, "autocast is in use"
        # Sums in another order move some roundings by a step, which a deep network carries on: as far as one rounding does.
        apart = (one.float() - other.float()).norm()
        assert apart < 1.5 * (one - exact).norm()
        assert apart < 0.02 * exact.norm()


def test_each_device_gets_the_way_that_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_instructions", lambda: False)
    assert isinstance(bfloat16(CPU), precision.SlowAutocast)
    assert isinstance(bfloat16(CPU, enabled=False), nullcontext)
    monkeypatch.setattr(precision, "_has_instructions", lambda: True)
    assert isinstance(bfloat16(CPU), torch.autocast)


@pytest.mark.parametrize("instructions", [True, False])
def test_a_context_is_entered_again(monkeypatch: pytest.MonkeyPatch, instructions: bool) -> None:
    monkeypatch.setattr(precision, "_has_instructions", lambda: instructions)
    low, layer, x = bfloat16(CPU), nn.Linear(50, 3), torch.rand(4, 50)
    with low:
        first = layer(x)
    with low:
        second = layer(x)
    after = layer(x)
    assert first.dtype == torch.bfloat16
    assert after.dtype == torch.float32
    assert torch.equal(first, second)
    assert 0 < (after - first).abs().max() < 0.02
