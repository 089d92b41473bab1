"""Gaussian smoothing: the mean answer to n noisy copies of the query. The cheap anchor for DIFFENCE.

Source: the smoothed classifier of Cohen et al. 2019 (section 3, equation 1), whose base classifier is asked for its
posteriors instead of its label. It is an input guard without a diffusion model, so it shows what DIFFENCE gains over
noise alone. DIFFENCE's reconstruction removes noise of standard deviation sqrt(1 / abar - 1) / 2 in pixels of [0, 1]:
0.14 at step 80, 0.28 at step 160.

Differences: a network that was not trained under noise answers; noise is drawn from the query by the contract's keyed
hash; pixels stay in [0, 1]; no radius is certified. Labels may change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search


class GaussianSmoothing(Defense):
    """Posteriors are averaged over noisy copies of the query; no training data is read."""

    card = Card(
        title="Gaussian smoothing",
        authors=("Cohen", "Rosenfeld", "Kolter"),
        reference="Certified Adversarial Robustness via Randomized Smoothing, ICML 2019",
        year=2019,
    )
    stages = ("pre-inference",)
    data_independent = True

    class Params(Hyper):
        """`n` copies a query, with noise of standard deviation `sigma` in pixels of [0, 1]."""

        n: Annotated[int, Field(ge=1, le=1000), Search(1, 50, log=True)] = 10
        sigma: Annotated[float, Field(gt=0, le=1), Search(0.02, 0.3, log=True)] = 0.1

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> the logarithm of the mean posteriors (n, k) float64 of their noisy copies."""
        n, sigma = self.params.n, self.params.sigma

        def guarded(x: Tensor) -> Tensor:
            answers = [
                predict((x + sigma * context.normal(f"gaussian-smoothing-{i}", x)).clamp(0, 1)) for i in range(n)
            ]
            return (torch.stack(answers).logsumexp(0) - math.log(n)).clamp_max(0)

        return guarded
