"""Model risks: measures of a model against the success of an attack."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmark.result import Result
from leaderboard.publish import publish
from leaderboard.ranking import Board
from leaderboard.views.risks import line
from tests.leaderboard.conftest import app_page, texts

Toy = tuple[list[Result], Board]


def test_the_line_is_the_least_squares_one() -> None:
    x = pd.Series([0.0, 1.0, 2.0])
    assert line(x, 0.7 * x + 0.4) == pytest.approx((0.7, 0.4, 1.0))
    # By hand: means 1 and 2/3; slope 1/2, intercept 1/6, r = sqrt(3)/2.
    assert line(x, pd.Series([0.0, 1.0, 1.0])) == pytest.approx((0.5, 1 / 6, 3**0.5 / 2))
    assert line(x[:2], x[:2]) is None
    assert line(pd.Series([1.0, 1.0, 1.0]), x) is None


def test_each_point_is_a_defense_and_a_seed(folder: Path, made_up: Toy) -> None:
    results, _ = made_up
    publish(*made_up, folder / "toy-v1")
    app = app_page("risks").run()
    assert not app.exception
    assert app.selectbox(key="js_entropy_attack").value == "nn_sorted"
    points = app.dataframe[0].value.set_index(["defense", "seed"])
    assert len(points) == 9 * 3
    utility = next(r for r in results if r.task == "utility" and (r.defense, r.seed) == ("selena", 1))
    attacked = next(r for r in results if (r.attack, r.defense, r.seed) == ("nn_sorted", "selena", 1))
    row = points.loc[("selena", 1)]
    assert row.js == pytest.approx(0.03 + 0.2 * 0.35)
    assert row.overfitting == pytest.approx(
        utility.metrics["train_accuracy"] - utility.metrics["test_accuracy"], abs=1e-5
    )
    assert row.success == pytest.approx(attacked.metrics["balanced_accuracy"], abs=1e-5)
    slope, intercept, r = line(points.js, points.success) or pytest.fail("no line")
    assert f"Fitted line: {slope:.3f} d + {intercept:.3f}; r = {r:.2f}; 27 points" in texts(app)
    assert "stays below 0.040" in texts(app)


def drawn(app: object) -> list[str]:
    return [element.proto.spec + str(element.proto.datasets) for element in app.get("vega_lite_chart")]  # type: ignore[attr-defined]


def test_the_paper_s_line_stands_only_beside_its_own_attack_and_metric(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("risks").run()
    assert "He et al., figure 9: 0.716 d + 0.416" in drawn(app)[0]
    assert "He et al." not in drawn(app)[1], "theirs is no line of overfitting"
    app.button_group(key="success").set_value("auc").run()
    assert "He et al." not in drawn(app)[0]
    app.button_group(key="success").set_value("balanced_accuracy").run()
    app.selectbox(key="js_entropy_attack").select("loss").run()
    assert "He et al." not in drawn(app)[0]


def test_records_without_the_distance_say_what_to_run(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("risks", js="Cross-entropy").run()
    assert not app.exception
    assert "The records hold no JS distance" in texts(app)
    assert app.code[0].value == "leakboard run --protocol toy-v1"
    assert len(drawn(app)) == 1, "overfitting is drawn all the same"
