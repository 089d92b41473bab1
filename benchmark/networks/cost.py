"""What a network costs: parameters, and multiply-adds of one forward pass. Nothing is allocated or computed for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.networks.architecture import Shape


@dataclass(frozen=True)
class Cost:
    """Parameters, and the multiply-adds of convolutions and matrix products in a forward pass of one image."""

    parameters: int
    multiply_adds: int


def cost(name: str, classes: int, shape: Shape) -> Cost:
    """The cost of a network on images (c, h, w), on PyTorch's meta device.

    Counts as the papers do, which call a multiply-add one FLOP. Raises UnknownArchitecture, WrongShape, and UserError for a
    file of one's own that cannot be built.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad():
        network = networks.build(name, classes, shape, 0).eval()
        with counter:
            network(torch.empty(1, *shape))
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)


def activations(name: str, classes: int, shape: Shape) -> int:
    """How many values a forward pass of one image computes, about: what training keeps for the backward pass, per image.

    The outputs of all layers. Raises as `cost`.
    """
    values = 0

    def count(module: nn.Module, _: object, output: object) -> None:
        nonlocal values
        if isinstance(output, Tensor) and next(module.children(), None) is None:
            values += output.numel()

    with torch.device("meta"), torch.no_grad():
        network = networks.build(name, classes, shape, 0).eval()
        for module in network.modules():
            module.register_forward_hook(count)
        network(torch.empty(1, *shape))
    return values
