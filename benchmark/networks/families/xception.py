"""Xception: depthwise separable convolutions (Chollet 2017)."""

from __future__ import annotations

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape


def xception(classes: int, shape: Shape) -> Network:
    """Xception of timm for small images: both convolutions of the stem 3x3 with stride 1 and padding; d = 2048."""
    return _xception(classes, shape, stride=1, padding=1)


def xception_as_released(classes: int, shape: Shape) -> Network:
    """Xception of timm with the stem for ImageNet: strides 2 and 1, no padding; d = 2048."""
    return _xception(classes, shape, stride=2, padding=0)


def _xception(classes: int, shape: Shape, stride: int, padding: int) -> Network:
    import timm

    backbone = timm.create_model("legacy_xception", pretrained=False, num_classes=0, in_chans=shape[0])
    backbone.conv1.stride = (stride, stride)
    backbone.conv1.padding = backbone.conv2.padding = (padding, padding)
    return Network(backbone, width=2048, classes=classes)


NETWORKS = {
    "xception": Architecture("Xception", "Chollet 2017", 16, xception),
    "xception_as_released": Architecture("Xception, stem for ImageNet", "Chollet 2017", 32, xception_as_released),
}
