"""The difference of two shares of the same records, with its interval: what an attack gains over its null."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmark.metrics import Bools


class Difference(NamedTuple):
    """A difference of two shares, in [-1, 1], and the ends of its interval."""

    value: float
    low: float
    high: float


def difference(first: Bools, second: Bools, strata: NDArray[np.int64], level: float = 0.05) -> Difference:
    """The share of true values in `first` (n,) less that in `second` (n,), of the same records, with a 1 - level interval.

    Within a stratum it is the square-and-add interval of Newcombe (1998, Statistics in Medicine 17: 2635-2650, method 10), which
    holds near 0 and 1, where all records agree, too. Of several strata (n,) the mean counts, and the distances of the ends are
    added by their squares likewise: so much is the difference of two balanced accuracies.
    """
    each = [_paired(first[strata == s], second[strata == s], level) for s in np.unique(strata)]
    value = sum(d.value for d in each) / len(each)
    below, above = (
        math.sqrt(sum((d.value - end) ** 2 for d, end in ends)) / len(each)
        for ends in ([(d, d.low) for d in each], [(d, d.high) for d in each])
    )
    return Difference(value, max(-1.0, value - below), min(1.0, value + above))


def _paired(first: Bools, second: Bools, level: float) -> Difference:
    n, one, other = len(first), int(first.sum()), int(second.sum())
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    (p, l1, u1), (q, l2, u2) = (_wilson(k, n, level) for k in (one, other))
    surplus = both * neither - (one - both) * (other - both)
    if surplus > 0:
        surplus = max(surplus - n / 2, 0)  # type: ignore[assignment]
    margins = one * (n - one) * other * (n - other)
    phi = surplus / math.sqrt(margins) if margins else 0.0
    below = (p - l1) ** 2 - 2 * phi * (p - l1) * (u2 - q) + (u2 - q) ** 2
    above = (u1 - p) ** 2 - 2 * phi * (u1 - p) * (q - l2) + (q - l2) ** 2
    return Difference(p - q, p - q - math.sqrt(max(below, 0)), p - q + math.sqrt(max(above, 0)))


def _wilson(k: int, n: int, level: float) -> tuple[float, float, float]:
    """A share and the ends of its Wilson interval."""
    interval = binomtest(k, n).proportion_ci(1 - level, "wilson")
    return k / n, float(interval.low), float(interval.high)
