"""MobileNets (Sandler et al. 2018)."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape
from benchmark.networks.dropout import seeded

_SMALL = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
"""Expansion, channels, blocks and stride of each stage; ImageNet's second stage has stride 2."""


def mobilenetv2(classes: int, shape: Shape) -> Network:
    """MobileNetV2 of torchvision for small images: stem and second stage with stride 1, no dropout; d = 1280."""
    from torchvision.models import MobileNetV2

    return _mobilenet(MobileNetV2(classes, inverted_residual_setting=_SMALL, dropout=0), classes, shape, stride=1)


def mobilenetv2_as_released(classes: int, shape: Shape) -> Network:
    """MobileNetV2 of torchvision with the strides for ImageNet and dropout 0.2; d = 1280."""
    from torchvision.models import MobileNetV2

    return _mobilenet(MobileNetV2(classes), classes, shape, stride=2)


def _mobilenet(made: Any, classes: int, shape: Shape, stride: int) -> Network:
    dropout, head = made.classifier
    made.classifier = nn.Identity() if dropout.p == 0 else dropout
    made.features[0][0] = nn.Conv2d(shape[0], 32, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(made.features[0][0].weight, mode="fan_out")  # as torchvision initialises its convolutions
    return Network(seeded(made), width=head.in_features, classes=classes)


NETWORKS = {
    "mobilenetv2": Architecture("MobileNetV2", "Sandler et al. 2018", 8, mobilenetv2),
    "mobilenetv2_as_released": Architecture(
        "MobileNetV2, strides for ImageNet", "Sandler et al. 2018", 32, mobilenetv2_as_released
    ),
}
