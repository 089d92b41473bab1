"""Charts: what is drawn, and what is not."""

from __future__ import annotations

import pandas as pd
import pytest

from leaderboard.charts import budget, tradeoff, without_budget
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
    data = next(d for d in drawn["datasets"].values() if len(d) == 3)
    assert [d["name"] for d in data] == ["dp_sgd[nm=0.0154,lr=0.852]", "dp_sgd[noise_multiplier=3.0]", "hamp"]
    assert [d["defense"] for d in data] == given
