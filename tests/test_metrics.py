import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from benchmark.metrics import (
    METRICS,
    auc_by_class,
    best_threshold,
    curve,
    ece,
    hypervolume,
    lower_bound,
    resolves,
    sensitivity,
    thin_roc,
    upper_text,
)
from tests.curves import auc, decisions, roc, tnr_at, tpr_at

# Few distinct scores, so that ties are heavy; at least one member and one non-member.
LABELLED = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({member for _, member in pairs}) == 2
)


def arrays(pairs):
    return np.array([score for score, _ in pairs], np.float64), np.array([member for _, member in pairs])


def normal(n=500, shift=1.0, decimals=None, seed=0):
    """n members shifted upwards, n non-members; rounded for ties."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(shift, 1, n), rng.normal(0, 1, n)])
    return scores if decimals is None else scores.round(decimals), np.arange(2 * n) < n


# --- The registry -----------------------------------------------------------------------------------


def test_metrics_know_their_names_and_ranges():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.low < metric.high
        assert metric.label
        assert metric.help.endswith(".")


def test_metrics_need_no_torch():
    program = "import sys, benchmark.metrics, benchmark.judge.bootstrap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- The curve --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(LABELLED)
def test_the_curve_equals_scikit_learn_under_ties(pairs):
    scores, members = arrays(pairs)
    expected = sklearn_metrics.roc_curve(members, scores, drop_intermediate=False)
    for ours, theirs in zip(roc(scores, members), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    assert auc(scores, members) == pytest.approx(sklearn_metrics.roc_auc_score(members, scores), rel=1e-12)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_the_curve_equals_scikit_learn_at_size(decimals):
    scores, members = normal(1500, decimals=decimals)
    assert auc(scores, members) == pytest.approx(sklearn_metrics.roc_auc_score(members, scores), rel=1e-12)


@settings(deadline=None)
@given(LABELLED)
def test_auc_is_the_chance_to_rank_a_member_higher(pairs):
    scores, members = arrays(pairs)
    gap = scores[members][:, None] - scores[~members]
    assert auc(scores, members) == pytest.approx((gap > 0).mean() + (gap == 0).mean() / 2, rel=1e-12)


@settings(deadline=None)
@given(LABELLED, st.randoms(use_true_random=False))
def test_metrics_ignore_order_and_scale(pairs, random):
    scores, members = arrays(pairs)
    order = np.array(random.sample(range(len(scores)), len(scores)))
    for other in ((scores[order], members[order]), (np.exp(scores / 3) - 7, members)):
        assert auc(*other) == auc(scores, members)
        assert curve(*other).tpr_at(0.25) == curve(scores, members).tpr_at(0.25)
        assert curve(*other).tnr_at(0.25) == curve(scores, members).tnr_at(0.25)


@settings(deadline=None)
@given(LABELLED)
def test_negating_scores_mirrors_auc(pairs):
    scores, members = arrays(pairs)
    assert auc(-scores, members) == pytest.approx(1 - auc(scores, members), abs=1e-12)
    turned, expected = curve(scores, members).negated(), curve(-scores, members)
    for name in ("values", "tp", "fp"):
        assert np.array_equal(getattr(turned, name), getattr(expected, name))


def test_infinite_scores_rank_and_tie():
    scores, members = np.array([math.inf, math.inf, 0, -math.inf, -math.inf]), np.array([1, 0, 1, 1, 0]) > 0
    fpr, tpr, thresholds = roc(scores, members)
    assert len(thresholds) == 4
    assert np.array_equal(fpr, [0, 0.5, 0.5, 1])
    assert np.allclose(tpr, [0, 1 / 3, 2 / 3, 1])


def test_what_has_no_curve_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        auc([0.0, math.nan], [True, False])
    for members in ([True, True], [False, False]):
        with pytest.raises(ValueError, match="members and non-members"):
            auc([0.0, 1.0], members)


# --- Rates ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(LABELLED, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_tpr_is_the_largest_attainable(pairs, rate):
    scores, members = arrays(pairs)
    best, best_reversed = 0.0, 0.0
    for threshold in [*np.unique(scores), math.inf]:
        called = scores >= threshold
        if called[~members].mean() <= rate:
            best = max(best, called[members].mean())
        if (~called)[members].mean() <= rate:
            best_reversed = max(best_reversed, (~called)[~members].mean())
    assert curve(scores, members).tpr_at(rate) == pytest.approx(best, rel=1e-12)
    assert curve(scores, members).tnr_at(rate) == pytest.approx(best_reversed, rel=1e-12)


def test_tpr_in_closed_form():
    """100 non-members score 1..100, members 99.5 and 100.5: one is beaten by nobody, one by a single sample."""
    scores = np.concatenate([np.arange(1.0, 101), [99.5, 100.5]])
    members = np.arange(102) >= 100
    assert tpr_at(scores, members, 0.01) == 1.0
    scores[100] = 98.5
    assert tpr_at(scores, members, 0.01) == 0.5


def test_ties_are_never_split():
    """The rate allows 1 of 100 non-members, but two share the top score with the members."""
    scores = np.concatenate([np.full(50, 9.0), np.full(2, 9.0), np.zeros(98)])
    members = np.arange(150) < 50
    assert tpr_at(scores, members, 0.01) == 0.0
    assert tpr_at(scores, members, 0.02) == 1.0


@pytest.mark.parametrize("count", range(100, 3000, 100))
def test_the_limit_is_a_count_without_rounding_errors(count):
    """Members below exactly count / 100 non-members are found, below one more they are not."""
    allowed = count // 100
    members = np.arange(count + 1) == count
    nonmembers = np.arange(count, 0, -1.0)
    assert tpr_at(np.append(nonmembers, nonmembers[allowed - 1] - 0.5), members, 0.01) == 1
    assert tpr_at(np.append(nonmembers, nonmembers[allowed] - 0.5), members, 0.01) == 0


def test_the_limit_is_a_count_at_any_rate():
    """In floating point 0.29 * 100 is below 29."""
    scores, members = np.append(np.arange(100, 0, -1.0), 71.5), np.arange(101) == 100
    assert curve(scores, members).tpr_at(0.29) == 1
    assert curve(scores, members).tpr_at(0.28) == 0


def test_an_unresolved_rate_is_missing():
    scores, members = normal(999)
    assert tpr_at(scores, members, 0.001) is None
    assert tnr_at(scores, members, 0.001) is None
    scores, members = normal(1000)
    assert tpr_at(scores, members, 0.001) is not None
    assert tnr_at(scores, members, 0.001) is not None


def test_each_rate_asks_its_own_side():
    scores, members = np.arange(1100.0), np.arange(1100) < 1000
    assert tpr_at(scores, members, 0.001) is None
    assert tnr_at(scores, members, 0.001) is not None
    assert tpr_at(scores, ~members, 0.001) is not None
    assert tnr_at(scores, ~members, 0.001) is None
    assert resolves(100, 0.01)
    assert not resolves(99, 0.01)


# --- Decisions --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(LABELLED, st.integers(-9, 9))
def test_decisions_equal_scikit_learn(pairs, doubled):
    scores, members = arrays(pairs)
    called = scores >= doubled / 2
    ours = decisions(scores, members, doubled / 2)
    expected = {
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(members, called),
        "advantage": sklearn_metrics.balanced_accuracy_score(members, called, adjusted=True),
        "precision": sklearn_metrics.precision_score(members, called, zero_division=0),
        "recall": sklearn_metrics.recall_score(members, called),
        "f1": sklearn_metrics.f1_score(members, called),
    }
    assert ours == pytest.approx(expected, abs=1e-12)
    assert ours.keys() <= METRICS.keys()


@settings(deadline=None)
@given(LABELLED)
def test_the_best_threshold_is_best(pairs):
    scores, members = arrays(pairs)
    best = decisions(scores, members, best_threshold(scores, members))["balanced_accuracy"]
    everywhere = [decisions(scores, members, t)["balanced_accuracy"] for t in [*np.unique(scores), math.inf]]
    assert best == pytest.approx(max(everywhere), abs=1e-12)
    assert curve(scores, members).balanced_accuracies().max() == pytest.approx(best, abs=1e-12)


def test_the_best_threshold_is_midway():
    assert best_threshold([0.0, 1.0, 5.0, 6.0], [False, False, True, True]) == 3.0


def test_of_equally_good_thresholds_the_highest_wins():
    assert best_threshold([3.0, 2.0, 1.0, 0.0], [True, False, True, False]) == 2.5


def test_calling_everybody_a_member_may_be_best():
    assert best_threshold([1.0, 2.0, 3.0], [True, False, False]) == 1.0


@pytest.mark.parametrize(
    ("above", "below"),
    [(math.inf, 0.0), (0.0, -math.inf), (math.inf, -math.inf), (1.0, np.nextafter(1, 0)), (1e308, -1e308)],
)
def test_the_best_threshold_separates_whatever_the_scores(above, below):
    threshold = best_threshold([above, below], [True, False])
    assert above >= threshold > below


# --- The drawn curve --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "decimals"), [(20_000, None), (500, None), (500, 0), (1, None)])
def test_a_thinned_curve_keeps_ends_corners_and_reported_rates(n, decimals):
    scores, members = normal(n, decimals=decimals)
    fpr, tpr, _ = roc(scores, members)
    x, y = thin_roc(fpr, tpr)
    assert len(x) <= 100
    assert (x[0], y[0]) == (0, 0)
    assert (x[-1], y[-1]) == (1, 1)
    assert np.all(np.diff(x) >= 0)
    assert np.all(np.diff(y) >= 0)
    assert set(zip(x, y, strict=True)) <= set(zip(fpr, tpr, strict=True))
    for rate in (0.001, 0.01, 0.1):
        assert y[x <= rate].max() == curve(scores, members).tpr_at(rate)
    assert np.trapezoid(y, x) == pytest.approx(auc(scores, members), abs=0.005)


# --- Calibration ------------------------------------------------------------------------------------


def test_ece_equals_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    log_posteriors = (3 * torch.randn(2000, 5, generator=generator, dtype=torch.float64)).log_softmax(1)
    y = torch.randint(5, (2000,), generator=generator)
    expected = multiclass_calibration_error(log_posteriors.exp(), y, num_classes=5, n_bins=10, norm="l1")
    assert ece(log_posteriors.numpy(), y.numpy()) == pytest.approx(expected.item(), rel=1e-6)


def test_ece_by_hand():
    """Bin (0.5, 0.6]: confidences 0.55 and 0.6, one right; bin (0.9, 1]: 1.0, right. Edges belong below."""
    posteriors = np.array([[0.55, 0.45], [0.4, 0.6], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        assert ece(np.log(posteriors), [0, 0, 0]) == pytest.approx((2 * abs(0.575 - 0.5) + 0) / 3)


@pytest.mark.parametrize("edge", [0.6, 0.7, 0.8])
def test_an_edge_belongs_to_the_bin_below(edge):
    """One sample right at the edge, one wrong just above: in two bins the gaps add up."""
    log_posteriors = np.log([[edge, 1 - edge], [edge + 0.05, 0.95 - edge]])
    log_posteriors[0, 0] = np.nextafter(log_posteriors[0, 0], -1)  # exp(log(edge)) may round upwards
    assert ece(log_posteriors, [0, 1]) == pytest.approx((1 - edge + edge + 0.05) / 2)


def test_a_certain_and_right_model_is_calibrated():
    assert ece(np.log(np.eye(3) + 1e-300), [0, 1, 2]) == pytest.approx(0, abs=1e-12)


def test_the_hypervolume_is_optunas() -> None:
    from optuna._hypervolume import compute_hypervolume

    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        points = [(float(a), float(b)) for a, b in rng.random((n, 2)).round(1)]
        theirs = compute_hypervolume(np.array([(-a, b) for a, b in points]), np.array([0.0, 1.0]))
        assert hypervolume(points) == pytest.approx(theirs)
    assert hypervolume([]) == 0
    assert hypervolume([(0.5, 0.25), (0.5, 0.5)]) == pytest.approx(0.5 * 0.75)


# --- Bounds as they are printed ---------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(1, 6))
def test_printed_bounds_hold_and_are_near(value, digits):
    shown = float(upper_text(value, digits))
    assert value <= shown <= value * (1 + 10.0 ** (1 - digits)) * (1 + 1e-12)
    below = float(lower_bound(value, digits))
    assert value - 10.0**-digits - 1e-9 <= below <= value + 1e-9


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.2443, "8.25"), (8.24, "8.24"), (0.1, "0.1"), (0.0056176, "0.00562"), (99.96, "100"), (7, "7"), (math.inf, "inf"), (0, "0")],
)  # fmt: skip
def test_a_bound_from_above_is_rounded_up(value, text):
    assert upper_text(value) == text


def test_a_bound_from_below_is_rounded_down():
    assert lower_bound([0.4, 0.29, 1.2349, np.nan]).tolist()[:3] == [0.4, 0.29, 1.234]


def test_the_area_within_each_class_is_that_of_its_samples_alone():
    """With ties, within classes and across them; class 3 has no member, and nobody is of class 4."""
    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 4, 600), rng.integers(0, 30, 600).astype(float)
    members = (rng.random(600) < 0.3 + 0.01 * scores) & (y < 3)
    found = auc_by_class(scores, members, y, 5)
    for k in range(3):
        assert found[k] == pytest.approx(sklearn_metrics.roc_auc_score(members[y == k], scores[y == k]))
    assert np.isnan(found[3:]).all()


def halves(pairs, n, rng):
    """Membership (2 * pairs, n) of samples in complementary halves."""
    first = rng.random((pairs, n)) < 0.5
    return np.stack([first, ~first], 1).reshape(2 * pairs, n)


@pytest.mark.parametrize("pairs", [2, 5])
@pytest.mark.parametrize("rise", [0.0, 0.1, 0.3])
def test_sensitivity_is_free_of_the_chance_of_training(pairs, rise):
    """A fifth of the samples rise by five times the mean; noise of training, common to nobody, adds nothing to the root mean square."""
    rng = np.random.default_rng(0)
    n = 20_000
    rises = rise * np.where(np.arange(n) % 5 == 0, 2.0, 0.0)
    members = halves(pairs, n, rng)
    confidences = 0.4 + rises * members + rng.normal(0, 0.1, members.shape)
    expected = np.sqrt(np.mean(rises**2))
    assert sensitivity(confidences, members) == pytest.approx(expected, abs=0.02 if rise == 0 else 0.005)


def test_sensitivity_of_exact_rises_is_exact_and_of_opposite_ones_is_0():
    members = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], bool)
    assert sensitivity(0.25 * members, members) == pytest.approx(0.25)
    assert sensitivity(np.array([[0.2, 0], [0, 0], [0.2, 0], [0, 0]]), members) == 0
    mixed = np.array([[0.5, 0], [0, 0.1], [0, 0.3], [0.1, 0]])
    assert sensitivity(mixed, members) == pytest.approx(np.sqrt((0.5 * 0.1 + 0.1 * 0.3) / 2))


@pytest.mark.parametrize(
    "members",
    [
        [[1, 0], [0, 1]],
        [[1, 0], [0, 1], [1, 0]],
        [[1, 0], [1, 0], [1, 0], [0, 1]],
    ],
)
def test_sensitivity_asks_for_complementary_pairs(members):
    members = np.array(members, bool)
    with pytest.raises(
        ValueError, match=f"two pairs of networks trained on complementary halves, given {len(members)}"
    ):
        sensitivity(members.astype(float), members)
