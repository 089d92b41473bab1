"""Membership metrics with their uncertainty: bootstrap intervals, and what chance alone would reach.

How often the 95 % intervals hold the truth, on binormal scores (AUC 0.6 and 0.75; 300 + 300 and
1,000 + 1,000 samples; 1,000 to 2,000 draws each):

- AUC 0.946 to 0.956; balanced accuracy, advantage, precision, F1 0.946 to 0.959; recall 0.960 to 0.966;
- TPR at 1 % FPR 0.931 to 0.956;
- TPR at 0.1 % FPR and TNR at 0.1 % FNR at 1,000 + 1,000, where the rate is one sample: 0.80 to 0.91, for
  the largest attainable TPR errs upwards there. This is why a rate is shown from 1 / rate samples but
  ranked from 10 / rate (RULES 15).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, expit
from scipy.stats import binom

from benchmark.metrics import Bools, Curve, Floats, resolves, thin_roc

LEVEL = 0.95
_BLOCK = 2_000_000  # weights held at once: 16 MB an array
_QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
DELTA = 1e-5
"""For which a lower bound on epsilon is claimed."""
_GUESSED = 0.2
"""Share of the canaries on whose inclusion a guess is made, fixed beforehand; on the others there is none."""
_BINS = 30
_OF_MEMBERS = ("tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "tpr_at_fpr_0.01_reversed", "recall")


@dataclass(frozen=True)
class Report:
    """What a `Result` holds of a membership attack; unresolved metrics are absent."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    roc: tuple[tuple[float, ...], tuple[float, ...]]
    histogram: tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]
    null_auc: tuple[float, ...]
    null_tpr: tuple[float, ...]


def membership_report(
    scores: ArrayLike,
    members: ArrayLike,
    threshold: float | None,
    *,
    rng: np.random.Generator,
    null_rng: np.random.Generator,
    resamples: int = 1000,
    nulls: int = 20,
) -> Report:
    """Metrics of scores (n,), or (s, n) for s attack seeds, against members (n,) bool.

    Metrics are means over the seeds; ROC curve and histogram are those of the seed with the middle AUC. Without a
    threshold there is no accuracy. Intervals (95 %) are percentiles of a bootstrap that resamples members
    and non-members apart, the same for all seeds. Shares of members (or of non-members) get at least the
    exact binomial interval, since resampling a rate of 0 gives 0 alone. The nulls permute the labels and
    depend on `null_rng` and n alone: equal generators make the nulls of two attacks on one target
    comparable draw by draw. Raises ValueError where a score is NaN or a side is empty.
    """
    rows = np.atleast_2d(np.asarray(scores, np.float64))
    members = np.asarray(members, bool)
    curves = [Curve.of(row, members, ~members) for row in rows]
    metrics = {name: float(value) for name, value in _metrics(curves, threshold).items()}
    # No interval: the best over thresholds errs upwards, and in a bootstrap twice (it covered 75 to 87 %).
    metrics["balanced_accuracy_oracle"] = float(np.mean([c.balanced_accuracies().max() for c in curves]))
    intervals = _intervals(rows, members, threshold, resamples, rng)
    positives, negatives = int(members.sum()), int((~members).sum())
    for name in metrics.keys() & {*_OF_MEMBERS, "tnr_at_fnr_0.001"}:
        n = positives if name in _OF_MEMBERS else negatives
        intervals[name] = at_least_binomial(intervals[name], metrics[name], n)
    if len(rows) > 1:
        metrics["auc_seed_sd"] = float(np.std([c.auc() for c in curves], ddof=1))
    metrics |= {"members": float(positives), "nonmembers": float(negatives)}
    at = sorted(range(len(curves)), key=lambda i: float(curves[i].auc()))[len(curves) // 2]
    middle = curves[at]
    fpr, tpr = thin_roc(middle.fp / middle.fp[-1], middle.tp / middle.tp[-1])
    roc = tuple(fpr.tolist()), tuple(tpr.tolist())
    return Report(metrics, intervals, roc, score_histogram(rows[at], members), *_null(rows, members, nulls, null_rng))


def score_histogram(scores: Floats, members: Bools) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]:
    """Edges of 30 equal bins and how many scores of members and of non-members lie in each.

    The bins span the scores but for 1 % at either end, which count in the outer bins: scores may have any tail.
    """
    ends = np.quantile(scores, (0.01, 0.99), method="nearest")
    low, high = ends if ends[0] < ends[1] else (scores.min(), scores.max())
    width = high - low
    if not (0 < width < np.inf):  # one value, or a span that no float holds
        low, width = scores[len(scores) // 2] - 0.5, 1.0
    edges = low + width * np.linspace(0, 1, _BINS + 1)
    at = np.searchsorted(edges[1:-1], scores, side="right")
    inside, outside = (np.bincount(at[side], minlength=_BINS) for side in (members, ~members))
    return tuple(edges.tolist()), tuple(inside.tolist()), tuple(outside.tolist())


def references_auc(
    scores: ArrayLike, members: ArrayLike, rng: np.random.Generator, resamples: int = 1000
) -> tuple[float, float, float]:
    """(mean AUC, low, high) where each of m reference models is the target in turn; RULES 21.

    scores (m, n) and members (m, n) bool, over the same n samples. The 95 % interval resamples models and
    samples independently (two-way or pigeonhole bootstrap: Owen 2007, which shows it mildly conservative).
    Raises ValueError where a score is NaN or a model lacks members or non-members.
    """
    scores, members = np.asarray(scores, np.float64), np.asarray(members, bool)
    models, samples = scores.shape
    auc = np.mean([Curve.of(s, inside, ~inside).auc() for s, inside in zip(scores, members, strict=True)])
    draws = []
    for size in _blocks(resamples, samples):
        model_weights = _multiplicities(models, size, rng)
        weights = _multiplicities(samples, size, rng)
        each = [_weighted_auc(s, inside, weights) for s, inside in zip(scores, members, strict=True)]
        draws.append((model_weights.T * each).sum(0) / models)
    low, high = _interval(np.concatenate(draws))
    return float(auc), low, high


def _metrics(curves: list[Curve], threshold: float | None) -> dict[str, Floats]:
    """Means over curves of the same samples (an attack's seeds); each value has their leading shape."""
    positives, negatives = (int(np.max(counts[..., -1])) for counts in (curves[0].tp, curves[0].fp))
    rows: list[dict[str, Floats]] = []
    for c in curves:
        row = {"auc": c.auc()}
        if resolves(negatives, 0.01):
            row["tpr_at_fpr_0.01"] = c.tpr_at(0.01)
            row["tpr_at_fpr_0.01_reversed"] = c.negated().tpr_at(0.01)
        if resolves(negatives, 0.001):
            row["tpr_at_fpr_0.001"] = c.tpr_at(0.001)
        if resolves(positives, 0.001):
            row["tnr_at_fnr_0.001"] = c.tnr_at(0.001)
        if threshold is not None:
            row |= c.decisions(threshold)
        rows.append(row)
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}


def _intervals(
    rows: Floats, members: Bools, threshold: float | None, resamples: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    blocks = []
    for size in _blocks(resamples, len(members)):
        inside, outside = _stratified_weights(members, size, rng)
        blocks.append(_metrics([Curve.of(row, inside, outside) for row in rows], threshold))
    return {name: _interval(np.concatenate([block[name] for block in blocks])) for name in blocks[0]}


def _stratified_weights(members: Bools, size: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """How often each of n samples is drawn, (size, n), as a member and as a non-member."""
    inside, outside = np.zeros((2, size, len(members)))
    inside[:, members] = _multiplicities(int(members.sum()), size, rng)
    outside[:, ~members] = _multiplicities(int((~members).sum()), size, rng)
    return inside, outside


def _null(
    rows: Floats, members: Bools, nulls: int, rng: np.random.Generator
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """AUC, and TPR at 1 % FPR where resolved, under `nulls` permutations of the labels."""
    permuted = np.array([members[rng.permutation(len(members))] for _ in range(nulls)])
    if not nulls:
        return (), ()
    metrics = _metrics([Curve.of(row, permuted, ~permuted) for row in rows], None)
    tpr = metrics.get("tpr_at_fpr_0.01", np.empty(0))
    return tuple(metrics["auc"].tolist()), tuple(tpr.tolist())


def _weighted_auc(scores: Floats, members: Bools, weights: Floats) -> Floats:
    """AUC (r,) of scores (n,) under weights (r, n); 0.5 for a resample that misses a whole side."""
    sides = np.where(members, weights, 0), np.where(members, 0, weights)
    complete = np.all([side.any(1) for side in sides], axis=0)
    auc = np.full(len(weights), 0.5)
    if complete.any():
        auc[complete] = Curve.of(scores, sides[0][complete], sides[1][complete]).auc()
    return auc


def _multiplicities(n: int, size: int, rng: np.random.Generator) -> Floats:
    """How often each of n things is drawn in n draws with replacement, (size, n)."""
    drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _blocks(resamples: int, samples: int) -> Iterator[int]:
    """Sizes that add up to `resamples`, each of which keeps within _BLOCK weights."""
    size = max(1, _BLOCK // samples)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, _QUANTILES, method="weibull")  # unbiased levels for few draws
    return float(low), float(high)


def at_least_binomial(interval: tuple[float, float], share: float, n: int) -> tuple[float, float]:
    """The interval widened to hold Clopper and Pearson's of a share of n."""
    hits = share * n
    low = betaincinv(hits, n - hits + 1, _QUANTILES[0]) if hits > 0 else 0.0
    high = betaincinv(hits + 1, n - hits, _QUANTILES[1]) if hits < n else 1.0
    return min(interval[0], float(low)), max(interval[1], float(high))


def epsilon_lower_bound(scores: ArrayLike, members: ArrayLike, delta: float = DELTA) -> float:
    """Epsilon that (epsilon, delta)-DP training exceeds with confidence 0.95, from canaries of one training run.

    scores (n,), higher for the included; members (n,) bool must have been drawn independently with probability
    one half. The tenth with the highest scores is guessed to be in, that with the lowest out: under DP the number
    of right guesses is no larger than a binomial one (Steinke et al. 2023, theorem 5.2). 0 where chance may explain
    them.
    """
    scores, inside = np.asarray(scores, np.float64), np.asarray(members, bool)
    n = len(scores)
    side = max(1, round(_GUESSED * n / 2))
    order = np.argsort(scores, kind="stable")
    right = int(inside[order[-side:]].sum() + (~inside[order[:side]]).sum())

    def chance(epsilon: float) -> float:
        """How probable so many right guesses are, at most."""
        law = binom(2 * side, expit(epsilon))
        i = np.arange(1, right + 1)
        near = (law.cdf(right - 1) - law.cdf(right - 1 - i)) / i
        return float(law.sf(right - 1) + 2 * n * delta * near.max(initial=0.0))

    low, high = 0.0, 50.0
    if chance(low) > 1 - LEVEL:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) <= 1 - LEVEL else (low, middle)
    return low
