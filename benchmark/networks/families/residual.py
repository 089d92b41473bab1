"""Residual networks (He et al. 2016)."""

from __future__ import annotations

from torch import nn

from benchmark.api.network import Network


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


NETWORKS = {"resnet18": resnet18}
