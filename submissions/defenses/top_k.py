"""Top-k: answers give only the k largest posteriors.

Source: Shokri et al. 2017, section VIII, the first mitigation: restrict the prediction vector to its top k classes.
k = 3 is among their settings (not verified against the paper's text).

Differences: their vector has k entries; here the other classes share the rest evenly, so that posteriors sum to 1.
Equal posteriors are ranked in the order of their classes. The label never changes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search


class TopK(Defense):
    """The k largest posteriors, and one equal value for all other classes."""

    card = Card(
        title="Top-k posteriors",
        authors=("Shokri", "Stronati", "Song", "Shmatikov"),
        reference="Membership Inference Attacks Against Machine Learning Models, IEEE S&P 2017",
        year=2017,
    )
    stages = ("post-inference",)
    data_independent = True

    class Params(Hyper):
        """`k` posteriors are given; with k of all classes or more the answer stays as it is."""

        k: Annotated[int, Field(ge=1), Search(1, 9)] = 3

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> log-posteriors (n, k) float64 with the small ones made equal."""
        return lambda x: top_k(predict(x), self.params.k)


def top_k(clean: Tensor, k: int) -> Tensor:
    """Log-posteriors (n, classes) whose classes beyond the k largest share their sum evenly."""
    if k >= clean.shape[1]:
        return clean
    # A stable sort, for topk may take any of equal values.
    values, order = clean.sort(dim=1, descending=True, stable=True)
    rest = values[:, k:].logsumexp(1, keepdim=True) - math.log(clean.shape[1] - k)
    told = torch.cat([values[:, :k], rest.expand(-1, clean.shape[1] - k)], 1)
    # Rounding can make the mean of the rest equal to the largest posterior, and a label must not change at all.
    below = torch.nextafter(told[:, :1], told.new_tensor(-math.inf))
    told = torch.cat([told[:, :1], told[:, 1:].minimum(below)], 1)
    return torch.empty_like(clean).scatter_(1, order, told)
