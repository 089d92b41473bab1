"""Residual networks (He et al. 2016)."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape


def resnet18(classes: int, shape: tuple[int, int, int]) -> Network:
    """ResNet-18 of timm with the usual stem for small images: 3x3, stride 1, no max pooling; d = 512."""
    import timm  # slow to import, and the small networks don't need it

    backbone = timm.create_model("resnet18", pretrained=False, num_classes=0, in_chans=shape[0])
    backbone.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(
        backbone.conv1.weight, mode="fan_out", nonlinearity="relu"
    )  # as timm initialises its convolutions
    backbone.maxpool = nn.Identity()
    return Network(backbone, width=512, classes=classes)


def resnet18_as_released(classes: int, shape: Shape) -> Network:
    """ResNet-18 of timm with the stem for ImageNet: 7x7, stride 2, max pooling; d = 512."""
    return Network(_backbone("resnet18", shape), width=512, classes=classes)


def resnet34(classes: int, shape: Shape) -> Network:
    """ResNet-34 with the stem of `resnet18`; d = 512."""
    backbone = _backbone("resnet34", shape)
    backbone.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()
    return Network(backbone, width=512, classes=classes)


def resnet34_as_released(classes: int, shape: Shape) -> Network:
    """ResNet-34 of timm with the stem for ImageNet; d = 512."""
    return Network(_backbone("resnet34", shape), width=512, classes=classes)


def _backbone(name: str, shape: Shape) -> Any:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0, in_chans=shape[0])


NETWORKS = {
    "resnet18": Architecture("ResNet-18", "He et al. 2016", 8, resnet18),
    "resnet18_as_released": Architecture("ResNet-18, stem for ImageNet", "He et al. 2016", 32, resnet18_as_released),
    "resnet34": Architecture("ResNet-34", "He et al. 2016", 8, resnet34),
    "resnet34_as_released": Architecture("ResNet-34, stem for ImageNet", "He et al. 2016", 32, resnet34_as_released),
}
