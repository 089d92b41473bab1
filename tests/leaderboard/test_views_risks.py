"""Model risks: measures of a model against the success of an attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.result import Result
from leaderboard import tables
from leaderboard.correlations import correlations
from leaderboard.correlations import pooled as correlated
from leaderboard.publish import load, publish
from leaderboard.ranking import Board, scenarios
from leaderboard.risks import error, left_out, line, pooled
from tests.leaderboard.conftest import app_page, make_kinds, texts

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


def test_a_prediction_has_not_seen_the_data_set_and_network_of_its_row() -> None:
    """Two networks on lines of their own: each is predicted by the other's, in a wrong place by what divides them."""
    risk = [0.0, 0.1, 0.2, 0.3]
    rows = pd.DataFrame(
        {"defense": list("abcd"), "js": risk, "success": [0.5 + r for r in risk], "dataset": "x", "seed": 0}
    )
    tables = {
        "first": rows.assign(network="n"),
        "second": rows.assign(network="m", success=rows.success + 0.05),
    }
    points = pooled(tables)
    assert left_out(points) == ["dataset", "network"] and len(points) == 8
    assert (points.predicted - points.success).tolist() == pytest.approx([0.05] * 4 + [-0.05] * 4)
    assert error(points.predicted, points.success) == pytest.approx(0.05)
    alone = pooled(
        {"first": pd.concat([rows.assign(network="n"), rows.assign(network="n", seed=1, success=rows.success + 0.02)])}
    )
    assert left_out(alone) == ["defense"] and alone.success.tolist() == pytest.approx([0.51, 0.61, 0.71, 0.81])
    assert error(alone.predicted, alone.success) == pytest.approx(0, abs=1e-9)
    assert pooled({}).empty


def test_all_boards_give_one_line_and_its_error(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("risks", all="true").run()
    assert not app.exception
    assert "All boards" in [s.value for s in app.subheader]
    table = app.dataframe[1].value
    assert set(table.protocol) == {"toy-v1"} and len(table) == 9
    wrong = ((table.predicted - table.success) ** 2).mean() ** 0.5
    assert f"Predicted without its defense, the error of a row is {wrong:.3f}" in texts(app)
    assert "by He et al.'s line" in texts(app)
    app.selectbox(key="js_entropy_attack").select("loss").run()
    assert "by He et al.'s line" not in texts(app)


def test_kinds_of_attack_are_correlated_over_all_boards(folder: Path) -> None:
    """The table is what `correlations` finds; two measures are drawn; a pair that no row has says so."""
    results, board = make_kinds()
    publish(results, board, folder / "toy-v1")
    app = app_page("risks", kinds="true").run()
    assert not app.exception
    table = app.dataframe[1].value.set_index(["first", "second"])
    frame = scenarios(load(folder / "toy-v1"))
    expected = correlations(correlated({"toy-v1": (frame, board)}), np.random.default_rng(0))
    assert len(table) == len(expected)
    for row in expected:
        assert table.rho[row.first, row.second] == pytest.approx(row.rho, nan_ok=True)
        assert table.note[row.first, row.second] == row.note
    assert table.points["membership", "stealing"] == 8, "hamp lacks an attack"
    assert "classes is the same at all points" in set(table.note)
    count = len(drawn(app))
    assert app.selectbox(key="across").value == "stealing" and app.selectbox(key="upwards").value == "membership"
    app.selectbox(key="upwards").select("stealing").run()
    assert not app.exception and len(drawn(app)) == count - 1 and "choose two other measures" in texts(app)


def test_canaries_are_no_points_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(*make_kinds(), folder / "toy-v1")
    monkeypatch.setattr(tables, "plants_canaries", lambda protocol: True)
    app = app_page("risks", kinds="true").run()
    assert not app.exception and "No board has two kinds of attack" in texts(app)


def test_a_protocol_says_whether_it_plants_canaries() -> None:
    assert tables.plants_canaries("fashion-canaries-v2") and not tables.plants_canaries("digits-v2")
    assert not tables.plants_canaries("nothing-of-that-name")
