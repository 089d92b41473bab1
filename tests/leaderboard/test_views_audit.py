"""The page Audit: there where an audit was named, with its numbers and its place beside the chosen board's defenses."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from benchmark.result import Result
from leaderboard.audits import VARIABLE
from leaderboard.publish import publish
from leaderboard.ranking import Board
from tests.leaderboard.conftest import APP, app_page, make_audit, texts

Toy = tuple[list[Result], Board]


@pytest.fixture
def audit(folder: Path, made_up: Toy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an audit, which the app was opened with, beside a board."""
    publish(*made_up, folder / "toy-v1")
    (folder / "audit").mkdir()
    model = make_audit().model.model_copy(update={"classes": 3})
    gate = [{"condition": "auc > 0.9", "outcome": "passes", "reason": "it is 0.61 at most"}]
    check = {"name": "Digits", "state": "warning", "found": "Few.", "effect": "Rough."}
    report = make_audit(model=model.model_dump(), gate=gate, checks=[check, check | {"name": "Fine", "state": "ok"}])
    (folder / "audit" / "audit.json").write_text(report.as_json(), "utf-8")
    monkeypatch.setenv(VARIABLE, str(folder / "audit"))
    return folder / "audit"


def test_it_is_the_first_page_and_only_with_an_audit(
    folder: Path, audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = AppTest.from_file(APP, default_timeout=60).run()
    assert not app.exception and app.title[0].value == "Audit"
    monkeypatch.delenv(VARIABLE)
    assert AppTest.from_file(APP, default_timeout=60).run().title[0].value == "Defenses"


def test_it_shows_the_audit_and_where_the_model_would_stand(audit: Path) -> None:
    app = app_page("audit").run()
    assert not app.exception and not app.markdown
    said = texts(app)
    for text in ("Leaks", "It leaks.", "Mine: audited by its answers, with Leakboard 0.1", "400 non-members (0.700)",
                 "Gate: auc > 0.9: passes. it is 0.61 at most", "Warning: Digits: Few. Rough.",
                 "Comparable only if the model was trained on toy", "of the 4 that decide there, 1 ran"):  # fmt: skip
        assert text in said
    assert "Fine" not in said
    worst = app.dataframe[0].value
    assert list(worst.metric) == ["AUC", "TPR at 1 % FPR", "Balanced accuracy"]
    assert worst.worst[0] == 0.58 and worst.interval[0] == "0.5500 – 0.6100" and worst.chance[0] == 0.53
    (plot,) = app.get("html")
    assert "worst-case TPR at 1 % FPR of 0.030" in plot.proto.body and plot.proto.body.count('lb-mine"') == 1
    app.button_group(key="beside").set_value("auc").run()
    assert not app.exception and "worst-case AUC of 0.58 " in app.get("html")[0].proto.body
    (frame,) = app.get("iframe")
    assert frame.proto.srcdoc.startswith("<!doctype html>") and "default-src 'none'" in frame.proto.srcdoc


def test_other_data_have_no_plot(audit: Path) -> None:
    (audit / "audit.json").write_text(make_audit().as_json(), "utf-8")
    app = app_page("audit").run()
    assert not app.exception and not app.get("html")
    assert "Not comparable: the model was trained on other data. It tells 10 classes apart; toy has 3." in texts(app)


def test_a_file_that_is_damaged_meanwhile_is_a_line(audit: Path) -> None:
    (audit / "audit.json").write_text("{", "utf-8")
    app = app_page("audit").run()
    assert not app.exception and "expected an audit of form 1, given not JSON" in texts(app)


def test_without_results_the_audit_is_there_all_the_same(folder: Path, audit: Path) -> None:
    app = app_page("audit", protocol="smoke").run()
    assert not app.exception and "It leaks." in texts(app)
    assert app.code[0].value == "leakboard run --protocol smoke"


def test_the_board_of_its_recipe_is_chosen_first(folder: Path, audit: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "another-v1")
    recipe = {
        "file": "toy-v1.yaml", "protocol": "toy-v1", "references": 4, "size": 30, "seconds": 1.0, "trained": False, "seen": 1.0,
        "unseen": 0.5,
    }  # fmt: skip
    assert AppTest.from_file(APP, default_timeout=60).run().selectbox(key="protocol").value == "another-v1"
    (audit / "audit.json").write_text(make_audit(recipe=recipe).as_json(), "utf-8")
    assert AppTest.from_file(APP, default_timeout=60).run().selectbox(key="protocol").value == "toy-v1"
