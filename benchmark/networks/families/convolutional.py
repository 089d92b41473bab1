"""Small convolutional networks without BatchNorm: they work under DP-SGD and torch.func as they are."""

from __future__ import annotations

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape


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


def simple_cnn_as_released(classes: int, shape: Shape) -> Network:
    """Three 3x3 convolutions of 32, 64 and 128 channels without padding, max pooling, a hidden layer; d = 512.

    The released code of ML-Doctor has one convolution more than the paper's two. It is given images of 64x64.
    """
    c, h, w = shape
    for _ in range(3):
        h, w = (h - 2) // 2, (w - 2) // 2
    return Network(
        nn.Sequential(
            *(nn.Conv2d(c, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(128 * h * w, 512), nn.ReLU()),
        ),
        width=512,
        classes=classes,
    )


NETWORKS = {
    "simple_cnn": Architecture("SimpleCNN: two convolutions, two linear layers", "Liu et al. 2022", 4, simple_cnn),
    "simple_cnn_as_released": Architecture(
        "SimpleCNN with three convolutions", "Liu et al. 2022", 22, simple_cnn_as_released
    ),
    "small_cnn": Architecture("Small CNN: two strided convolutions", "", 4, small_cnn),
}
