"""bfloat16 for rehearsals on a processor without it: heavy operations take and give bfloat16, and compute in float32.

PyTorch falls back on loops there that take ten times as long as float32. Types stay as they are, so that what bfloat16 breaks still
breaks; numbers differ in the last of its digits. For rehearsals alone, whose numbers nobody keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_HEAVY = {
    getattr(torch.ops.aten, name).default
    for name in ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")
}


class QuickBfloat16(TorchDispatchMode):
    """While it is entered, in this thread. An operation on tensors of different types goes the usual way, to its error."""

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = (args, kwargs or {})
        if function not in _HEAVY or any(
            t.dtype != torch.bfloat16 for t in tree_leaves(given) if isinstance(t, Tensor)
        ):
            return function(*args, **given[1])
        args, kwargs = tree_map_only(Tensor, Tensor.float, given)
        return tree_map_only(Tensor, Tensor.bfloat16, function(*args, **kwargs))
