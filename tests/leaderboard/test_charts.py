"""Charts: what is drawn, and what is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leaderboard.charts import (
    HEIGHT,
    NAME_HEIGHT,
    budget,
    spread,
    tradeoff,
    without_budget,
)
from leaderboard.ranking import AUC


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("boundary", "boundary"),
        ("boundary[queries=250]", "boundary"),
        ("boundary[norm=linf,queries=250]", "boundary[norm=linf]"),
        ("boundary[queries=250,norm=linf]", "boundary[norm=linf]"),
        ("noise[copies=25,deviation=0.1]", "noise[deviation=0.1]"),
    ],
)
def test_a_name_without_its_budget(name: str, left: str) -> None:
    assert without_budget(name) == left


def rows(*names: str) -> pd.DataFrame:
    columns = ("attack", "auc", "auc_low", "auc_high", "queries")
    return pd.DataFrame([(n, 0.6, 0.55, 0.65, 100.0 * i) for i, n in enumerate(names)], columns=columns)


def test_budgets_of_one_attack_share_a_curve() -> None:
    # The first asks nothing, which a logarithmic axis can't show.
    chart = budget(rows("asks_nothing", "boundary[queries=250]", "boundary", "other"))
    assert chart is not None
    (data,) = chart.to_dict()["datasets"].values()
    assert [(d["attack"], d["curve"]) for d in data] == [
        ("boundary[queries=250]", "boundary"), ("boundary", "boundary"), ("other", "other"),
    ]  # fmt: skip


def test_one_budget_each_is_no_curve() -> None:
    assert budget(rows("asks_nothing", "boundary", "boundary[norm=linf]")) is None


def test_heights_move_as_little_as_it_takes() -> None:
    assert spread(np.array([0.0, 100.0, 50.0]), 13).tolist() == [0, 100, 50], "what lies apart stays"
    assert spread(np.array([10.0, 10.0]), 12) == pytest.approx([4, 16])
    assert spread(np.array([]), 13).tolist() == []
    given = np.random.default_rng(0).uniform(0, 100, 20)
    found = spread(given, 13)
    assert (np.diff(found[np.argsort(given)]) >= 13 - 1e-9).all()
    assert found.mean() == pytest.approx(given.mean()), "of all in one block"


@pytest.mark.parametrize(("metric", "leakage"), [(AUC, 0.55), ("tpr_at_fpr_0.01", 0.02)])
def test_names_of_crowded_defenses_lie_apart(metric: str, leakage: float) -> None:
    crowd = [leakage * (1 + i / 1000) for i in range(6)] + [leakage * 1.5]
    points = pd.DataFrame({
        "defense": [f"d{i}" for i in range(7)], "kind": "ranked", "curve": "", "place": 0, "front": False,
        "accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "leakage": crowd,
        "leakage_low": crowd, "leakage_high": crowd, "decided": "loss", "reason": "",
    })  # fmt: skip
    drawn = tradeoff(points, "Leakage", metric, {}).to_dict()
    data = next(iter(d for d in drawn["datasets"].values() if d and d[0].get("named")))
    low, high = next(
        layer["encoding"]["y"]["scale"]["domain"]
        for layer in drawn["layer"]
        if layer.get("encoding", {}).get("y", {}).get("scale")
    )
    turn = np.positive if metric == AUC else np.log
    heights = np.sort([(turn(d["named"]) - turn(low)) / (turn(high) - turn(low)) * HEIGHT for d in data])
    assert np.diff(heights).min() >= NAME_HEIGHT - 1e-6


def test_long_names_have_initials_or_end_early() -> None:
    given = [
        "dp_sgd[noise_multiplier=0.0154,learning_rate=0.852]",
        "dp_sgd[noise_multiplier=3.0]",
        "hamp[gamma=0.5,alpha=0.01]",
    ]
    points = pd.DataFrame({
        "defense": given, "kind": "ranked", "curve": "", "place": 0, "front": False, "accuracy": 0.8,
        "accuracy_low": 0.7, "accuracy_high": 0.9, "leakage": [0.5, 0.6, 0.7], "leakage_low": 0.5, "leakage_high": 0.6,
        "decided": "loss", "reason": "",
    })  # fmt: skip
    drawn = tradeoff(points, "Leakage", AUC, {}).to_dict()
    data = next(d for d in drawn["datasets"].values() if d and d[0].get("named"))
    assert [d["name"] for d in data] == ["dp_sgd[nm=0.0154,lr=0.852]", "dp_sgd[noise_multiplier=3.0]", "hamp"]
    assert [d["defense"] for d in data] == given
