"""Membership metrics with their uncertainty: bootstrap intervals, and what chance alone would reach.

Measured coverage of the 95 % intervals, on binormal scores (AUC 0.6 and 0.75; 300 + 300 and
1,000 + 1,000 samples; 1,000 to 2,000 draws each):

- AUC 0.946 to 0.956; balanced accuracy, advantage, precision, F1 0.946 to 0.959; recall 0.960 to 0.966;
- TPR at 1 % FPR 0.931 to 0.956;
- TPR at 0.1 % FPR and TNR at 0.1 % FNR at 1,000 + 1,000, where the rate is one sample: 0.80 to 0.91, for
  the largest attainable TPR is biased upwards there. This is why a rate is shown from 1 / rate samples but
  ranked from 10 / rate (RULES 15).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, expit
from scipy.stats import binom, t

from benchmark.metrics import BY_TARGET, METRICS, Bools, Curve, Floats, resolves, thin_roc

LEVEL = 0.95
_BLOCK = 2_000_000  # bootstrap weights held at once: 16 MB an array
_QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
DELTA = 1e-5
"""The delta of (epsilon, delta)-DP for which a lower bound on epsilon is computed."""
_GUESSED_SHARE = 0.2
"""Share of the canaries whose inclusion is guessed, set beforehand; on the others the attack abstains."""
_BINS = 30
_SHARES_OF_MEMBERS = ("tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "tpr_at_fpr_0.01_reversed", "recall")
"""Metrics that are shares of the members; their binomial interval is that of so many draws."""


@dataclass(frozen=True)
class MembershipReport:
    """What a `Result` holds of a membership attack. Metrics that the sample cannot resolve are absent."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    roc: tuple[tuple[float, ...], tuple[float, ...]]
    histogram: tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]
    null_auc: tuple[float, ...]
    null_tpr: tuple[float, ...]
    values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By metric of BY_TARGET, the value for each target (`mean_report`)."""


def membership_report(
    scores: ArrayLike,
    members: ArrayLike,
    threshold: float | None,
    *,
    rng: np.random.Generator,
    null_rng: np.random.Generator,
    resamples: int = 1000,
    nulls: int = 20,
) -> MembershipReport:
    """Metrics of scores (n,), or (s, n) for s attack seeds, against members (n,) bool.

    Metrics are means over the attack seeds; ROC curve and histogram are those of the seed with the median AUC. Without
    a threshold there is no accuracy. Intervals (95 %) are percentiles of a bootstrap that resamples members
    and non-members separately, in the same way for all seeds. Shares of members (or of non-members) get at least the
    exact binomial interval, since resampling a rate of 0 gives nothing but 0. The nulls permute the labels and
    depend on `null_rng` and n alone: with equal generators, the nulls of two attacks on one target can be
    compared draw by draw. Raises ValueError where a score is NaN, or where there are no members or no non-members.
    """
    seed_scores = np.atleast_2d(np.asarray(scores, np.float64))
    members = np.asarray(members, bool)
    curves = [Curve.of(row, members, ~members) for row in seed_scores]
    metrics = {name: float(value) for name, value in _metrics(curves, threshold).items()}
    # No interval: a maximum over thresholds is biased upwards, in a bootstrap twice (its coverage was 75 to 87 %).
    metrics["balanced_accuracy_oracle"] = float(np.mean([c.balanced_accuracies().max() for c in curves]))
    intervals = _intervals(seed_scores, members, threshold, resamples, rng) if resamples else {}
    positives, negatives = int(members.sum()), int((~members).sum())
    for name in intervals.keys() & {*_SHARES_OF_MEMBERS, "tnr_at_fnr_0.001"}:
        n = positives if name in _SHARES_OF_MEMBERS else negatives
        intervals[name] = at_least_binomial(intervals[name], metrics[name], n)
    if len(seed_scores) > 1:
        metrics["auc_seed_sd"] = float(np.std([c.auc() for c in curves], ddof=1))
    metrics |= {"members": float(positives), "nonmembers": float(negatives)}
    median_seed = sorted(range(len(curves)), key=lambda i: float(curves[i].auc()))[len(curves) // 2]
    median_curve = curves[median_seed]
    fpr, tpr = thin_roc(median_curve.fp / median_curve.fp[-1], median_curve.tp / median_curve.tp[-1])
    roc = tuple(fpr.tolist()), tuple(tpr.tolist())
    return MembershipReport(
        metrics,
        intervals,
        roc,
        score_histogram(seed_scores[median_seed], members),
        *_null(seed_scores, members, nulls, null_rng),
    )


def score_histogram(scores: Floats, members: Bools) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]:
    """Edges (31,) of 30 bins of equal width, and the counts (30,) of members and of non-members in each.

    The bins span the central 98 % of the scores, for tails may be long; the others count in the outermost bins.
    """
    limits = np.quantile(scores, (0.01, 0.99), method="nearest")
    low, high = limits if limits[0] < limits[1] else (scores.min(), scores.max())
    width = high - low
    if not (0 < width < np.inf):  # all scores are equal, or their span overflows
        low, width = scores[len(scores) // 2] - 0.5, 1.0
    edges = low + width * np.linspace(0, 1, _BINS + 1)
    bins = np.searchsorted(edges[1:-1], scores, side="right")
    of_members, of_nonmembers = (np.bincount(bins[side], minlength=_BINS) for side in (members, ~members))
    return tuple(edges.tolist()), tuple(of_members.tolist()), tuple(of_nonmembers.tolist())


def mean_report(reports: Sequence[MembershipReport], pair: int) -> MembershipReport:
    """The report of a row that was scored on several targets: means over the targets, with nulls permuted alike.

    Targets stand in pairs of `pair` that were drawn together, here all complete: where one has a sample the other
    lacks it, so that the difficulty of samples cancels. Intervals (95 %) are t-intervals over pairs, for the mean of one
    seed's targets; there are none with a single pair. ROC curve and histogram are those of the first target.
    """
    first = reports[0]
    by_name = {
        name: np.array([r.metrics[name] for r in reports])
        for name in first.metrics
        if all(name in r.metrics for r in reports)
    }
    metrics = {name: float(values.mean()) for name, values in by_name.items()}
    for side in ("members", "nonmembers"):
        metrics[side] = float(by_name[side].min())
    intervals = {}
    for name in by_name.keys() & METRICS.keys() - {"members", "nonmembers", "balanced_accuracy_oracle", "auc_seed_sd"}:
        means = by_name[name].reshape(-1, pair).mean(1)
        if len(means) > 1:
            half = float(t.ppf(_QUANTILES[1], len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
            low, high = METRICS[name].low, METRICS[name].high
            intervals[name] = max(low, metrics[name] - half), min(high, metrics[name] + half)
    nulls = (np.mean([getattr(r, name) for r in reports], axis=0) for name in ("null_auc", "null_tpr"))
    null_auc, null_tpr = (tuple(np.atleast_1d(draws).tolist()) for draws in nulls)
    values = {name: tuple(by_name[name].tolist()) for name in BY_TARGET if name in by_name}
    return replace(first, metrics=metrics, intervals=intervals, null_auc=null_auc, null_tpr=null_tpr, values=values)


def _metrics(curves: list[Curve], threshold: float | None) -> dict[str, Floats]:
    """Means of the metrics over the curves (one for each attack seed), with the curves' leading shape."""
    positives, negatives = (int(np.max(counts[..., -1])) for counts in (curves[0].tp, curves[0].fp))
    by_curve: list[dict[str, Floats]] = []
    for curve in curves:
        values = {"auc": curve.auc()}
        if resolves(negatives, 0.01):
            values["tpr_at_fpr_0.01"] = curve.tpr_at(0.01)
            values["tpr_at_fpr_0.01_reversed"] = curve.negated().tpr_at(0.01)
        if resolves(negatives, 0.001):
            values["tpr_at_fpr_0.001"] = curve.tpr_at(0.001)
        if resolves(positives, 0.001):
            values["tnr_at_fnr_0.001"] = curve.tnr_at(0.001)
        if threshold is not None:
            values |= curve.decisions(threshold)
        by_curve.append(values)
    return {name: np.mean([values[name] for values in by_curve], axis=0) for name in by_curve[0]}


def _intervals(
    seed_scores: Floats, members: Bools, threshold: float | None, resamples: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals (95 %) of `_metrics`, of scores (s, n)."""
    blocks = []
    for size in _blocks(resamples, len(members)):
        inside, outside = _stratified_weights(members, size, rng)
        blocks.append(_metrics([Curve.of(scores, inside, outside) for scores in seed_scores], threshold))
    return {name: _interval(np.concatenate([block[name] for block in blocks])) for name in blocks[0]}


def _stratified_weights(members: Bools, size: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """How often each of n samples is drawn in `size` resamples, (size, n), as a member and as a non-member."""
    inside, outside = np.zeros((2, size, len(members)))
    inside[:, members] = _multiplicities(int(members.sum()), size, rng)
    outside[:, ~members] = _multiplicities(int((~members).sum()), size, rng)
    return inside, outside


def _null(
    seed_scores: Floats, members: Bools, nulls: int, rng: np.random.Generator
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """AUC, and TPR at 1 % FPR where resolved, under `nulls` permutations of the labels."""
    permuted = np.array([members[rng.permutation(len(members))] for _ in range(nulls)])
    if not nulls:
        return (), ()
    metrics = _metrics([Curve.of(scores, permuted, ~permuted) for scores in seed_scores], None)
    tpr = metrics.get("tpr_at_fpr_0.01", np.empty(0))
    return tuple(metrics["auc"].tolist()), tuple(tpr.tolist())


def _multiplicities(n: int, size: int, rng: np.random.Generator) -> Floats:
    """How often each of n things is drawn in n draws with replacement, (size, n): `size` independent resamples."""
    cells = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
    return np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _blocks(resamples: int, samples: int) -> Iterator[int]:
    """Numbers of resamples that add up to `resamples`; the weights of each number are at most _BLOCK."""
    size = max(1, _BLOCK // samples)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """The central 95 % of bootstrap draws."""
    low, high = np.quantile(draws, _QUANTILES, method="weibull")  # its levels are unbiased for few draws too
    return float(low), float(high)


def at_least_binomial(interval: tuple[float, float], share: float, n: int) -> tuple[float, float]:
    """The interval, widened to contain the exact binomial 95 % interval of a share of n (Clopper and Pearson 1934)."""
    hits = share * n
    low = betaincinv(hits, n - hits + 1, _QUANTILES[0]) if hits > 0 else 0.0
    high = betaincinv(hits + 1, n - hits, _QUANTILES[1]) if hits < n else 1.0
    return min(interval[0], float(low)), max(interval[1], float(high))


def epsilon_lower_bound(scores: ArrayLike, members: ArrayLike, delta: float = DELTA) -> float:
    """A lower bound (confidence 0.95) on epsilon of (epsilon, delta)-DP training, from canaries of one training run.

    scores (n,), higher for the included; members (n,) bool must have been drawn independently with probability one
    half. The tenth with the highest scores is guessed to be included, the tenth with the lowest to be left out. Under
    DP the number of correct guesses is dominated by a binomial one, but for a term in delta (Steinke et al. 2023,
    theorem 5.2). 0 where chance can explain the number.
    """
    scores, inside = np.asarray(scores, np.float64), np.asarray(members, bool)
    n = len(scores)
    guesses = max(1, round(_GUESSED_SHARE * n / 2))
    order = np.argsort(scores, kind="stable")
    correct = int(inside[order[-guesses:]].sum() + (~inside[order[:guesses]]).sum())

    def p_value(epsilon: float) -> float:
        """The largest probability of so many correct guesses under (epsilon, delta)-DP."""
        dominating = binom(2 * guesses, expit(epsilon))
        i = np.arange(1, correct + 1)
        correction = (dominating.cdf(correct - 1) - dominating.cdf(correct - 1 - i)) / i
        return float(dominating.sf(correct - 1) + 2 * n * delta * correction.max(initial=0.0))

    low, high = 0.0, 50.0
    if p_value(low) > 1 - LEVEL:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= 1 - LEVEL else (low, middle)
    return low
