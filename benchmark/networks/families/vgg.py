"""Plain deep networks (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape
from benchmark.networks.dropout import seeded

_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_VGG16 = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
_VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


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


def vgg16(classes: int, shape: Shape) -> Network:
    """VGG-16 (configuration D), otherwise as `vgg11`; d = 512."""
    return _small(_VGG16, classes, shape)


def vgg19(classes: int, shape: Shape) -> Network:
    """VGG-19 (configuration E), otherwise as `vgg11`; d = 512."""
    return _small(_VGG19, classes, shape)


def vgg11_as_released(classes: int, shape: Shape) -> Network:
    """VGG-11 of torchvision: no BatchNorm, three linear layers, dropout 0.5; d = 4096."""
    from torchvision.models import vgg11 as made

    return _released(made(num_classes=classes), classes, shape)


def vgg16_as_released(classes: int, shape: Shape) -> Network:
    """VGG-16 of torchvision: no BatchNorm, three linear layers, dropout 0.5; d = 4096."""
    from torchvision.models import vgg16 as made

    return _released(made(num_classes=classes), classes, shape)


def vgg19_as_released(classes: int, shape: Shape) -> Network:
    """VGG-19 of torchvision: no BatchNorm, three linear layers, dropout 0.5; d = 4096."""
    from torchvision.models import vgg19 as made

    return _released(made(num_classes=classes), classes, shape)


def _small(blocks: tuple[tuple[int, ...], ...], classes: int, shape: Shape) -> Network:
    """As `vgg11`, which stays spelled out: its body is in the keys of published rows."""
    channels, *size = shape
    layers: list[nn.Module] = []
    for block in blocks:
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        if min(size) > 1:
            layers.append(nn.MaxPool2d(2))
            size = [side // 2 for side in size]
    return Network(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width=512, classes=classes)


def _released(made: Any, classes: int, shape: Shape) -> Network:
    """torchvision's VGG for any number of channels, its last layer as the head."""
    if shape[0] != 3:
        made.features[0] = nn.Conv2d(shape[0], 64, 3, padding=1)
        nn.init.kaiming_normal_(made.features[0].weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(made.features[0].bias)
    layers = (*made.features, made.avgpool, nn.Flatten(), *made.classifier[:-1])
    return Network(seeded(nn.Sequential(*layers)), width=4096, classes=classes)


NETWORKS = {
    "vgg11": Architecture("VGG-11 with BatchNorm", "Simonyan and Zisserman 2015", 1, vgg11),
    "vgg11_as_released": Architecture(
        "VGG-11, head for ImageNet", "Simonyan and Zisserman 2015", 32, vgg11_as_released
    ),
    "vgg16": Architecture("VGG-16 with BatchNorm", "Simonyan and Zisserman 2015", 1, vgg16),
    "vgg16_as_released": Architecture(
        "VGG-16, head for ImageNet", "Simonyan and Zisserman 2015", 32, vgg16_as_released
    ),
    "vgg19": Architecture("VGG-19 with BatchNorm", "Simonyan and Zisserman 2015", 1, vgg19),
    "vgg19_as_released": Architecture(
        "VGG-19, head for ImageNet", "Simonyan and Zisserman 2015", 32, vgg19_as_released
    ),
}
