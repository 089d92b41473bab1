"""bfloat16 that computes in float32: the same types, nearly the same numbers, the same errors."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from benchmark import networks
from benchmark.run.quick_bfloat16 import QuickBfloat16


def gradients(name: str, mode: Any) -> list[torch.Tensor]:
    network = networks.build(name, 4, (3, 8, 8), 0).eval()
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with mode:
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x)
        nn.functional.cross_entropy(logits.float(), torch.arange(4)).backward()
    return [logits.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ["small_cnn", "wrn_28_2"])
def test_types_are_those_of_bfloat16_and_numbers_are_near(name: str) -> None:
    plain, quick = (gradients(name, mode) for mode in (nullcontext(), QuickBfloat16()))
    assert [t.dtype for t in quick] == [t.dtype for t in plain] and quick[0].dtype == torch.bfloat16
    for one, other in zip(plain, quick, strict=True):
        assert float((one - other).norm()) <= 0.1 * float(one.norm()) + 1e-6


def test_heavy_operations_compute_in_float32() -> None:
    """1 + 2^-9 is no number of bfloat16; products and sums within one operation keep it."""
    a = torch.tensor([[1.0, 2**-9, -1.0]]).bfloat16()
    with QuickBfloat16():
        assert float(a @ torch.ones(3, 1).bfloat16()) == 2**-9


def test_float32_is_left_alone_and_mixed_types_break_as_ever() -> None:
    a, b = torch.rand(3, 3), torch.rand(3, 3)
    plain = a @ b
    with QuickBfloat16():
        assert torch.equal(a @ b, plain)
        with pytest.raises(RuntimeError, match="same dtype"):
            a @ b.bfloat16()
