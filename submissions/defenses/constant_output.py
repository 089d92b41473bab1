"""Uniform posteriors whatever the query: the anchor of perfect privacy and no utility.

No attack on it can beat chance: one that does reads something that it should not. A ranking that puts this row first
lacks a utility floor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Training


class ConstantOutput(Defense):
    """A guard that ignores the query and the network."""

    card = Card(title="Constant output", authors=(), reference="An anchor, not a method", year=None, null=True)
    stages = ("post-inference",)
    data_independent = True

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        """The log-posteriors (k,) float64 that every query gets: log(1 / k), natural logarithm."""
        return {"log_posteriors": torch.full((training.classes,), -math.log(training.classes), dtype=torch.float64)}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> the same log-posteriors (n, k) float64 for each of them."""
        return lambda x: state["log_posteriors"].to(x.device).repeat(len(x), 1)
