"""A protocol's recipe on a user's records: the judge's own networks to the last digit, what its key covers, where defenses run, and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import protocol
from benchmark.errors import UserError
from benchmark.networks.access import ask
from benchmark.run.audit import by_protocol, images, recipe
from benchmark.run.audit.recipe import Budget, Trainings
from benchmark.sandbox.host import Launcher
from benchmark.targets.store import Store
from tests.conftest import SUBMISSIONS, Home, artifacts_in
from tests.run.audit import pictures, recipes

MINE = '''"""A defense that writes what it may not."""

import os
import pathlib

from benchmark.api import Card, Defense


class Mine(Defense):
    """Trains as always."""

    card = Card(title="Mine", authors=("nobody",), reference="none", year=None)
    stages = ("training",)

    def train(self, training):
        BODY
        return training.fit(self.network(training), loss=self.loss)
'''


def mine(home: Home, body: str) -> None:
    (home.submissions / "defenses" / "mine.py").write_text(MINE.replace("BODY", body), "utf-8")


def own(home: Home, **changes: object) -> str:
    """A protocol's file: smoke, with these changes of its recipe."""
    return home.protocol(recipe=protocol.load("smoke").recipe.model_dump(mode="json", exclude_none=True) | changes)


@pytest.mark.parametrize("augmentation", ["none", "simple"])
def test_a_training_is_the_judges_to_the_last_digit(home: Home, augmentation: str) -> None:
    path = own(home, ensemble=1, augmentation=augmentation)
    artifacts = artifacts_in(home.folder / "judge", protocol.load(path))
    part = artifacts.chain("undefended").training
    network = artifacts.network(part, 0)
    population, judges = network.population, network.training_of(part)
    everything = population.samples(np.arange(len(population.data)))
    rows = torch.from_numpy(population.indices("target", 0))
    made = by_protocol.read(path)
    found = made.answers({"x": everything.x, "y": everything.y}, rows, 10, judges.seed, 0)
    expected = ask(network.predictor(), everything.x, np.random.default_rng(0))  # last digits depend on the batches
    assert torch.equal(found, expected)
    other = made.answers({"x": everything.x, "y": everything.y}, rows, 10, judges.seed + 1, 0)
    assert not torch.allclose(other, expected, atol=1e-3)


def test_a_key_covers_the_recipe_the_defense_and_the_network_and_no_more(home: Home) -> None:
    mine(home, "pass")
    path = own(home)
    key = by_protocol.read(path, "mine").key
    assert (
        by_protocol.read(path, "mine").key == key == by_protocol.read(home.protocol(limits={"seconds": 9}), "mine").key
    )
    keys = {key, by_protocol.read(path).key, by_protocol.read(path, "mine", "simple_cnn").key}
    keys |= {by_protocol.read(path, "mine[epochs=4]").key, by_protocol.read(path, "mine", isolation="never").key}
    keys.add(by_protocol.read(own(home, learning_rate=0.06), "mine").key)
    mine(home, "training.seed += 1")
    keys.add(by_protocol.read(own(home), "mine").key)
    assert len(keys) == 7
    mine(home, "training.seed += 1  # a comment")
    assert by_protocol.read(own(home), "mine").key in keys


def test_steps_become_epochs_of_the_half(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = protocol.load("smoke").recipe.model_dump(mode="json", exclude={"epochs", "steps"}) | {"steps": 7}
    made = by_protocol.read(home.protocol(recipe=changed))
    asked = []
    training = by_protocol.training
    monkeypatch.setattr(by_protocol, "training", lambda *given: asked.append(given[1].epochs) or training(*given))
    x, y, _ = pictures.digits()
    data = images.of_arrays(x, y, np.arange(120) < 60)
    made.answers({"x": data.x, "y": torch.from_numpy(data.y)}, torch.arange(60), 10, 0, 0)
    assert asked == [3, 3], "7 updates of 20 images out of 60: 3 epochs"


def test_reference_models_train_in_processes_once(home: Home) -> None:
    made, data = by_protocol.read("smoke"), images.of_arrays(*pictures.digits())
    trained = Trainings(made, data, 10, 0, Store(home.store), workers=2).references(Budget(2, None))
    again = Trainings(by_protocol.read("smoke"), data, 10, 0, Store(home.store))
    assert again.stored(0) and again.stored(1) and not again.stored(2)
    assert (again.references(Budget(2, None)).answers == trained.answers).all()
    assert not Trainings(by_protocol.read("smoke"), data, 10, 1, Store(home.store)).stored(0)
    with again._data_file() as data_file:
        seed = recipe.seed_of("recipe", 0, "reference 0") % 2**31
        assert (recipes.here(again, data_file, again.rows(0), seed).numpy() == trained.answers[0]).all()


def test_a_defense_that_nobody_reviewed_trains_in_a_sandbox(home: Home, launcher: Launcher) -> None:
    x, y, members = pictures.digits()
    data = images.of_arrays(x, y, members)
    tensors, rows = {"x": data.x, "y": torch.from_numpy(data.y)}, torch.arange(60)
    (home.folder / "private").write_text("secret", "utf-8")
    mine(home, f"pathlib.Path({str(home.folder / 'written')!r}).write_text(pathlib.Path({str(home.folder / 'private')!r}).read_text())")  # fmt: skip
    made = by_protocol.read("smoke", "mine")
    with pytest.raises(UserError, match=r"^mine: expected a training that ends, given failed: FileNotFoundError.*mine\.py") as raised:  # fmt: skip
        made.answers(tensors, rows, 10, 0, 0)
    assert "\n" not in str(raised.value) and not (home.folder / "written").exists()
    by_protocol.read("smoke", "mine", isolation="never").answers(tensors, rows, 10, 0, 0)
    assert (home.folder / "written").read_text("utf-8") == "secret", "trusted, it runs as the user's own code"
    mine(home, "pass")
    apart = by_protocol.read("smoke", "mine").answers(tensors, rows, 10, 0, 0)
    assert torch.equal(apart, by_protocol.read("smoke").answers(tensors, rows, 10, 0, 0))


@pytest.mark.parametrize(
    ("name", "defense", "network", "said"),
    [
        ("nope", "", "", "unknown protocol 'nope'"),
        ("ml-doctor-2022", "", "", "expected one protocol, given a family of"),
        ("smoke", "nope", "", "unknown defense 'nope'"),
        ("smoke", "loss", "", "'loss': expected a defense, given an attack"),
        ("smoke", "memguard", "", "--defense: expected a training defense, given memguard, whose guard"),
        ("smoke", "hamp", "", "--defense: expected a training defense, given hamp, whose guard"),
        ("smoke", "advreg", "", "--defense: expected one that trains on members alone, given advreg, which reads reference data"),
        ("smoke", "undefended[early_stopping=true]", "", "which reads validation data"),
        ("smoke", "", "timm:resnet18", "--network: expected with --protocol a name that leakboard list networks has"),
    ],
)  # fmt: skip
def test_what_cannot_train_is_one_line(home: Home, name: str, defense: str, network: str, said: str) -> None:
    for id in ("memguard", "hamp", "advreg"):
        shutil.copy(SUBMISSIONS / "defenses" / f"{id}.py", home.submissions / "defenses")
    with pytest.raises(UserError) as raised:
        by_protocol.read(name, defense, network)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_what_fails_in_training_is_one_line(home: Home) -> None:
    mine(home, "raise ValueError('no\\nway')")
    made = by_protocol.read("smoke", "mine", isolation="never")
    x = torch.rand(60, 1, 8, 8)
    with pytest.raises(UserError, match=r"^mine: ValueError: no way \(mine\.py, line \d+, in train\)$"):
        made.answers({"x": x, "y": torch.arange(60) % 10}, torch.arange(30), 10, 0, 0)
    mine(
        home,
        "network = self.network(training)\n        network.head.bias.data.fill_(float('nan'))\n        return network",
    )
    with pytest.raises(
        UserError, match=r"^mine: expected a network of finite logits, given NaN or infinite ones for 60 of 60"
    ):
        by_protocol.read("smoke", "mine", isolation="never").answers(
            {"x": x, "y": torch.arange(60) % 10}, torch.arange(30), 10, 0, 0
        )
    with pytest.raises(UserError, match="--view is the height and width"):
        by_protocol.read("smoke").check(10, (1, 2, 2))


def test_a_family_member_and_a_files_names_stand_in_the_report() -> None:
    member = next(iter(protocol.members("ml-doctor-2022")))
    made = by_protocol.read(member)
    assert made.told["protocol"] == member and made.told["file"] == "ml-doctor-2022.yaml"
    assert made.told["settings"]["network"] == made.architecture
    assert [s.name for s in made.sources] == ["ml-doctor-2022.yaml", f"{made.part.entry.id}.py"]
    assert all(len(s.sha256) == 64 and s.bytes for s in made.sources) and Path(made.sources[0].name).suffix == ".yaml"
