"""Multilayer perceptrons: networks that see no neighbourhood of a pixel, unlike all others here."""

from __future__ import annotations

from math import prod

from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape


def mlp(classes: int, shape: Shape) -> Network:
    """Two hidden layers of 256 units with ReLU on the flat image; d = 256."""
    return Network(
        nn.Sequential(
            *(nn.Flatten(), nn.Linear(prod(shape), 256), nn.ReLU()),
            *(nn.Linear(256, 256), nn.ReLU()),
        ),
        width=256,
        classes=classes,
    )


NETWORKS = {"mlp": Architecture("Multilayer perceptron: two hidden layers of 256 units", "", 1, mlp)}
