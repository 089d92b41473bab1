"""Plain deep networks (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from torch import nn

from benchmark.api.network import Network

_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def vgg11(classes: int, shape: tuple[int, int, int]) -> Network:
    """VGG-11 (configuration A) with BatchNorm and one linear head, for small images; d = 512.

    Pooling ends once a side is 1 pixel: after four of five poolings for 28x28, after three for 8x8.
    """
    channels, *size = shape
    layers: list[nn.Module] = []
    for block in _VGG11:
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        if min(size) > 1:
            layers.append(nn.MaxPool2d(2))
            size = [side // 2 for side in size]
    return Network(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width=512, classes=classes)


NETWORKS = {"vgg11": vgg11}
