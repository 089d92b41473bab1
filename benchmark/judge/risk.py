"""Risk without an attack: how far apart members and non-members lie in what the target answers.

Source: He et al., MEMBERSHIP-DOCTOR, section 4.4: the Jensen-Shannon distance between the histograms of the entropy,
or of the cross-entropy, of members and of non-members. The paper names neither bins nor base. Here (RULES 19):
natural logarithm, and 20 bins that hold equally many of the pooled values, so that a distance depends on the order
of the values alone, as an attack's success does. Few samples give a distance to equal laws too: the null beside it.
For the same reason both values are taken from log-posteriors in ways that keep their order where a posterior rounds to
1: there -log p_y is 0 for all margins above 36.7, and the entropy lacks the largest posterior's share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, rel_entr

Floats = NDArray[np.float64]
BINS = 20
_DRAWS = 1000
_VANISHES = -700.0
"""Below it exp is 0 or loses digits, and -log(1 - exp(v)) is exp(v)."""


def js_risk(
    members: Floats, members_y: ArrayLike, nonmembers: Floats, nonmembers_y: ArrayLike, rng: np.random.Generator
) -> dict[str, float]:
    """`js_entropy` and `js_cross_entropy` of log-posteriors (n, k) with labels (n,), each with its `_null`.

    Between 0 and sqrt(ln 2) = 0.833. A null is the 95 % quantile of the distance under permuted membership.
    Raises ValueError where a side is empty.
    """
    found = {}
    sides = (members, np.asarray(members_y)), (nonmembers, np.asarray(nonmembers_y))
    for name, values in (
        ("js_entropy", [log_entropy(side) for side, _ in sides]),
        ("js_cross_entropy", [-margin(side, y) for side, y in sides]),
    ):
        inside, outside = histograms(values[0], values[1])
        found[name] = float(js_distance(inside, outside))
        drawn = rng.multivariate_hypergeometric(inside + outside, inside.sum(), size=_DRAWS)
        found[f"{name}_null"] = float(np.quantile(js_distance(drawn, inside + outside - drawn), 0.95))
    return found


def histograms(a: Floats, b: Floats, bins: int = BINS) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of a (n,) and b (m,) in at most `bins` bins of about equally many pooled values; equal values share one.

    Raises ValueError where a side is empty.
    """
    if not len(a) or not len(b):
        raise ValueError(f"expected values on both sides, given {len(a)} and {len(b)}")
    pooled = np.sort(np.concatenate([a, b]))
    edges = np.unique(pooled[np.arange(1, bins) * len(pooled) // bins])  # values themselves: infinities have no mean
    inside, outside = (np.bincount(np.searchsorted(edges, v, side="right"), minlength=len(edges) + 1) for v in (a, b))
    return inside, outside


def js_distance(p: ArrayLike, q: ArrayLike) -> Floats:
    """Square root of the Jensen-Shannon divergence in nats (...) between counts (..., k), each side normalised."""
    counts = np.asarray(p, np.float64), np.asarray(q, np.float64)
    a, b = (v / v.sum(-1, keepdims=True) for v in counts)
    divergence = (rel_entr(a, (a + b) / 2) + rel_entr(b, (a + b) / 2)).sum(-1) / 2
    distance: Floats = np.sqrt(np.maximum(divergence, 0.0))
    return distance


def margin(log_posteriors: Floats, y: NDArray[np.int64]) -> Floats:
    """log p_y - log of the other posteriors' sum (n,) of log-posteriors (n, k): it falls as the cross-entropy rises."""
    own, others = _parted(log_posteriors, y)
    return own - others


def log_entropy(log_posteriors: Floats) -> Floats:
    """Logarithm of the entropy in nats (n,) of log-posteriors (n, k); -inf for an answer of 0 and 1 alone."""
    top = log_posteriors.argmax(1)[:, None]
    others = _parted(log_posteriors, top[:, 0])[1][:, None]
    log_p = log_posteriors.copy()
    np.put_along_axis(log_p, top, np.log1p(-np.exp(others)), 1)  # only the largest can round to 1
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(np.isneginf(log_posteriors), -np.inf, log_p + np.log(-log_p))
    of_top = np.take_along_axis(terms, top, 1)
    np.put_along_axis(terms, top, np.where(others < _VANISHES, others, of_top), 1)
    entropy: Floats = logsumexp(terms, axis=1)
    return entropy


def _parted(log_posteriors: Floats, y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """log p_y and the logarithm of the other posteriors' sum, each (n,)."""
    index = y[:, None]
    others = log_posteriors.copy()
    np.put_along_axis(others, index, -np.inf, 1)
    return np.take_along_axis(log_posteriors, index, 1)[:, 0], logsumexp(others, axis=1)
