"""The page of a protocol: what its file says, what is scored of it, and what changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import protocol as definitions
from benchmark.metrics import METRICS
from benchmark.result import Result
from leaderboard.publish import publish
from leaderboard.ranking import Board
from leaderboard.views import protocol as view
from leaderboard.views.protocol import rules
from tests.leaderboard.conftest import app_page, hostile, texts

Toy = tuple[list[Result], Board]


@pytest.mark.parametrize("name", definitions.names())
def test_every_protocol_is_described_without_a_result(folder: Path, name: str) -> None:
    app = app_page("protocol", protocol=name).run()
    assert not app.exception
    found, said = definitions.load(name), texts(app)
    assert found.about.strip() in said
    assert found.leaves_out.strip() in said
    assert f"{found.recipe.epochs} epochs, batches of {found.recipe.batch_size}" in said
    if found.split.size:
        assert f"{found.split.size:,} samples" in said
    attacks, defenses, versions = (element.value for element in app.dataframe)
    assert tuple(attacks["attack"]) == found.attacks
    assert tuple(defenses["defense"]) == found.defenses
    assert list(versions["version"]) == [found.measures[:12]]
    assert app.code[-1].value == (definitions.FOLDER / f"{name}.yaml").read_text().strip()


def test_all_that_moves_a_number_is_told() -> None:
    """Each axis of a protocol is in the table, or is told elsewhere on the page; a new axis must be added here."""
    elsewhere = {"name", "about", "leaves_out", "dataset", "architecture", "attacks", "defenses"}
    told = {"data_digest", "split", "seeds", "evaluator", "second_evaluator", "recipe", "references", "targets", "costly", "canaries", "adversary", "label_only",
            "resamples", "nulls", "attribute", "thresholds", "baseline", "utility_floor", "rank_by", "limits"}  # fmt: skip
    assert set(definitions.Protocol.model_fields) == elsewhere | told
    canaries = definitions.load("fashion-canaries-v1")
    rows = {what: value for _, what, value in view._axes(canaries)}
    assert canaries.canaries is not None
    assert str(canaries.canaries.count) in rows["canaries"]
    targets = {(part, what): value for part, what, value in view._axes(definitions.load("digits-v2"))}
    assert targets["Targets", "a seed"] == "10 networks of the population"
    assert targets["Inversion", "second evaluation classifier"].startswith("mlp: ")
    assert targets["Targets", "of what is costly"].startswith("the first 2, for memguard, diffence, label_only_")
    other = {what for _, what, _ in view._axes(definitions.load("fashion-other-recipe-v2"))}
    assert {"shadow world's learning rate", "shadow world's batch size", "shadow world's epochs"} <= other


def test_scored_counts_and_versions(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    old = [
        r.model_copy(update={"protocol": "digits-v2", "provenance": {"commit": "abc", "device": "cpu: X"}})
        for r in results
    ]
    publish(old, board, folder / "digits-v2")
    app = app_page("protocol", protocol="digits-v2").run()
    assert not app.exception
    attacks, defenses, versions = (element.value for element in app.dataframe)
    undefended = defenses.set_index("defense").loc["undefended"]
    assert undefended.ok == sum(r.defense == "undefended" and r.status == "ok" for r in results)
    assert attacks.set_index("attack").loc["loss"].ok == sum(r.attack == "loss" and r.status == "ok" for r in results)
    now = definitions.load("digits-v2").measures[:12]
    assert list(versions["version"]) == [now, "d1"]
    assert list(versions["state"]) == ["the file as it is: nothing of it is scored", "an earlier version of the file"]
    assert (versions.commits[1], versions.devices[1], versions.results[1]) == ("abc", "cpu: X", len(results))


def test_a_protocol_without_a_file(folder: Path, made_up: Toy) -> None:
    """What was published says what was required; hostile rows change nothing of that."""
    results, board = made_up
    publish(hostile(results), board, folder / "toy-v1")
    app = app_page("protocol").run()
    assert not app.exception
    assert not app.markdown
    assert "unknown protocol 'toy-v1'" in texts(app)
    assert tuple(app.dataframe[0].value["attack"]) == board.required_attacks
    assert list(app.dataframe[-1].value["state"]) == ["no file"]


def test_nothing_at_all_says_what_to_run(folder: Path) -> None:
    app = app_page("protocol", protocol="no-such-v1").run()
    assert not app.exception
    assert app.code[0].value == "leakboard run --protocol digits-v2"


def test_metrics_are_explained(folder: Path) -> None:
    said = texts(app_page("protocol", protocol="digits-v2").run())
    for name in ("auc", "tpr_at_fpr_0.01", "mse_to_class_mean", "agreement", "test_accuracy"):
        assert f"{METRICS[name].label}: {METRICS[name].help}" in said


def test_rules_of_the_changelog(tmp_path: Path) -> None:
    path = tmp_path / "CHANGELOG.md"
    assert rules(path) == []
    path.write_text(
        "# Changelog\n\n## 2.0\n\n- Rules: wider\n  intervals.\n- Code: x.\n\n## 1.0\n\n- Board: y.\n- Rules: first.\n"
    )
    assert rules(path) == ["2.0: wider intervals.", "1.0: first."]
