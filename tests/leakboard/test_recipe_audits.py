"""`leakboard audit recipe`: what it says before, what it writes, and that it goes on; mistakes in one line; and the same from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import leakboard
from benchmark import protocol
from benchmark.judge.kinds import scenario
from benchmark.run.audit import attacks, chance, recipe
from benchmark.run.audit.report import Audit
from leaderboard.audit_page import as_html
from leakboard.audits import JSON
from tests.conftest import SUBMISSIONS, Home, artifacts_in
from tests.run.audit import pictures, recipes


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few attacks and draws; recipes run in this process."""
    (tmp_path / "pool.yaml").write_text(
        "answers: [loss, metric_corr, calibrated_loss, rmia_offline, lira]\nmodel: [{attack: grad_norm, asks: 6}]\n"
    )
    monkeypatch.setattr(attacks, "POOL", tmp_path / "pool.yaml")
    monkeypatch.setattr(recipe, "in_a_process", recipes.here)
    monkeypatch.setattr(chance, "DRAWS", (199, 99))


@pytest.fixture
def options(home: Home) -> list[str]:
    """Options that name a recipe, the weights of a model, and the digits."""
    recipes.write(home.folder)
    return ["--train", "train.py", *pictures.files(home.folder)]


def without_weights(options: list[str]) -> list[str]:
    return [*options[:2], *options[6:]]


def report_of(home: Home) -> Audit:
    return Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))


def test_it_trains_once_tells_what_changed_and_goes_on(home: Home, options: list[str]) -> None:
    done = home.call("audit", "recipe", *options, "--references", "4", "--released", "weights", "--queries", "2000")
    assert done.code == 0, done.err
    said = done.out + done.err
    assert (
        "train.py: audits small_cnn; trains 4 reference models in pairs, one on a random half of the 120 records"
        in said
    )
    assert "how long it takes is told after the first pair" in said and "a model takes about" in said
    assert "reference models: 4/4, 0:00 left" in said and "runs 6 attacks on 60 members" in said
    report = report_of(home)
    assert (report.way, report.model.references, report.model.network) == ("recipe", 4, "small_cnn")
    assert {a.name for a in report.attacks} >= {"grad_norm", "lira", "rmia_offline"}
    assert [f.name for f in report.files] == ["train.py", "model.safetensors", "members.npz", "non-members.npz"]
    assert report.recipe is not None and report.recipe.without is not None
    assert (report.recipe.references, report.recipe.size, report.recipe.trained) == (4, 60, False)
    assert report.recipe.without.worst["auc"].attack in ("loss", "metric_corr", "grad_norm")
    states = {c.name: c.state for c in report.checks}
    assert states["Training size of the reference models"] == "ok"
    assert states["Reference models like the audited one"] == "ok"
    html = as_html(report)
    for text in ("4, in pairs: each on a random half of all records (60)", "given by its weights", "By 4 reference models", "With them", "Recipe"):  # fmt: skip
        assert text in html, text
    assert "No attack here is calibrated" not in html
    again = home.call(*report.command.split()[1:], "--json")
    assert again.code == 0, again.err
    kept, first = (json.loads(text) for text in (again.out, report.as_json()))
    assert {k: v for k, v in kept.items() if k not in ("when", "files_written", "run")} == {k: v for k, v in first.items() if k != "when"}  # fmt: skip
    assert len(recipes.trained(home.folder)) == 4
    more = home.call("audit", "recipe", *options, "--references", "6", "--released", "weights", "--queries", "2000")
    assert more.code == 0 and "4 are there from earlier calls" in more.out + more.err
    assert len(recipes.trained(home.folder)) == 6 and report_of(home).model.references == 6


def test_without_weights_the_model_is_trained_too(home: Home, options: list[str]) -> None:
    done = home.call("audit", "recipe", *without_weights(options), "--hours", "0.0000001", "--title", "Ours")
    assert done.code == 0, done.err
    assert "trains the audited model on 60 members; trains pairs of reference models while the hours last" in done.out
    report = report_of(home)
    assert recipes.trained(home.folder) == [60, 60, 60] and report.model.references == 2
    assert report.recipe is not None and report.recipe.trained and report.model.network == ""
    assert report.model.form == "logits" and report.model.members.accuracy == 1
    html = as_html(report)
    assert (
        "trained for this audit by the recipe" in html
        and "For calibration there are the answers of 2 reference models" in html
    )
    x, y, members = pictures.digits()
    audited = leakboard.audit_recipe("train.py", x, y, members, 10, references=2, title="Ours")
    assert len(recipes.trained(home.folder)) == 3, "the same store"
    assert audited.report.worst == report.worst and audited.report.recipe == report.recipe


def test_other_sizes_and_another_recipe_are_warnings(home: Home, options: list[str]) -> None:
    recipes.write(home.folder, "from torch import nn; return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))")
    x, y, members = pictures.digits()
    kept = members.copy()
    kept[:25] = False
    rows = ~members | kept
    audited = leakboard.audit_recipe(
        "train.py", x[rows], y[rows], members[rows], 10, network=pictures.trained(), references=2, queries=2000
    )
    checks = {c.name: c for c in audited.report.checks}
    size, unlike = (
        checks[f"{name}"] for name in ("Training size of the reference models", "Reference models like the audited one")
    )
    assert size.state == unlike.state == "warning"
    assert (
        "Each was trained on 47 records; 35 members" in size.found
        and "give as many non-members as members" in size.effect
    )
    assert "may not be the one that the model was trained by" in unlike.effect


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--references", "3"], "--references: expected an even number from 2, for they are trained in pairs, given 3"),
        (["--references", "4", "--hours", "1"], "--hours: expected --references or --hours, given both; leave one out"),
        (["--hours", "0"], "--hours: expected a number above 0, given 0"),
        (["--references", "1000000"], "--references: expected at most "),
        (["--train", "other.py"], "other.py: expected a recipe, a Python file that can be read, given none"),
        (["--channels", "2"], "--channels: expected 1 or 3, given 2"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_any_training(home: Home, options: list[str], more: list[str], said: str) -> None:
    done = home.call("audit", "recipe", *options, *more)
    assert done.code == 2 and done.err.count("\n") == 1 and f"error: {said}" in done.err
    assert not recipes.trained(home.folder)


def test_a_network_without_weights_and_a_failing_recipe_are_one_line(home: Home, options: list[str]) -> None:
    done = home.call("audit", "recipe", *without_weights(options), "--network", "small_cnn")
    assert done.code == 2 and "expected them with --weights, given without; leave them out" in done.err
    recipes.write(home.folder, "raise ValueError('no')")
    done = home.call("audit", "recipe", *options)
    assert done.code == 2 and "error: train failed: ValueError: no (train.py, line 16, in train)" in done.err


# --- By a protocol's recipe -------------------------------------------------------------------------


@pytest.fixture
def judged(home: Home) -> tuple[list[str], tuple[float, float]]:
    """Options that name a protocol, and the weights and records of its target 0 as files; and the interval of LiRA's AUC by the judge."""
    shutil.copy(SUBMISSIONS / "attacks" / "lira.py", home.submissions / "attacks")
    longer = protocol.load("smoke").recipe.model_dump(mode="json", exclude_none=True) | {"epochs": 30}
    path = home.protocol(recipe=longer)
    artifacts = artifacts_in(home.folder / "judge", protocol.load(path), home.submissions)
    case = scenario(artifacts, artifacts.registry.attack("lira"), artifacts.chain("undefended"), 0)
    low, high = case.score().intervals["auc"]
    save_file(
        artifacts.network(artifacts.chain("undefended").training, 0).weights(), home.folder / "target.safetensors"
    )
    for name, part in (("in", "target-train"), ("out", "target-test")):
        rows = case.population.parts[part]
        np.savez(home.folder / f"{name}.npz", x=case.population.data.x[rows], y=case.population.data.y[rows])
    sides = ["--members", "in.npz", "--non-members", "out.npz", "--classes", "10", "--queries", "1000"]
    return ["--protocol", path, "--weights", "target.safetensors", *sides], (low, high)


def test_by_a_protocols_recipe_lira_finds_what_the_judge_found(
    home: Home, judged: tuple[list[str], tuple[float, float]]
) -> None:
    options, (low, high) = judged
    done = home.call("audit", "recipe", *options, "--references", "4")
    assert done.code == 0, done.err
    said = done.out + done.err
    assert "smoke, undefended: audits small_cnn; trains 4 reference models in pairs" in said
    assert "recipe: network small_cnn, optimizer sgd, learning rate 0.05" in said
    report = report_of(home)
    (lira,) = (a for a in report.attacks if a.name == "lira")
    assert 0.5 < low <= lira.metrics["auc"].value <= high
    made = report.recipe
    assert made is not None and (made.file, made.protocol, made.defense) == ("own.yaml", "smoke", "undefended")
    assert made.settings["epochs"] == "30" and made.settings["batch size"] == "20" and not made.trained
    assert [f.name for f in report.files][:3] == ["own.yaml", "undefended.py", "target.safetensors"]
    html = as_html(report)
    assert "that of the protocol smoke: network small_cnn, optimizer sgd, learning rate 0.05" in html
    assert "what the recipe does. It is code" not in html
    again = home.call(*report.command.split()[1:], "--json")
    assert again.code == 0 and json.loads(again.out)["worst"] == json.loads(report.as_json())["worst"]
    assert f"--protocol {options[1]}" in report.command


def test_without_weights_a_protocols_recipe_trains_the_model_and_python_takes_the_same(home: Home) -> None:
    pictures.files(home.folder)
    sides = ["--members", "members.npz", "--non-members", "non-members.npz", "--classes", "10"]
    defense = "undefended[epochs=4]"
    done = home.call(
        "audit", "recipe", "--protocol", "smoke", "--defense", defense, *sides, "--references", "2", "--json"
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["title"] == f"smoke, {defense}" and report["recipe"]["trained"] and report["model"]["network"] == ""
    assert report["recipe"]["settings"]["epochs"] == "4" and f"--defense '{defense}'" in report["command"]
    stored = sorted((home.store / "audit").rglob("*.safetensors"))
    audited = leakboard.audit_recipe(None, *pictures.digits(), 10, protocol="smoke", defense=defense, references=2)
    assert audited.report.worst["auc"].value == report["worst"]["auc"]["value"]
    assert sorted((home.store / "audit").rglob("*.safetensors")) == stored, "nothing is trained twice"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--train: expected --train FILE.py or --protocol NAME, given none of them"),
        (["--train", "train.py", "--protocol", "smoke"], "--train: expected --train FILE.py or --protocol NAME, given both of them"),
        (["--train", "train.py", "--defense", "undefended"], "--defense, --device, --trust: expected them with --protocol, given --train"),
        (["--protocol", "smoke", "--defense", "nope"], "unknown defense 'nope'"),
        (["--protocol", "nope"], "unknown protocol 'nope'"),
        (["--protocol", "smoke", "--network", "timm:resnet18", "--weights", "model.safetensors"], "--network: expected with --protocol a name"),
        (["--protocol", "smoke", "--network", "alexnet_as_released", "--weights", "model.safetensors"], "--view is the height and width"),
    ],
)  # fmt: skip
def test_mistakes_with_a_protocol_are_one_line(home: Home, options: list[str], more: list[str], said: str) -> None:
    done = home.call("audit", "recipe", *options[6:], *more)
    assert done.code == 2 and done.err.count("\n") == 1 and said in done.err, done.err
    assert not recipes.trained(home.folder)
