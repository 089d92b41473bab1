"""The judge of inversion: what it accepts, what it measures, what it shows, and what attacks may have stored."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import protocol
from benchmark.entries.registry import Registry
from benchmark.judge import kinds
from benchmark.judge.kinds.inversion import IMAGES, checked_images
from benchmark.judge.scenario import Measurements
from benchmark.metrics import METRICS
from benchmark.sandbox.remote import Isolation
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store

ROOT = Path(__file__).parents[2]
HEAD = '''
import torch
from benchmark.api import Card, InversionAttack
class Mine(InversionAttack):
    """See above."""
    card = Card(title="Mine", authors=(), reference="none", year=None)
    access = "white-box"
    needs = frozenset({"shadow"})
'''
BODIES = {
    "members": """
    def reconstruct(self, target, classes):
        return torch.tensor(STORED).view(len(classes), 1, 8, 8)
""",
    "makes": """
    def fit(self, knowledge):
        x = knowledge.auxiliary.x
        self.made = knowledge.artifact("noise", lambda g: {"x": torch.rand(4, 1, 8, 8, generator=g) + x.mean()})["x"]
    def reconstruct(self, target, classes):
        target.white_box()
        return self.made[:1].expand(len(classes), -1, -1, -1).clamp(0, 1)
""",
    "asks_first": """
    def fit(self, knowledge):
        self.keep = knowledge.artifact
    def reconstruct(self, target, classes):
        target.white_box()
        self.keep("late", lambda g: {"x": torch.zeros(1)})
""",
    "asks_meanwhile": """
    def fit(self, knowledge):
        self.keep = knowledge.artifact
    def reconstruct(self, target, classes):
        self.keep("late", lambda g: dict(target.white_box().state_dict()))
""",
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("inversion")
    (folder / "attacks").mkdir()
    (folder / "defenses").mkdir()
    for kind in (
        "attacks/inversion_null",
        "attacks/secret_revealer",
        "defenses/undefended",
        "defenses/label_smoothing",
    ):
        (folder / f"{kind}.py").write_text((ROOT / "submissions" / f"{kind}.py").read_text())
    loaded = protocol.load("smoke").model_copy(update={"defenses": ("undefended",), "attacks": ("inversion_null",)})
    made = Artifacts(loaded, Registry(folder), Store(folder / "store"), torch.device("cpu"), Isolation("never"))
    train, test = (made.population(0).part(part) for part in ("target-train", "target-test"))
    for name, body in BODIES.items():
        stored = ""
        if name == "members":  # as somebody would who has seen them
            rows = [int((train.y == c).nonzero()[0]) for c in range(10)]
            stored = f"STORED = {train.x[rows].flatten().tolist()}\n"
        (folder / "attacks" / f"{name}.py").write_text(f'"""An attack of the tests."""\n{stored}{HEAD}{body}')
    assert len(train) == len(test)
    made.registry = Registry(folder)
    return made


def scored(artifacts: Artifacts, attack: str, defense: str = "undefended") -> Measurements:
    chain = artifacts.chain(defense)
    return kinds.scenario(artifacts, artifacts.registry.attack(attack), chain, 0).score()


def test_every_metric_is_known_and_within_its_range(artifacts: Artifacts) -> None:
    found = scored(artifacts, "inversion_null").metrics
    for name, value in found.items():
        assert METRICS[name].low <= value <= METRICS[name].high, name
    assert {"second_evaluator_accuracy", "both_evaluators", "frechet_distance", "frechet_distance_null"} <= set(found)
    assert "evaluator_top5" not in found, "there are ten classes"


def test_what_shows_members_is_told_by_its_distance(artifacts: Artifacts) -> None:
    """Stored images of its own are allowed, and judged like all others: that they are members shows."""
    stolen, means = scored(artifacts, "members"), scored(artifacts, "inversion_null")
    assert stolen.metrics["nearest_member_distance"] == 0 < means.metrics["nearest_member_distance"]
    assert stolen.metrics["nearest_is_member"] == 1
    assert stolen.null is True, "it asked the target nothing"
    assert stolen.pictures is not None
    np.testing.assert_array_equal(
        stolen.pictures["nearest_members"].array(), stolen.pictures["reconstructions"].array()
    )


def test_members_are_shown_of_public_data_on_public_splits_alone(artifacts: Artifacts) -> None:
    secret = replace(artifacts, secret=b"secret")
    pictures = scored(secret, "inversion_null").pictures
    assert pictures is not None and set(pictures) == {"reconstructions", "class_means"}
    kind: Any = kinds.scenario(artifacts, artifacts.registry.attack("inversion_null"), artifacts.chain("undefended"), 0)
    assert kind._public
    kind.artifacts = replace(artifacts, protocol=artifacts.protocol.model_copy(update={"dataset": "faces/32"}))
    assert not kind._public


def test_the_evaluators_share_no_sample_and_no_architecture(artifacts: Artifacts) -> None:
    population, loaded = artifacts.population(0), artifacts.protocol
    train = {role: set(population.indices(role, 0)) for role in ("target", "shadow", "evaluator", "second-evaluator")}
    pairs = [(a, b) for a in train for b in train if a < b]
    assert all(not train[a] & train[b] for a, b in pairs)
    assert len({loaded.architecture, loaded.evaluator, loaded.second_evaluator}) == 3
    built = [artifacts.setup(0, role).architecture for role in ("target", "evaluator", "second-evaluator")]
    assert built == [loaded.architecture, loaded.evaluator, loaded.second_evaluator]


def test_what_is_made_of_auxiliary_data_is_made_once_for_all_defenses(artifacts: Artifacts) -> None:
    first = scored(artifacts, "makes")
    before = [kind for kind, _ in artifacts.store.made].count("artifact")
    second = scored(artifacts, "makes", "label_smoothing")
    assert [kind for kind, _ in artifacts.store.made].count("artifact") == before == 1
    assert first.pictures and second.pictures and first.null is None
    assert first.pictures["reconstructions"] == second.pictures["reconstructions"]


def test_a_stored_artifact_is_charged_with_the_time_it_took(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(artifacts, "makes")
    monkeypatch.setattr(artifacts.store, "info", lambda kind, key: {"seconds": 1000.0})
    assert scored(artifacts, "makes").cost["seconds"] >= 1000


@pytest.mark.parametrize("attack", ["asks_first", "asks_meanwhile"])
def test_nothing_of_a_target_is_stored(artifacts: Artifacts, attack: str) -> None:
    with pytest.raises(PermissionError, match="artifact: expected to be called in fit, before the target is asked"):
        scored(artifacts, attack)
    with pytest.raises(PermissionError):  # the first try left nothing behind that the second one could read
        scored(artifacts, attack)


def test_the_generator_serves_every_defense_and_its_random_images_are_a_null_row(artifacts: Artifacts) -> None:
    spec = "secret_revealer[epochs=2,width=2,steps=3,starts=2,images=2{}]"
    sought, random = (
        scored(artifacts, spec.format("")),
        scored(artifacts, spec.format(",latents=random"), "label_smoothing"),
    )
    assert sought.null is None and random.null is True
    assert sum(key.startswith("artifact") for key in artifacts.store.reused) >= 1


@pytest.mark.parametrize("shape", [(10, 1, 8, 8), (10, 1, 1, 8, 8), (10, IMAGES, 1, 8, 8)])
def test_one_image_or_several_are_accepted(shape: tuple[int, ...]) -> None:
    found = checked_images(torch.rand(shape), 10, (1, 8, 8))
    assert found.shape == (10, shape[1] if len(shape) == 5 else 1, 1, 8, 8)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (torch.rand(10, 1, 8, 9), r"expected images of shape (10, 1, 8, 8), given (10, 1, 8, 9)"),
        (torch.rand(9, 2, 1, 8, 8), r"expected images of shape (10, 2, 1, 8, 8), given (9, 2, 1, 8, 8)"),
        (torch.rand(10, 21, 1, 8, 8), "expected 1 to 20 images of each class, given 21"),
        (torch.rand(10, 0, 1, 8, 8), "expected 1 to 20 images of each class, given 0"),
        (torch.full((10, 1, 8, 8), torch.nan), "expected finite images, given NaN or infinite values"),
        (torch.full((10, 1, 8, 8), 1.5), "expected images in [0, 1], given 1.5 to 1.5"),
        ("picture", "expected images of shape (10, 1, 8, 8), given str"),
    ],
)
def test_other_answers_are_refused_in_one_line(answer: Any, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        checked_images(answer, 10, (1, 8, 8))
