"""The two plain networks of Song et al. 2019, section 4: 3x3 convolutions, some with stride 2, and a hidden layer of 200."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape

_FASHION = ((256, 1), (256, 1), (256, 2), (512, 1), (512, 1), (512, 2))
"""Channels and stride of each convolution."""
_YALE = ((8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 2), (64, 1), (64, 2))


def song_fashion(classes: int, shape: Shape) -> Network:
    """For Fashion-MNIST: two blocks of 256 and 512 channels, three convolutions each, the last with stride 2; d = 200."""
    return _plain(_FASHION, classes, shape, strided=3)


def song_fashion_verified(classes: int, shape: Shape) -> Network:
    """As `song_fashion`, with 4x4 kernels where the stride is 2: the variant of the code for verified robustness; d = 200."""
    return _plain(_FASHION, classes, shape, strided=4)


def song_yale(classes: int, shape: Shape) -> Network:
    """For Yale Face: four blocks of 8, 16, 32 and 64 channels, two convolutions each, the second with stride 2; d = 200."""
    return _plain(_YALE, classes, shape, strided=3)


def _plain(convolutions: Sequence[tuple[int, int]], classes: int, shape: Shape, strided: int) -> Network:
    """`strided`: the kernel where the stride is 2. Convolutions are initialised as in the released code."""
    channels, *size = shape
    layers: list[nn.Module] = []
    for width, stride in convolutions:
        kernel = 3 if stride == 1 else strided
        convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.ReLU()]
        channels, size = width, [(side + 2 - kernel) // stride + 1 for side in size]
    hidden = nn.Linear(channels * size[0] * size[1], 200)
    return Network(nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU()), width=200, classes=classes)


NETWORKS = {
    "song_fashion": Architecture("CNN for Fashion-MNIST", "Song et al. 2019", 4, song_fashion),
    "song_fashion_verified": Architecture(
        "CNN for Fashion-MNIST, as verified", "Song et al. 2019", 4, song_fashion_verified
    ),
    "song_yale": Architecture("CNN for Yale Face", "Song et al. 2019", 16, song_yale),
}
