"""AlexNet (Krizhevsky et al. 2012), in the one-column form of 2014."""

from __future__ import annotations

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape
from benchmark.networks.dropout import seeded


def alexnet(classes: int, shape: Shape) -> Network:
    """Five convolutions as in torchvision, the first 3x3 with stride 1; 2x2 max pooling, one linear head; d = 256."""
    return Network(
        nn.Sequential(
            *(nn.Conv2d(shape[0], 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ),
        width=256,
        classes=classes,
    )


def alexnet_as_released(classes: int, shape: Shape) -> Network:
    """AlexNet of torchvision: 11x11 with stride 4, three linear layers, dropout 0.5; d = 4096."""
    from torchvision.models import alexnet as made

    network = made(num_classes=classes)
    if shape[0] != 3:
        network.features[0] = nn.Conv2d(shape[0], 64, 11, stride=4, padding=2)
    layers = (*network.features, network.avgpool, nn.Flatten(), *network.classifier[:-1])
    return Network(seeded(nn.Sequential(*layers)), width=4096, classes=classes)


NETWORKS = {
    "alexnet": Architecture("AlexNet", "Krizhevsky 2014", 8, alexnet),
    "alexnet_as_released": Architecture("AlexNet, stem for ImageNet", "Krizhevsky 2014", 63, alexnet_as_released),
}
