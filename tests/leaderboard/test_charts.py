"""Charts: what is drawn, and what is not."""

from __future__ import annotations

import pandas as pd
import pytest

from leaderboard.charts import budget, without_budget


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
