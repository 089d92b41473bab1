"""Lower bounds on epsilon from one training run, by guesses which of its canaries were in the training data.

Each of m canaries is included by a fair coin of its own. For r of them, chosen by their scores, it is guessed whether they
are in; on the others the attack abstains. Of the guesses v are right. How many are guessed is fixed before the training: the
best of many numbers of guesses would be large by luck. A bound is wrong in at most one of 20 audits, if its assumption holds.

For one number of guesses both bounds rise with v, so whichever is the larger, the event that it is above the truth is that
of one of them: where the Gaussian assumption holds, the larger of the two is wrong in at most one of 20 audits, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, ndtr, ndtri
from scipy.stats import binom

from benchmark.judge.bootstrap import LEVEL

GUESSED = 0.2
"""Share of the canaries whose inclusion is guessed, if nothing else is asked for before the training."""
BETA = 1 - LEVEL
"""How probable it is at most that a bound is above the truth."""
_CLOSE = 1e-9
_MOST_EPSILON, _MOST_MU = 50.0, 20.0
"""Above what any number of guesses that fits into memory can show."""


class Guesses(NamedTuple):
    """How an attack did on the canaries of one training run."""

    canaries: int
    made: int
    right: int


def planned(canaries: int, share: float = GUESSED) -> int:
    """How many guesses are made on so many canaries: an even number, one half each way, at least 2."""
    return 2 * min(canaries // 2, max(1, round(share * canaries / 2)))


def guess(scores: ArrayLike, included: ArrayLike, guesses: int) -> Guesses:
    """Guess that the `guesses` / 2 highest of scores (m,) are of included canaries and as many lowest of left-out ones.

    included: (m,) bool. Raises ValueError for NaN, and where there are not so many canaries.
    """
    values, inside = np.asarray(scores, np.float64), np.asarray(included, bool)
    half = guesses // 2
    if np.isnan(values).any() or values.shape != inside.shape or not 0 < 2 * half <= len(values):
        raise ValueError(f"expected {guesses} guesses of at least as many scores, none of them NaN")
    order = np.argsort(values, kind="stable")
    return Guesses(len(values), 2 * half, int(inside[order[-half:]].sum() + (~inside[order[:half]]).sum()))


def perfect(included: ArrayLike, guesses: int) -> Guesses:
    """What so many guesses come to where the scores tell all: half of them say in, and fewer may be in, or out. included: (m,) bool."""
    inside = np.asarray(included, bool)
    return guess(inside.astype(np.float64), inside, guesses)


def p_value(found: Guesses, epsilon: float, delta: float) -> float:
    """How probable so many right guesses are at most, if the training is (epsilon, delta)-DP. In [0, 1].

    Steinke, Nasr, Jagielski 2023, theorem 5.2: right guesses are dominated by a binomial variable, but for a term in delta.
    It assumes nothing of the mechanism beyond (epsilon, delta)-DP for adding or removing one record.
    """
    # The judge's `epsilon_lower_bound` is this at a fifth of the canaries. It stays apart: published rows are keyed by it.
    m, r, v = found
    dominating = binom(r, expit(epsilon))
    i = np.arange(1, v + 1) if delta else np.empty(0)
    below = dominating.cdf(v - 1)
    correction = (below - dominating.cdf(v - 1 - i)) / i
    return min(1.0, float(dominating.sf(v - 1) + 2 * m * delta * correction.max(initial=0.0)))


def any_mechanism(found: Guesses, delta: float, beta: float = BETA) -> float:
    """The largest epsilon that the guesses refute at this delta, by `p_value`; 0 if they refute none."""
    return _largest(lambda epsilon: p_value(found, epsilon, delta) <= beta, _MOST_EPSILON)


def gaussian_mu(found: Guesses, beta: float = BETA) -> float:
    """The largest mu for which the guesses refute mu-Gaussian DP; 0 if they refute none.

    Mahloujifar, Melis, Chaudhuri 2025 ("Auditing f-differential privacy in one run"), algorithm 3. It assumes that the trade-off curve of the
    training lies nowhere below that of two unit Gaussians mu apart, as it does where Gaussian noise is all that protects.
    """
    return _largest(lambda mu: _refutes_gaussian(found, mu, beta), _MOST_MU)


def _refutes_gaussian(found: Guesses, mu: float, beta: float) -> bool:
    """Whether mu-GDP leaves a probability below beta to `found.right` guesses or more.

    r and h bound the shares of canaries that are guessed right and wrong while at least i guesses are right. If even with
    the least growth that the curve allows from i = v down to 0 they come to more than the share that is guessed, no
    distribution of the number of right guesses is left.
    """
    m, n, v = found
    r, h = beta * v / m, beta * (n - v) / m
    for i in range(v - 1, -1, -1):
        rise = ndtr(ndtri(r) - mu) - h
        if rise <= 0:
            break  # from here on neither changes
        h += rise
        r = min(1.0, r + i / (n - i) * rise)
    return bool(r + h > n / m)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The least delta for which mu-GDP is (epsilon, delta)-DP (Dong, Roth, Su 2022, corollary 2.13). mu above 0."""
    return math.exp(_log_delta(mu, epsilon))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon for which mu-GDP is (epsilon, delta)-DP. mu at least 0, delta in (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), given {delta}: no Gaussian mechanism is purely DP")
    if mu == 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    return float(brentq(lambda epsilon: _log_delta(mu, epsilon) - math.log(delta), 0.0, high, xtol=_CLOSE))


def _log_delta(mu: float, epsilon: float) -> float:
    """Logarithm of Phi(-e / mu + mu / 2) - exp(e) Phi(-e / mu - mu / 2), which keeps its digits where delta is tiny."""
    first, second = (float(log_ndtr(-epsilon / mu + sign * mu / 2)) for sign in (1, -1))
    return first + math.log(max(-math.expm1(epsilon + second - first), 1e-300))


def needed(epsilon: float, beta: float = BETA) -> int:
    """The fewest guesses that, all of them right, refute pure epsilon-DP. At a delta above 0 it takes more."""
    if epsilon > _MOST_EPSILON:
        raise ValueError(
            f"expected an epsilon of at most {_MOST_EPSILON:g}, given {epsilon:g}: no number of guesses refutes it"
        )
    return math.floor(math.log(beta) / -math.log1p(math.exp(-epsilon))) + 1  # log of expit(epsilon)


def _largest(refuted: Callable[[float], bool], high: float) -> float:
    """The largest value in [0, high] that is refuted, to 1e-9, where all below a refuted one are; 0 for none."""
    if not refuted(0.0):
        return 0.0
    low = 0.0
    while high - low > _CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
