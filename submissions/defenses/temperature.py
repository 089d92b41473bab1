"""Temperature: posteriors are flattened by a fixed softmax temperature.

Source: Shokri et al. 2017, section VIII, the third mitigation: increase the entropy of the prediction vector by a
temperature in the softmax. Temperatures of 5 and 20 are among their settings (not verified against the
paper's text).

Differences: it works on log-posteriors in float64, which are logits up to a constant that the softmax cancels. The
temperature is a hyperparameter: one that is fitted to data (Guo et al. 2017) would not be independent of them. It is
invertible: an attacker who knows the temperature undoes it, up to rounding. The label never changes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search


class Temperature(Defense):
    """Log-posteriors divided by a temperature, and normalised again."""

    card = Card(
        title="Temperature",
        authors=("Shokri", "Stronati", "Song", "Shmatikov"),
        reference="Membership Inference Attacks Against Machine Learning Models, IEEE S&P 2017",
        year=2017,
    )
    stages = ("post-inference",)
    data_independent = True

    class Params(Hyper):
        """`temperature` above 1 flattens, below 1 sharpens."""

        temperature: Annotated[float, Field(ge=0.01, le=1e6), Search(0.5, 20, log=True)] = 5.0

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> log-posteriors (n, k) float64 at the temperature."""
        return lambda x: scaled(predict(x), self.params.temperature)


def scaled(clean: Tensor, temperature: float) -> Tensor:
    """Log-posteriors (n, k) at this temperature."""
    label = clean.argmax(1, keepdim=True)
    told = (clean / temperature).log_softmax(1)
    # Rounding can make two posteriors equal, and a label must not change at all.
    top = told.gather(1, label)
    below = torch.nextafter(top, told.new_tensor(-math.inf))
    return told.minimum(below).scatter(1, label, top)
