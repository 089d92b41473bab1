"""Risk without an attack: how far apart members and non-members lie in what the target answers.

Source: He et al., MEMBERSHIP-DOCTOR, section 4.4: the Jensen-Shannon distance between the histograms of the entropy, or
of the cross-entropy, of members and of non-members. The paper names neither bins nor base. Here (RULES 19): natural
logarithm, and 20 bins that hold equally many of the pooled values, so that a distance depends on the order of the
values alone, as an attack's success does. With few samples even equal distributions have a distance above 0, which the
null beside it shows. Since the order counts, both values are computed from log-posteriors in ways that keep their order
where a posterior rounds to 1: computed naively, -log p_y is 0 for all margins above 36.7, and the entropy lacks the
largest posterior's share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, rel_entr

Floats = NDArray[np.float64]
BINS = 20
_PERMUTATIONS = 1000
_EXP_VANISHES = -700.0
"""Below this v, exp(v) is 0 or loses digits, and -log(1 - exp(v)) equals exp(v) in float64."""


def js_risk(
    members: Floats, members_y: ArrayLike, nonmembers: Floats, nonmembers_y: ArrayLike, rng: np.random.Generator
) -> dict[str, float]:
    """`js_entropy` and `js_cross_entropy` of log-posteriors (n, k) with labels (n,), each with its `_null`.

    Distances are between 0 and sqrt(ln 2) = 0.833. A null is the 95 % quantile of the distance under permuted
    membership. Raises ValueError where there are no members or no non-members.
    """
    risks = {}
    sides = (members, np.asarray(members_y)), (nonmembers, np.asarray(nonmembers_y))
    for name, values in (
        ("js_entropy", [log_entropy(side) for side, _ in sides]),
        ("js_cross_entropy", [-margin(side, y) for side, y in sides]),
    ):
        of_members, of_nonmembers = histograms(values[0], values[1])
        risks[name] = float(js_distance(of_members, of_nonmembers))
        permuted = rng.multivariate_hypergeometric(of_members + of_nonmembers, of_members.sum(), size=_PERMUTATIONS)
        risks[f"{name}_null"] = float(np.quantile(js_distance(permuted, of_members + of_nonmembers - permuted), 0.95))
    return risks


def histograms(a: Floats, b: Floats, bins: int = BINS) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of a (n,) and b (m,) in at most `bins` bins of about equally many pooled values; equal ones share a bin.

    Raises ValueError where a or b is empty.
    """
    if not len(a) or not len(b):
        raise ValueError(f"expected values on both sides, given {len(a)} and {len(b)}")
    pooled = np.sort(np.concatenate([a, b]))
    # Edges are values, not means of two, for values may be infinite.
    edges = np.unique(pooled[np.arange(1, bins) * len(pooled) // bins])
    counts_a, counts_b = (
        np.bincount(np.searchsorted(edges, v, side="right"), minlength=len(edges) + 1) for v in (a, b)
    )
    return counts_a, counts_b


def js_distance(p: ArrayLike, q: ArrayLike) -> Floats:
    """Square root (...) of the Jensen-Shannon divergence, in nats, between counts (..., k), normalised here."""
    counts = np.asarray(p, np.float64), np.asarray(q, np.float64)
    a, b = (v / v.sum(-1, keepdims=True) for v in counts)
    divergence = (rel_entr(a, (a + b) / 2) + rel_entr(b, (a + b) / 2)).sum(-1) / 2
    distance: Floats = np.sqrt(np.maximum(divergence, 0.0))
    return distance


def margin(log_posteriors: Floats, y: NDArray[np.int64]) -> Floats:
    """Log-odds (n,) of label y (n,), of log-posteriors (n, k). They fall as the cross-entropy rises."""
    own, others = _split_label(log_posteriors, y)
    return own - others


def log_entropy(log_posteriors: Floats) -> Floats:
    """Logarithm (n,) of the entropy, in nats, of log-posteriors (n, k); -inf where all posteriors are 0 or 1."""
    top = log_posteriors.argmax(1)[:, None]
    others = _split_label(log_posteriors, top[:, 0])[1][:, None]
    log_p = log_posteriors.copy()
    np.put_along_axis(log_p, top, np.log1p(-np.exp(others)), 1)  # only the largest can round to 1
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(np.isneginf(log_posteriors), -np.inf, log_p + np.log(-log_p))
    of_top = np.take_along_axis(terms, top, 1)
    np.put_along_axis(terms, top, np.where(others < _EXP_VANISHES, others, of_top), 1)
    entropy: Floats = logsumexp(terms, axis=1)
    return entropy


def _split_label(log_posteriors: Floats, y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """log p_y and log(1 - p_y), each (n,); the second one from the other posteriors, to keep its digits."""
    index = y[:, None]
    others = log_posteriors.copy()
    np.put_along_axis(others, index, -np.inf, 1)
    return np.take_along_axis(log_posteriors, index, 1)[:, 0], logsumexp(others, axis=1)
