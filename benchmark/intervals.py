"""Interval bounds: how far the logits can move when every pixel moves within bounds of its own.

Source: Gowal et al. 2018, On the Effectiveness of Interval Bound Propagation, section 3: a box goes through the
network layer by layer. An affine layer maps the box's middle as it does any input and its half-width by the absolute
weights (equation 6); a layer that is monotone and works on elements, or on maxima and means of them, maps the ends.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.architectures.network import Network

_MONOTONE = (
    nn.Identity, nn.Flatten, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip


def interval_bounds(network: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (n, k) of the network's eval-mode logits on all images between low and high (n, c, h, w), low <= high.

    Differentiable, in the network's own precision: the bounds hold up to its rounding. BatchNorm counts by its running
    statistics, whatever mode the network is in. Raises ValueError that names a layer which cannot be bounded.
    """
    if low.shape != high.shape:
        raise ValueError(f"interval bounds: expected low and high of one shape, given {_shapes(low, high)}")
    return _through(network, low, high)


def _through(layer: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    # A class of its own may do anything in `forward`, so only the very types count, no subclasses.
    kind = type(layer)
    if kind is Network:
        assert isinstance(layer, Network)
        return _through(layer.head, *_through(layer.features, layer.normalise(low), layer.normalise(high)))
    if kind is nn.Sequential:
        for part in layer.children():
            low, high = _through(part, low, high)
        return low, high
    if kind is nn.ReLU:  # which may work in place, on what is the caller's
        return low.relu(), high.relu()
    if kind in _MONOTONE:
        return layer(low), layer(high)
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
        known = ", ".join(
            t.__name__ for t in (Network, nn.Sequential, nn.Linear, nn.Conv2d, nn.BatchNorm2d, *_MONOTONE)
        )
        raise ValueError(f"interval bounds: expected layers of {known}, given {kind.__name__}")
    return middle - half, middle + half


def _shapes(*tensors: Tensor) -> str:
    return " and ".join(str(tuple(t.shape)) for t in tensors)
