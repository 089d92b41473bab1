"""Estimates over seeds, paired differences, ranks, and the choice of a worst case (RULES 16, 17, 21)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes half a second to import, which the app's first page has not

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % t-interval; the bounds are NaN with fewer than two seeds."""

    mean: float
    low: float
    high: float


def estimate(values: Floats) -> Estimate:
    """Mean and 95 % t-interval of values (s,), one a seed; NaNs (seeds without a value) don't count."""
    mean, half = interval(np.asarray(values, float))
    return Estimate(float(mean), float(mean - half), float(mean + half))


def interval(values: Floats) -> tuple[Floats, Floats]:
    """Mean and half-width of the 95 % t-interval over the last axis without NaNs; NaN for fewer than two values."""
    count = np.isfinite(values).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(np.isfinite(values), values, 0).sum(-1) / np.where(count, count, np.nan)
        square = np.where(np.isfinite(values), (values - mean[..., None]) ** 2, 0).sum(-1)
        half = special.stdtrit(count - 1, 0.975) * np.sqrt(square / (count - 1) / count)
    return mean, np.where(count > 1, half, np.nan)


def paired_difference(first: Floats, second: Floats) -> Estimate:
    """The mean difference first - second over seeds with its 95 % t-interval; values (targets, seeds) or (seeds,).

    For each seed, differences are averaged over the targets that both entries have (NaN: missing).
    """
    both = np.stack([np.asarray(first, float), np.asarray(second, float)])
    return estimate(nanmean((both[0] - both[1]).reshape(-1, both.shape[-1]), axis=0))


def rank(values: Floats, larger_is_better: bool, level: NDArray[np.bool_] | None = None) -> pd.DataFrame:
    """Ranks and rank intervals of n entries with values (n, targets, seeds), and how many each is clearly better or worse than.

    "Clearly" means that the 95 % t-interval of the seed-paired difference excludes 0 (each pair for itself: no correction
    for the number of pairs). rank_low is 1 + worse_than, rank_high n - better_than. `level` (n,) marks entries among
    which there is no order. With one seed there are no intervals.
    """
    mean, half, _ = compare(-np.asarray(values, float) if larger_is_better else np.asarray(values, float), level)
    if level is not None:
        mean = np.where(level[:, None] & level, 0.0, mean)
    better = mean + half < 0  # better[i, j]: i is clearly better than j
    n, worse_than, better_than = len(values), better.sum(0), better.sum(1)
    return pd.DataFrame({
        # By the same pairwise differences as the intervals, on the targets that both entries met.
        "rank": 1 + (mean > 0).sum(1),
        "rank_low": 1 + worse_than,
        "rank_high": n - better_than,
        "better_than": better_than,
        "worse_than": worse_than,
    })  # fmt: skip


def compare(values: Floats, level: NDArray[np.bool_] | None = None) -> tuple[Floats, Floats, Floats]:
    """The seed-paired differences of n entries with values (n, targets, seeds): means, half-widths and p, each (n, n).

    mean[i, j]: i - j over the targets that both have, averaged over seeds; half: of its 95 % t-interval, NaN with one
    seed; p: of the two-sided t-test that it is 0. Among the entries that `level` (n,) marks there is no order: p is 1.
    """
    # Records hold 6 digits: a difference beyond the 9th decimal is rounding of the arithmetic.
    by_seed = nanmean((values[:, None] - values[None]).round(9), axis=2)
    mean, half = interval(by_seed)
    freedom = np.maximum(np.isfinite(by_seed).sum(-1) - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(mean) / half * special.stdtrit(freedom, 0.975)
    p = np.asarray(2 * special.stdtr(freedom, -t))
    p = np.where(np.isfinite(p), p, 1.0)  # one seed, or two entries with equal values
    return mean, half, np.where(level[:, None] & level, 1.0, p) if level is not None else p


def false_discovery_rates(p: Floats) -> Floats:
    """P-values (n,) adjusted by Benjamini and Hochberg (1995): the least false discovery rate at which each is called."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.minimum(adjusted, 1.0)


def nanmean(values: Floats, axis: int) -> Floats:
    """The mean without NaNs; NaN where nothing is left."""
    finite = np.isfinite(values)
    if finite.all() and values.shape[axis]:
        return np.asarray(values.mean(axis))
    count = finite.sum(axis)
    total: Floats = np.where(finite, values, 0).sum(axis)
    return total / np.where(count, count, np.nan)


def either_sign(auc: Floats) -> Floats:
    """AUCs (..., seeds), each replaced by 1 - AUC where that is larger on the other seeds (RULES 16, 17).

    An AUC below 1/2 is leakage as well: the attacker reverses the score's sign.
    """
    return leave_one_out(np.stack([auc, 1 - auc], -2))[0]


def leave_one_out(values: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The worst case on each seed and the index of its candidate (RULES 17), both (..., seeds).

    values (..., candidates, seeds): larger is worse. For each seed the candidate with the largest mean over the *other*
    seeds is chosen and its value on this seed reported, so that choosing a maximum does not bias it upwards. With one
    seed it is the maximum itself. NaN where there is no candidate.
    """
    *more, candidates, seeds = values.shape
    if not candidates:
        return np.full((*more, seeds), np.nan), np.zeros((*more, seeds), np.intp)
    if seeds == 1:
        chosen = values.argmax(-2)
    else:
        rows = np.ascontiguousarray(np.moveaxis(values, -1, 0))  # (seeds, ..., candidates): sums over whole rows
        others = (np.add.reduce([rows[o] for o in range(seeds) if o != s]) for s in range(seeds))
        chosen = np.stack([total.argmax(-1) for total in others], -1)
    return np.take_along_axis(values, chosen[..., None, :], -2)[..., 0, :], chosen
