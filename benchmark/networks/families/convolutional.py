"""Small convolutional networks without BatchNorm: they work under DP-SGD and torch.func as they are."""

from __future__ import annotations

from torch import nn

from benchmark.api.network import Network

Shape = tuple[int, int, int]


def simple_cnn(classes: int, shape: Shape) -> Network:
    """Two 3x3 convolutions of 32 and 64 channels with max pooling, a hidden layer; d = 128."""
    c, h, w = shape
    return Network(
        nn.Sequential(
            *(nn.Conv2d(c, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * (h // 4) * (w // 4), 128), nn.ReLU()),
        ),
        width=128,
        classes=classes,
    )


def small_cnn(classes: int, shape: Shape) -> Network:
    """Two strided convolutions of 16 and 32 channels, a hidden layer; d = 64. Cheap on a CPU.

    5x5 with stride 2 each; on images under 16 pixels 3x3 with strides 1 and 2, for there is little left to halve.
    """
    c, h, w = shape
    kernel, first = (5, 2) if min(h, w) >= 16 else (3, 1)
    step = 2 * first
    return Network(
        nn.Sequential(
            *(nn.Conv2d(c, 16, kernel, stride=first, padding=kernel // 2), nn.ReLU()),
            *(nn.Conv2d(16, 32, kernel, stride=2, padding=kernel // 2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * -(-h // step) * -(-w // step), 64), nn.ReLU()),
        ),
        width=64,
        classes=classes,
    )


NETWORKS = {"simple_cnn": simple_cnn, "small_cnn": small_cnn}
