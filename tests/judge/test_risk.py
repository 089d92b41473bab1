"""Risk without an attack: against scipy, and laws whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax
from scipy.stats import entropy

from benchmark.judge.risk import histograms, js_distance, js_risk, log_entropy, margin


def test_the_distance_is_scipys() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.integers(0, 30, (2, 50, 20))
    p[:, 0] = 1
    q[:, 1] = 1
    assert np.allclose(js_distance(p, q), [jensenshannon(a, b) for a, b in zip(p, q, strict=True)])
    assert js_distance([4, 0], [0, 7]) == pytest.approx(np.sqrt(np.log(2)))


def test_bins_are_pooled_and_hold_all() -> None:
    a, b = np.arange(0, 100.0), np.arange(100, 300.0)
    inside, outside = histograms(a, b)
    assert inside.sum() == 100 and outside.sum() == 200
    assert set(inside + outside) == {15}
    assert list(inside[:7]) == [15, 15, 15, 15, 15, 15, 10] and not inside[7:].any()


@pytest.mark.parametrize("change", [np.exp, lambda v: 3 * v - 7], ids=["exp", "affine"])
def test_only_the_order_counts(change) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 500), rng.normal(0.5, 1, 400)
    assert np.array_equal(histograms(a, b), histograms(change(a), change(b)))


def test_equal_values_and_infinities_share_a_bin() -> None:
    a, b = np.array([0.0] * 50 + [np.inf] * 30), np.array([0.0] * 40 + [1.0] * 10 + [np.inf] * 20)
    inside, outside = histograms(a, b)
    assert sorted(inside) == [0, 0, 30, 50] and sorted(outside) == [0, 10, 20, 40]
    one, other = histograms(np.ones(5), np.ones(9))
    assert js_distance(one, other) == 0


def _posteriors(rng: np.random.Generator, n: int, scale: float) -> np.ndarray:
    return log_softmax(rng.normal(0, scale, (n, 10)), axis=1)


def test_equal_laws_lie_below_the_null_as_often_as_it_says() -> None:
    below = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = _posteriors(rng, 600, 2), rng.integers(0, 10, 600)
        found = js_risk(x[:300], y[:300], x[300:], y[300:], rng)
        below += found["js_entropy"] <= found["js_entropy_null"]
    assert 178 <= below <= 199  # 190 expected; both bounds beyond 3 standard deviations


def test_confident_members_are_seen_and_their_entropy_is_the_entropy() -> None:
    rng = np.random.default_rng(3)
    members, others = _posteriors(rng, 400, 6), _posteriors(rng, 400, 1)
    y, z = members.argmax(1), rng.integers(0, 10, 400)
    found = js_risk(members, y, others, z, rng)
    by_hand = histograms(*(entropy(np.exp(v), axis=1) for v in (members, others)))
    assert found["js_entropy"] == pytest.approx(float(js_distance(*by_hand)))
    assert found["js_cross_entropy"] > 0.5 > found["js_cross_entropy_null"]
    assert found["js_entropy"] <= np.sqrt(np.log(2))


def test_posteriors_of_zero_and_empty_sides() -> None:
    with np.errstate(divide="ignore"):
        certain = np.log(np.array([[1.0, 0.0], [0.0, 1.0]] * 20))
    found = js_risk(certain, np.zeros(40, int), certain, np.zeros(40, int), np.random.default_rng(0))
    assert found["js_entropy"] == found["js_entropy_null"] == found["js_cross_entropy"] == 0
    assert found["js_cross_entropy_null"] > 0  # two bins, 20 of 40 in each: a permutation moves some
    with pytest.raises(ValueError, match="given 0 and 40"):
        js_risk(certain[:0], np.zeros(0, int), certain, np.zeros(40, int), np.random.default_rng(0))


def saturated(rng: np.random.Generator, n: int, shift: float) -> np.ndarray:
    """Log-posteriors (n, 5) of label 0 with margins about 45 + shift; -log p_0 is 0 for nearly all of them."""
    logits = rng.normal(0, 2, (n, 5))
    logits[:, 0] += 45 + shift
    return log_softmax(logits, axis=1)


def test_saturated_answers_are_told_apart() -> None:
    """Members' margins are larger by 8: both distances are those of the same margins at a scale where all is exact."""
    rng = np.random.default_rng(5)
    members, others = saturated(rng, 400, 8), saturated(rng, 400, 0)
    y = np.zeros(400, int)
    found = js_risk(members, y, others, y, rng)
    exact = [-np.log1p(-np.exp(np.logaddexp.reduce(v[:, 1:], axis=1) / 20)) for v in (members, others)]  # 45 -> 2.25
    assert found["js_cross_entropy"] == pytest.approx(float(js_distance(*histograms(*exact))))
    assert found["js_cross_entropy"] > 0.5 and found["js_entropy"] > 0.5
    lost = histograms(-members[:, 0], -others[:, 0])
    assert float(js_distance(*lost)) < found["js_cross_entropy"] - 0.1, "what -log p says of them"


@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0, 300.0])
def test_entropy_and_margin_keep_their_digits(scale: float) -> None:
    """Against sums in 400 digits or more: also where a posterior rounds to 1, or vanishes."""
    from mpmath import mp, mpf

    lp = log_softmax(np.random.default_rng(int(scale)).normal(0, scale, (12, 4)), axis=1)
    y = np.random.default_rng(1).integers(0, 4, 12)
    with mp.workdps(1500):
        for row, label, entropy_, margin_ in zip(lp, y, log_entropy(lp), margin(lp, y), strict=True):
            top = int(row.argmax())
            p = [mp.exp(mpf(float(v))) for v in row]
            p[top] = 1 - sum(v for i, v in enumerate(p) if i != top)
            assert entropy_ == pytest.approx(float(mp.log(sum(-v * mp.log(v) for v in p))), rel=1e-12, abs=1e-12)
            rest = sum(mp.exp(mpf(float(v))) for i, v in enumerate(row) if i != label)
            assert margin_ == pytest.approx(float(row[label]) - float(mp.log(rest)), rel=1e-12, abs=1e-12)
