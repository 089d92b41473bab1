"""The matrix and the scenario that is opened in it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.result import Result
from leaderboard import charts
from leaderboard.cells import matrix
from leaderboard.publish import publish
from leaderboard.ranking import AUC, Board, attack_table, defense_table, scenarios
from leaderboard.views.matrix import command
from tests.leaderboard.conftest import GUARDED, app_page, texts

Toy = tuple[list[Result], Board]


def cells_of(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    defenses = list(defense_table(frame, board).defense)
    mine = frame[frame.task == "membership"]
    return matrix(mine, AUC, defenses, attack_table(frame, board)).set_index(["attack", "defense"])


def test_a_cell_is_the_mean_over_seeds_or_says_why_there_is_none(made_up: Toy) -> None:
    results, board = made_up
    broken = {"status": "failed", "reason": "TypeError", "metrics": {}}
    results = [r.model_copy(update=broken) if (r.attack, r.defense) == ("loss", "hamp") else r for r in results]
    frame = scenarios(results)
    cells = cells_of(frame, board)
    seeds = [r.metrics[AUC] for r in results if (r.attack, r.defense) == ("lira", "selena")]
    assert cells.value["lira", "selena"] == pytest.approx(np.mean(seeds))
    assert cells.text["lira", "selena"] == f"{np.mean(seeds):.2f}"
    assert cells.note["lira", "hamp"] == "2 of 2 scored"
    skipped = cells.loc[("gradient", "undefended+memguard")]
    assert (skipped.text, skipped.note) == ("»", f"0 of 3 scored; skipped: {GUARDED}")
    assert cells.text["loss", "hamp"] == "failed"
    assert cells.note["loss", "hamp"] == "0 of 3 scored; failed: TypeError"
    table = attack_table(frame, board)
    assert list(dict.fromkeys(cells.reset_index().attack)) == list(table.attack), "as they are given"
    assert set(cells.group) == {*table.track[table.attack != "random"], "null rows"}
    assert list(dict.fromkeys(cells.reset_index().defense)) == list(defense_table(frame, board).defense)
    assert len(cells) == 6 * 9


def test_what_was_not_scored_is_a_cell_too(folder: Path, made_up: Toy) -> None:
    results, board = [r for r in made_up[0] if (r.attack, r.defense) != ("lira", "selena")], made_up[1]
    frame = scenarios(results)
    cells = cells_of(frame, board)
    assert len(cells) == 6 * 9
    empty = cells.loc[("lira", "selena")]
    assert (np.isnan(empty.value), empty.text, empty.note) == (True, "", "not scored")
    publish(results, board, folder / "toy-v1")
    app = app_page("matrix", attack="lira", defense="selena").run()
    assert not app.exception
    assert "It was not scored. This does it:" in texts(app)
    assert app.code[0].value == "leakboard run lira --protocol toy-v1"


def test_an_address_that_names_nothing_here_is_told(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    for page, asked in (("matrix", {"attack": "loss", "defense": "nobody"}), ("entry", {"entry": "nobody"})):
        app = app_page(page, **asked).run()
        assert not app.exception
        assert [w.value for w in app.warning] == [
            f"The address asks for the {[*asked][-1]} nobody, which is not here: another one is shown."
        ]
    assert not app_page("matrix", attack="loss", defense="selena").run().warning


def test_the_command_names_what_is_not_required(made_up: Toy) -> None:
    _, board = made_up
    for attack, defense, names in (
        ("lira", "selena", ["lira"]),
        ("lira", "constant", ["constant"]),
        ("gradient", "dp_sgd[noise=0.5]", ["gradient"]),
        ("gradient", "a b;[x='y']", ["gradient", "a b;[x='y']"]),
    ):
        words = shlex.split(command("toy-v1", board, attack, defense, 2))
        assert words == ["leakboard", "run", *names, "--protocol", "toy-v1", "--seed", "2"]


def test_an_address_opens_its_scenario(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("matrix", attack="loss", defense="selena", seed="1").run()
    assert not app.exception
    assert "loss on selena" in texts(app)
    assert app.code[0].value == "leakboard run loss --protocol toy-v1 --seed 1"
    record = json.loads(app.code[1].value)
    assert (record["attack"], record["defense"], record["seed"]) == ("loss", "selena", 1)
    seeds = app.dataframe[0].value
    assert list(seeds.seed) == [0, 1, 2]
    assert seeds.run.str.startswith("http://127.0.0.1:5000/#/experiments/1/runs/").all()
    assert "Scores of members and non-members" in texts(app)
    app.selectbox(key="attack").select("lira").run()
    assert "The record holds no histogram" in texts(app)
    app.button_group(key="task").set_value("attribute").run()
    assert not app.exception
    assert "This task has no ROC curve." in texts(app)


def test_what_was_skipped_says_so(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("matrix", attack="gradient", defense="undefended+memguard").run()
    assert not app.exception
    assert f"skipped: {GUARDED}" in texts(app)


def test_a_band_goes_from_the_lowest_seed_to_the_highest(result: Callable[..., Result]) -> None:
    rocs = [((0.0, 0.1, 1.0), (0.0, 0.4, 1.0)), ((0.0, 0.1, 0.5, 1.0), (0.0, 0.2, 0.9, 1.0))]
    seeds = [
        result("membership", "loss", "selena", s, roc=roc, metrics={"nonmembers": 100.0}) for s, roc in enumerate(rocs)
    ]
    drawn = charts.roc(seeds).to_dict()
    curve = next(d for d in drawn["datasets"].values() if d and "high" in d[0])
    at = {row["FPR"]: (row["low"], row["TPR"], row["high"]) for row in curve}
    assert at[0.1] == pytest.approx((0.2, 0.3, 0.4))
    assert at[0.5] == pytest.approx((0.4, 0.65, 0.9)), "the last corner counts, there is no interpolation"
    with pytest.raises(ValueError, match="ROC curve"):
        charts.roc([])


def test_one_seed_has_the_intervals_of_its_record(result: Callable[..., Result]) -> None:
    intervals = {"tpr_at_fpr_0.01": (0.02, 0.08), "auc": (0.5, 0.6), "tpr_at_fpr_0.01_reversed": (0.0, 0.1)}
    one = result("membership", "loss", "selena", 0, roc=((0.0, 0.01, 1.0), (0.0, 0.05, 1.0)), intervals=intervals)
    bars = [d for d in charts.roc([one]).to_dict()["datasets"].values() if d and set(d[0]) == {"FPR", "low", "high"}]
    assert bars == [[{"FPR": 0.01, "low": 0.02, "high": 0.08}]]
