"""Intervals over seeds cover what they promise where the targets of a seed share its chance, and t over pairs does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from leaderboard.comparison import false_discovery_rates, interval, paired_difference, rank

SEEDS, PAIRS, WORLDS = 5, 5, 2000
SHARED, OWN = 0.02, 0.01
"""Standard deviations of what all targets of a seed share, as by its shadow world, and of one pair's own."""


def worlds(effects: tuple[float, ...], scale: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Values (worlds, defenses, pairs, seeds) whose means are 0.6 plus the effects; `scale` of both sources of chance."""
    shape = (WORLDS, len(effects), PAIRS, SEEDS)
    shared = rng.normal(0, SHARED * scale, (WORLDS, len(effects), 1, SEEDS))
    return 0.6 + np.array(effects)[:, None, None] + shared + rng.normal(0, OWN * scale, shape)


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["auc", "tpr"])
def test_differences_over_seeds_are_covered(scale: float) -> None:
    values = worlds((0.0, 0.03), scale, np.random.default_rng(0))
    found = [paired_difference(first, second) for first, second in values]
    covered = np.mean([low <= -0.03 <= high for _, low, high in found])
    assert 0.93 <= covered <= 0.97


def test_t_over_pairs_is_not_what_a_board_may_rest_on() -> None:
    """It sees nothing of what the targets of a seed share: the reason why differences are averaged within a seed first."""
    values = worlds((0.0, 0.03), 1.0, np.random.default_rng(1))
    mean, half = interval((values[:, 0] - values[:, 1]).reshape(WORLDS, -1))
    assert np.mean(np.abs(mean + 0.03) <= half) < 0.8


def test_equal_defenses_are_seldom_told_apart_and_unequal_ones_often() -> None:
    equal, unequal = [], []
    for each in worlds((0.0, 0.0, 0.15), 1.0, np.random.default_rng(2))[:600]:
        table = rank(each, larger_is_better=False)
        equal.append(table.rank_high[0] < 2 or table.rank_high[1] < 2)
        unequal.append(table.worse_than[2] == 2)
    assert np.mean(equal) <= 0.07 and np.mean(unequal) > 0.95


def test_entries_are_compared_on_the_targets_that_both_have_met() -> None:
    """What met one pair is held against the others on that pair: an easy pair favours nobody."""
    rng = np.random.default_rng(3)
    difficulty = rng.normal(0, 0.1, (PAIRS, SEEDS))
    values = 0.6 + difficulty + np.array([0.0, 0.01, 0.02])[:, None, None] + rng.normal(0, 1e-4, (3, PAIRS, SEEDS))
    values[1, 1:] = np.nan
    table = rank(values, larger_is_better=False)
    assert table["rank"].tolist() == [1, 2, 3] == table.rank_low.tolist() == table.rank_high.tolist()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_false_discovery_rates_are_scipy_s(p: list[float]) -> None:
    assert false_discovery_rates(np.array(p)) == pytest.approx(stats.false_discovery_control(p, method="bh"))
    assert len(false_discovery_rates(np.empty(0))) == 0
