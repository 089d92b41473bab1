"""The papers' numbers beside ours: by hand, in their units, and on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from benchmark import protocol
from benchmark.entries.registry import Registry
from benchmark.result import Result
from leaderboard import claims
from leaderboard.comparison import estimate, leave_one_out
from leaderboard.papers import Paper, Table, load, side_by_side
from leaderboard.publish import publish
from leaderboard.ranking import Board
from tests.conftest import SUBMISSIONS
from tests.leaderboard.conftest import app_page, make_result, texts

TABLE = {
    "table": "Table 1", "about": "attacks", "dataset": "CIFAR10", "network": "ResNet18", "size": "10,000", "unit": "percent",
    "protocols": ["near-v1", "far-v1"], "defense": "undefended", "metric": "balanced_accuracy",
    "numbers": [
        {"row": "one", "value": "65.30", "attacks": ["a"]},
        {"row": "best", "value": "70.0", "attacks": ["a", "b", "never scored"]},
        {"row": "accuracy", "value": "91", "attacks": [""], "metric": "test_accuracy", "setting": "N = 30"},
        {"row": "nowhere", "value": "50", "attacks": ["never scored"]},
    ],
}  # fmt: skip
A, B = [0.60, 0.61, 0.65], [0.62, 0.60, 0.61]


def paper(**changes: object) -> Paper:
    return Paper.model_validate({"id": "X", "name": "X", "cite": "X", "tables": [TABLE | changes]})


def records(protocol: str, **scores: list[float]) -> list[Result]:
    rows = [
        make_result("membership", a, "undefended", s, metrics={"balanced_accuracy": v})
        for a, values in scores.items()
        for s, v in enumerate(values)
    ]
    rows += [make_result("utility", "", "undefended", s, metrics={"test_accuracy": 0.8 + s / 100}) for s in range(3)]
    return [r.model_copy(update={"protocol": protocol}) for r in rows]


def test_each_number_meets_ours() -> None:
    kept = {"near-v1": records("near-v1", a=A, b=B), "far-v1": []}
    table = side_by_side(paper(), kept.__getitem__, {"near-v1": 2000}).set_index("row")
    one, best, accuracy, nowhere = (table.loc[row] for row in ("one", "best", "accuracy", "nowhere"))
    assert (one.printed, one.paper, one.attack) == ("65.30 %", pytest.approx(0.653), "a")
    assert (one.ours, one.low, one.high) == pytest.approx(estimate(np.array(A)))
    assert best.ours == pytest.approx(leave_one_out(np.array([A, B]))[0].mean()), "the best is chosen on other seeds"
    assert best.attack == "best of 2"
    assert accuracy.ours == pytest.approx(0.81)
    assert accuracy.differs == "data CIFAR10, not toy; network ResNet18, not tiny; size 10,000, not 2,000; N = 30"
    assert np.isnan(nowhere.ours) and nowhere.attack == "never scored"


def test_the_protocol_that_has_most_of_a_table_counts() -> None:
    near, far = records("near-v1", a=A[:1]), records("far-v1", a=B)
    kept = {"near-v1": near, "far-v1": far}
    table = side_by_side(paper(), kept.__getitem__, {}).set_index("row")
    assert (table.protocol["one"], table.ours["one"]) == ("far-v1", pytest.approx(np.mean(B)))
    assert table.protocol["accuracy"] == "far-v1", "numbers of one table are compared with each other"
    whole = {"near-v1": records("near-v1", a=A), "far-v1": far}
    assert set(side_by_side(paper(), whole.__getitem__, {}).protocol.dropna()) == {"near-v1"}, "of equals the nearest"
    alone = {"near-v1": [r for r in near if not r.attack], "far-v1": [r for r in far if r.attack]}
    assert set(side_by_side(paper(), alone.__getitem__, {}).protocol.dropna()) == {"near-v1", "far-v1"}, (
        "what one lacks"
    )
    same = side_by_side(paper(dataset="toy", network="tiny", size="2,000"), kept.__getitem__, {"far-v1": 2000})
    assert same.differs[0] == "", "nothing differs"


@pytest.mark.parametrize(("unit", "value"), [("percent", 0.57), ("fraction", 57), ("ms", 57), ("hours", 57 * 3600)])
def test_units(unit: str, value: float) -> None:
    number = {"row": "r", "value": "57", "attacks": [""], "metric": "train_seconds"}
    found = side_by_side(paper(unit=unit, numbers=[number]), lambda _: [], {})
    assert found.paper[0] == pytest.approx(value)


@pytest.mark.parametrize(
    "number",
    [{"row": "r", "value": "about 5", "attacks": ["a"]}, {"row": "r", "value": "5", "attacks": ["a"], "metric": "nonsense"},
     {"row": "r", "value": "5"}, {"row": "r", "value": "5", "attacks": ["a"], "unknown": 1}],
)  # fmt: skip
def test_what_is_not_whole_is_refused(number: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Table.model_validate(TABLE | {"numbers": [number]})


def test_the_papers_name_protocols_and_entries_that_there_are() -> None:
    registry = Registry(SUBMISSIONS)
    papers = load()
    assert {p.id for p in papers} == {"S", "M", "D", "F"}
    for table in (t for p in papers for t in p.tables):
        for name in table.protocols:
            protocol.load(name)
        for number in table.numbers:
            assert registry.chain(number.defense, "undefended").name == number.defense
            for attack in filter(None, number.attacks):
                assert registry.attack(attack).name == attack
    for claim in claims.load():
        assert claim.id == "LiRA" or claim.id[0] in {p.id for p in papers}


def test_the_page_without_a_result(folder: Path) -> None:
    app = app_page("papers", paper="Peng et al. 2025").run()
    assert not app.exception
    numbers, verdicts = (element.value for element in app.dataframe)
    assert "79.14 %" in set(numbers.printed)
    assert numbers.ours.isna().all()
    assert set(verdicts.verdict) == {"not scored"}
    assert set(verdicts.claim.str[0]) == {"F"}
    assert "leakboard run --protocol fashion-guards-v1" in app.code[-1].value
    app.toggle(key="scored").set_value(True).run()
    assert not app.exception
    assert app.code[0].value.startswith("leakboard run --protocol ")


def test_the_page_joins_and_decides(folder: Path) -> None:
    """Made-up records under a real protocol's name: a number of ours, and a verdict."""
    rows = [
        make_result("membership", attack, "undefended", seed, metrics={"balanced_accuracy": value + seed / 1000})
        for attack, value in (("nn_normal_label", 0.7), ("metric_corr", 0.6))
        for seed in range(3)
    ]
    rows = [r.model_copy(update={"protocol": "fashion-attacks-v2", "dataset": "fashion_mnist"}) for r in rows]
    publish(rows, Board((), ("undefended",), (0, 1, 2), "undefended", 0.7), folder / "fashion-attacks-v2")
    app = app_page("papers", paper="He et al. 2022").run()
    assert not app.exception
    numbers, verdicts = (element.value for element in app.dataframe)
    best = numbers[(numbers.row == "NN-normal+label") & (numbers.dataset == "CIFAR10")].iloc[0]
    assert (best.printed, best.ours) == ("0.825", pytest.approx(0.701))
    assert "data CIFAR10, not fashion_mnist" in best.differs
    assert verdicts.set_index("claim").verdict["M1a"] == "holds"
    assert "1 holds" in texts(app)
    app.button_group(key="tables").set_value(["Table 4"]).run()
    assert set(app.dataframe[0].value.table) == {"Table 4"}
