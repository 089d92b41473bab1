"""Rounding: answers give posteriors to a few decimal digits.

Source: Shokri et al. 2017, section VIII, the second mitigation: coarsen the precision of the prediction vector. One and
three digits are among their settings (not verified against the paper's text).

Differences: rounded posteriors are divided by their sum, so that they sum to 1. The label never changes: it keeps at
least one unit of the last digit, and a class that rounding makes equal to it gets the next smaller float64. A posterior
of 0 is given as e^-50, because attacks take logarithms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search

FLOOR = -50.0
"""Log-posterior of a class that is rounded to 0."""


class Rounding(Defense):
    """Posteriors rounded to `digits` decimal digits."""

    card = Card(
        title="Rounded posteriors",
        authors=("Shokri", "Stronati", "Song", "Shmatikov"),
        reference="Membership Inference Attacks Against Machine Learning Models, IEEE S&P 2017",
        year=2017,
    )
    stages = ("post-inference",)
    data_independent = True

    class Params(Hyper):
        """`digits` after the decimal point."""

        digits: Annotated[int, Field(ge=1, le=12), Search(1, 4)] = 1

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> logarithms (n, k) float64 of the rounded posteriors."""
        return lambda x: rounded(predict(x), self.params.digits)


def rounded(clean: Tensor, digits: int) -> Tensor:
    """Log-posteriors (n, k) whose posteriors are rounded, halves to the even digit, and divided by their sum."""
    label = clean.argmax(1, keepdim=True)
    units = (clean.exp() * 10**digits).round()
    units = units.scatter(1, label, units.gather(1, label).clamp_min(1))
    told = (units / units.sum(1, keepdim=True)).log().clamp_min(FLOOR)
    top = told.gather(1, label)
    below = torch.nextafter(top, told.new_tensor(-math.inf))
    return told.minimum(below).scatter(1, label, top)
