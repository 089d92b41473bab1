"""The structure that all networks share: normalise, embed, classify."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Images (n, c, h, w) in [0, 1] -> logits (n, k), by `head(embed(x))`.

    The normalisation to [-1, 1] is part of the network: everything else handles images in [0, 1]. `width`: d.
    """

    def __init__(self, features: nn.Module, width: int, classes: int):
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, classes)

    @staticmethod
    def normalise(x: Tensor) -> Tensor:
        """Pixels from [0, 1] to [-1, 1]."""
        return (x - 0.5) / 0.5

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (n, d), the input of the last linear layer."""
        embedding: Tensor = self.features(self.normalise(x))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(x))
        return logits
