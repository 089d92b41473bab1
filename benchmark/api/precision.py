"""bfloat16 on any device: autocast where it is computed, and the same types and roundings on processors without it.

PyTorch's bfloat16 convolutions fall back to a slow loop on a CPU without instructions for them (AVX2 alone): a training
step of small_cnn takes ten times as long as in float32. There, products take their operands in bfloat16, are computed in
float32, and leave bfloat16, forwards and backwards. This is what the instructions do: they multiply in bfloat16 and add in
float32. Only the order of the sums differs, as it does between any two processors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_PRODUCTS = frozenset({
    functional.conv1d, functional.conv2d, functional.conv3d,
    functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
    functional.linear, functional.scaled_dot_product_attention,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
    Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm,
})  # fmt: skip
"""What autocast computes in bfloat16 on a CPU; all else keeps the type of its input."""


def bfloat16(device: torch.device, enabled: bool = True) -> AbstractContextManager[Any]:
    """A context, to be entered any number of times but not within itself, in which networks compute products in bfloat16 if `enabled`."""
    if not enabled:
        return nullcontext()
    if device.type == "cpu" and not _has_instructions():
        return SlowAutocast()
    return torch.autocast(device.type, torch.bfloat16)


class SlowAutocast(TorchFunctionMode):
    """Autocast to bfloat16 with products that are computed in float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        named = {name: _operand(value) for name, value in (kwargs or {}).items()}
        return func(*map(_operand, args), **named).bfloat16()


def _operand(value: Any) -> Any:
    """A tensor of float32 or bfloat16 as bfloat16 holds it, in float32; its gradient is rounded likewise. Anything else as it is."""
    if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16):
        return value.bfloat16().float()
    return value


@cache
def _has_instructions() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
