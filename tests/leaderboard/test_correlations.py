"""Correlations of the kinds of attack: against scipy, by hand, and what too few points say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from leaderboard.correlations import DRAWS, LEAST, MEASURES, correlation, correlations, measures, pooled, spearman
from leaderboard.kinds import excesses
from leaderboard.ranking import scenarios
from tests.leaderboard.conftest import OF_KINDS, make_board, make_kinds, make_result


def points(x: list[float], y: list[float], noise: float = 0.0, seeds: int = 3, network: str = "n") -> pd.DataFrame:
    """A defense for each pair, measured on some seeds with noise that all defenses of a seed do not share."""
    random = np.random.default_rng(0)
    rows = [
        {"dataset": "d", "network": network, "defense": f"m{i}", "seed": s, "membership": a + random.normal(0, noise), "stealing": b + random.normal(0, noise)}
        for i, (a, b) in enumerate(zip(x, y, strict=True)) for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=["dataset", "network", "defense", "seed", *MEASURES])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_rho_is_scipy_s_with_ties_and_gaps() -> None:
    random = np.random.default_rng(1)
    first, second = random.integers(0, 6, (20, 12)).astype(float), random.normal(size=(20, 12))
    second[3, 4] = np.nan
    found = spearman(first, second)
    for i in range(20):
        both = np.isfinite(second[i])
        assert found[i] == pytest.approx(stats.spearmanr(first[i][both], second[i][both]).statistic)
    assert np.isnan(spearman(np.ones((1, 5)), second[:1, :5]))[0]


def test_rho_is_of_the_means_over_seeds_and_lies_in_its_interval() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=25)
    rows = points(list(x), list(-x + random.normal(0, 0.5, 25)), 0.05)
    found = correlation(rows, "membership", "stealing", rng())
    means = rows.groupby("defense")[["membership", "stealing"]].mean()
    assert found.rho == pytest.approx(stats.spearmanr(means.membership, means.stealing).statistic)
    assert -1 <= found.low < found.rho < found.high < -0.3 and found.points == 25 and found.note == ""
    assert found == correlation(rows, "membership", "stealing", rng()), "the same generator, the same interval"


def test_the_interval_covers_the_truth() -> None:
    """Two measures that have nothing in common: 95 % of intervals hold 0. Of 60, at most 8 may miss it by chance (p below 0.01)."""
    random = np.random.default_rng(3)
    missed = 0
    for _ in range(60):
        found = correlation(
            points(list(random.normal(size=20)), list(random.normal(size=20))), "membership", "stealing", rng()
        )
        missed += not found.low <= 0 <= found.high
    assert missed <= 8


def test_noise_over_seeds_widens_the_interval() -> None:
    x = list(np.linspace(0, 1, 12))
    sure, unsure = (correlation(points(x, x, noise), "membership", "stealing", rng()) for noise in (0.0, 0.2))
    assert sure.rho == 1 and sure.low == pytest.approx(1) and unsure.low < 0.9


def test_boards_of_one_data_set_and_network_share_their_points() -> None:
    """The same targets on two boards are no more evidence."""
    x, y = [1.0, 2, 3, 4, 5, 6, 7, 8], [2.0, 1, 4, 3, 6, 5, 8, 7]
    once, twice = points(x, y), pd.concat([points(x, y), points(x, y)])
    assert correlation(once, "membership", "stealing", rng()) == correlation(twice, "membership", "stealing", rng())
    other = pd.concat([points(x, y), points(x, y, network="other")])
    assert correlation(other, "membership", "stealing", rng()).points == 16


def test_too_few_points_or_none_that_differ_say_so() -> None:
    few = correlation(points([1.0] * (LEAST - 1), [1.0] * (LEAST - 1)), "membership", "stealing", rng())
    assert np.isnan(few.rho) and few.note == f"fewer than {LEAST} points" and few.points == LEAST - 1
    flat = correlation(points([1.0] * LEAST, list(range(LEAST))), "membership", "stealing", rng())
    assert np.isnan(flat.rho) and flat.note == "membership is the same at all points"
    assert correlations(pooled({}), rng()) == []
    assert DRAWS >= 1000


def test_a_board_s_measures_are_its_excesses_and_gaps() -> None:
    results, board = make_kinds()
    frame = scenarios(results)
    found = measures(frame, board).set_index(["defense", "seed"])
    expected = excesses(frame, board).set_index(["defense", "seed"])
    for kind in ("membership", *OF_KINDS):
        np.testing.assert_array_equal(found[kind], expected[kind])
    utility = next(r for r in results if (r.task, r.defense, r.seed) == ("utility", "selena", 1)).metrics
    assert found.overfitting["selena", 1] == pytest.approx(utility["train_accuracy"] - utility["test_accuracy"])
    assert (found.classes == 3).all(), "as the records of an attack hold it"
    every = correlations(pooled({"toy": (frame, board)}), rng())
    assert {(c.first, c.second) for c in every if c.note == ""} >= {
        ("membership", "stealing"),
        ("membership", "overfitting"),
    }
    assert next(c for c in every if (c.first, c.second) == ("membership", "stealing")).rho < -0.5, "as ML-DOCTOR found"


def test_a_board_of_membership_alone_has_overfitting_beside_it() -> None:
    results, board = make_board()
    alone = [r for r in results if r.task in ("membership", "utility") and r.defense != "hamp"]
    found = correlations(pooled({"toy": (scenarios(alone), board)}), rng())
    assert [(c.first, c.second) for c in found] == [("membership", "overfitting"), ("membership", "classes")]
    bare = [make_result("membership", "loss", "undefended", 0, metrics={"auc": 0.7})]
    assert correlations(pooled({"bare": (scenarios(bare), board)}), rng()) == []
