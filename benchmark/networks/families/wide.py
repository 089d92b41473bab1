"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape


class _Block(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU, and a shortcut: 1x1 where the shape changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if before == width else nn.Conv2d(before, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x).relu()
        residual: Tensor = self.conv2(self.norm2(self.conv1(active)).relu())
        return residual + (x if self.shortcut is None else self.shortcut(active))


def _wide(depth: int, factor: int, classes: int, shape: Shape) -> Network:
    """WRN-depth-factor: a 3x3 convolution, three groups of (depth - 4) / 6 blocks, BatchNorm, ReLU; d = 64 factor."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)]
    before = 16
    for width, stride in ((16 * factor, 1), (32 * factor, 2), (64 * factor, 2)):
        for i in range((depth - 4) // 6):
            layers.append(_Block(before, width, 1 if i else stride))
            before = width
    layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    features = nn.Sequential(*layers)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Network(features, width=before, classes=classes)


def wrn_28_2(classes: int, shape: Shape) -> Network:
    """WRN-28-2, as LiRA and RMIA use it; d = 128."""
    return _wide(28, 2, classes, shape)


def wrn_28_10(classes: int, shape: Shape) -> Network:
    """WRN-28-10, the paper's; d = 640."""
    return _wide(28, 10, classes, shape)


def wrn_34_10(classes: int, shape: Shape) -> Network:
    """WRN-34-10: three groups of 160, 320 and 640 channels, five blocks each, as Song et al. 2019 use it; d = 640."""
    return _wide(34, 10, classes, shape)


NETWORKS = {
    "wrn_28_2": Architecture("WRN-28-2", "Zagoruyko and Komodakis 2016", 4, wrn_28_2),
    "wrn_28_10": Architecture("WRN-28-10", "Zagoruyko and Komodakis 2016", 4, wrn_28_10),
    "wrn_34_10": Architecture("WRN-34-10", "Zagoruyko and Komodakis 2016", 4, wrn_34_10),
}
