"""Densely connected networks (Huang et al. 2017)."""

from __future__ import annotations

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape


def densenet121(classes: int, shape: Shape) -> Network:
    """DenseNet-121 of torchvision with a stem for small images: 3x3, stride 1, no max pooling; d = 1024."""
    return _densenet(classes, shape, small=True)


def densenet121_as_released(classes: int, shape: Shape) -> Network:
    """DenseNet-121 of torchvision with the stem for ImageNet: 7x7, stride 2, max pooling; d = 1024."""
    return _densenet(classes, shape, small=False)


def _densenet(classes: int, shape: Shape, small: bool) -> Network:
    from torchvision.models import densenet121 as made

    backbone = made(num_classes=classes)
    width = backbone.classifier.in_features
    backbone.classifier = nn.Identity()
    if small:
        backbone.features.conv0 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        backbone.features.pool0 = nn.Identity()
    else:
        backbone.features.conv0 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(backbone.features.conv0.weight)  # as torchvision initialises its convolutions
    return Network(backbone, width=width, classes=classes)


NETWORKS = {
    "densenet121": Architecture("DenseNet-121", "Huang et al. 2017", 8, densenet121),
    "densenet121_as_released": Architecture(
        "DenseNet-121, stem for ImageNet", "Huang et al. 2017", 32, densenet121_as_released
    ),
}
