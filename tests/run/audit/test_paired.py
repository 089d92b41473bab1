"""The interval of a difference of two shares: closed forms, symmetry, and how often it holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from benchmark.run.audit.paired import difference


def pairs(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = [both, first, second, neither]
    a, b = np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)
    return a, b, np.zeros(sum(counts), np.int64)


def wilson(k: int, n: int) -> tuple[float, float]:
    """Solutions of |share - p| = z sqrt(p (1 - p) / n), by hand."""
    z = norm.ppf(0.975)
    middle, half = k + z * z / 2, z * math.sqrt(k * (n - k) / n + z * z / 4)
    return (middle - half) / (n + z * z), (middle + half) / (n + z * z)


def test_without_correlation_the_ends_are_added_by_their_squares() -> None:
    """20 of 40 and 10 of 40, as independent as 40 pairs can be."""
    found = difference(*pairs(5, 15, 5, 15))
    (l1, u1), (l2, u2) = wilson(20, 40), wilson(10, 40)
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25 - math.hypot(0.5 - l1, u2 - 0.25), abs=1e-12)
    assert found.high == pytest.approx(0.25 + math.hypot(u1 - 0.5, 0.25 - l2), abs=1e-12)


def test_where_all_agree_the_interval_is_no_point() -> None:
    found = difference(*pairs(13, 0, 0, 0))
    assert found.value == 0 and found.high == -found.low == pytest.approx(1 - wilson(13, 13)[0])


def test_a_correlation_narrows_it_and_turning_the_two_turns_it() -> None:
    """Newcombe's phi by hand: (30 x 50 - 15 x 5 - 50) / sqrt(45 x 55 x 35 x 65)."""
    a, b, strata = pairs(30, 15, 5, 50)
    found, turned = difference(a, b, strata), difference(b, a, strata)
    assert found.value == pytest.approx(0.1) and (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    phi = (30 * 50 - 15 * 5 - 50) / math.sqrt(45 * 55 * 35 * 65)
    (l1, _), (_, u2) = wilson(45, 100), wilson(35, 100)
    below = (0.45 - l1) ** 2 - 2 * phi * (0.45 - l1) * (u2 - 0.35) + (u2 - 0.35) ** 2
    assert found.low == pytest.approx(0.1 - math.sqrt(below))
    assert found.high - found.low < 0.8 * (
        difference(*pairs(16, 29, 19, 36)).high - difference(*pairs(16, 29, 19, 36)).low
    )


def test_two_equal_strata_have_the_mean_and_a_width_that_shrinks_by_a_root() -> None:
    a, b, zeros = pairs(9, 7, 3, 11)
    one = difference(a, b, zeros)
    two = difference(np.tile(a, 2), np.tile(b, 2), np.repeat([0, 1], len(a)))
    assert two.value == pytest.approx(one.value)
    assert two.value - two.low == pytest.approx((one.value - one.low) / math.sqrt(2))


@pytest.mark.parametrize("strata", [1, 2])
def test_it_holds_the_truth_as_often_as_it_says(strata: int) -> None:
    """Pairs that agree half of the time by construction; 95 %, within what 400 repetitions tell (3 standard errors: 3.3 %)."""
    rng, held = np.random.default_rng(3), 0
    share = np.array([0.8, 0.6])
    of = np.repeat(np.arange(strata), 30)
    truth = float(np.mean(share[:strata] - 0.5 * share[:strata] - 0.25))
    for _ in range(400):
        a = rng.random(len(of)) < share[of]
        b = np.where(rng.random(len(of)) < 0.5, a, rng.random(len(of)) < 0.5)
        found = difference(a, b, of)
        held += found.low <= truth <= found.high
    assert 0.917 <= held / 400 <= 0.983
