"""Interval bounds on logits, where every pixel may move within bounds of its own.

Source: Gowal et al. 2018, On the Effectiveness of Interval Bound Propagation, section 3. A box goes through the network
layer by layer. An affine layer maps the middle of the box like any input, and its half-width by the absolute weights
(equation 6). A layer that is monotone in each element maps the lower and the upper end.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.api.network import Network

_MONOTONE = (
    nn.Identity, nn.Flatten, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip


def interval_bounds(network: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (n, k) of the network's eval-mode logits on all images between low and high (n, c, h, w), low <= high.

    Differentiable. Computed in the network's own precision, so that the bounds hold up to its rounding. BatchNorm uses its
    running statistics, whatever mode the network is in. Raises ValueError for low and high of different shapes, and for a
    layer that cannot be bounded.
    """
    if low.shape != high.shape:
        raise ValueError(f"interval bounds: expected low and high of one shape, given {_shapes(low, high)}")
    return _bounds_after(network, low, high)


def _bounds_after(layer: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    # Exact types: a subclass may do anything in `forward`.
    kind = type(layer)
    if kind is Network:
        assert isinstance(layer, Network)
        return _bounds_after(layer.head, *_bounds_after(layer.features, layer.normalise(low), layer.normalise(high)))
    if kind is nn.Sequential:
        for part in layer.children():
            low, high = _bounds_after(part, low, high)
        return low, high
    if kind is nn.ReLU:  # the module may work in place, on the caller's tensor
        return low.relu(), high.relu()
    if kind in _MONOTONE:
        return layer(low), layer(high)
    if kind.__module__.startswith("timm."):
        return _bounds_after_timm(layer, low, high)
    middle, half = (low + high) / 2, (high - low) / 2
    if isinstance(layer, nn.Linear) and kind is nn.Linear:
        middle, half = layer(middle), functional.linear(half, layer.weight.abs())
    elif isinstance(layer, nn.Conv2d) and kind is nn.Conv2d:
        middle, half = layer(middle), layer._conv_forward(half, layer.weight.abs(), None)
    elif isinstance(layer, nn.BatchNorm2d) and kind is nn.BatchNorm2d and layer.running_var is not None:
        assert layer.running_mean is not None
        norm = partial(functional.batch_norm, training=False, eps=layer.eps)
        middle = norm(middle, layer.running_mean, layer.running_var, layer.weight, layer.bias)
        weight = None if layer.weight is None else layer.weight.abs()
        half = norm(half, torch.zeros_like(layer.running_mean), layer.running_var, weight)
    else:
        raise _unknown(layer)
    return middle - half, middle + half


def _bounds_after_timm(layer: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """As `_bounds_after`, for timm's ResNet and its basic block, which adds the bounds of its two branches."""
    from timm.layers import SelectAdaptivePool2d  # imported already: `layer` is one of its classes
    from timm.models.resnet import BasicBlock, ResNet

    kind = type(layer)
    if isinstance(layer, SelectAdaptivePool2d) and kind is SelectAdaptivePool2d:
        return layer(low), layer(high)
    if isinstance(layer, ResNet) and kind is ResNet:
        names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool", "fc")
        return _bounds_after_each(layer, names, low, high)
    if isinstance(layer, BasicBlock) and kind is BasicBlock and layer.se is None:
        skip = (low, high) if layer.downsample is None else _bounds_after(layer.downsample, low, high)
        residual = _bounds_after_each(layer, ("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2"), low, high)
        return _bounds_after(layer.act2, residual[0] + skip[0], residual[1] + skip[1])
    raise _unknown(layer)


def _bounds_after_each(layer: nn.Module, names: tuple[str, ...], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    for name in names:
        low, high = _bounds_after(getattr(layer, name), low, high)
    return low, high


def _unknown(layer: nn.Module) -> ValueError:
    known = ", ".join(t.__name__ for t in (Network, nn.Sequential, nn.Linear, nn.Conv2d, nn.BatchNorm2d, *_MONOTONE))
    expected = f"{known} or timm's ResNet of plain blocks"
    return ValueError(f"interval bounds: expected layers of {expected}, given {type(layer).__name__}")


def _shapes(*tensors: Tensor) -> str:
    return " and ".join(str(tuple(t.shape)) for t in tensors)
