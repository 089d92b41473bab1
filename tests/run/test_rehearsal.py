"""A rehearsal goes through a protocol on stand-ins: what works passes, what a full run would meet is named, and nothing is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import protocol
from benchmark.entries.registry import Registry
from benchmark.protocol import Protocol
from benchmark.run import estimate, rehearsal
from benchmark.run.rehearsal import Task, go_through, lacking, pairs, shrunk, too_large, training_samples
from benchmark.run.work import Setting

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
FAMILY: dict[str, Any] = {
    "name": "tiny", "about": "-", "leaves_out": "-", "seeds": [0], "evaluator": "simple_cnn", "architecture": "small_cnn",
    "recipe": {"learning_rate": 0.1, "steps": 500, "batch_size": 20, "schedule": "step", "milestones": [100], "gamma": 0.2},
    "references": {"online": 16, "offline": 2}, "baseline": "undefended", "utility_floor": 0.1, "rank_by": ["auc"],
    "datasets": {
        "svhn": {
            "dataset": {"id": "svhn", "view": "32", "digest": "unpinned"}, "split": {"scheme": "official", "size": 5000, "scored": 1000},
            "attacks": ["loss", "nn_three_branch", "lira", "lira[guards=target]"], "defenses": ["undefended", "memguard"],
        },
        "yale": {
            "dataset": {"id": "yale_faces", "view": "32", "digest": "unpinned"}, "split": {"scheme": "official"},
            "attacks": ["loss"], "defenses": ["undefended"],
        },
    },
}  # fmt: skip


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Protocol]:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(FAMILY))
    return protocol.members(str(tmp_path / "tiny.yaml"))


def task(given: Protocol, folder: Path, *more: tuple[str, str]) -> Task:
    setting = Setting(given, SUBMISSIONS, folder, "cpu")
    return Task(given, setting, (*pairs(given, Registry(SUBMISSIONS), True, True), *more))


def test_a_protocol_goes_from_data_to_scores_and_leaves_nothing(family: dict[str, Protocol], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    made = go_through(task(family["tiny.svhn"], folder))
    assert made.failures == []
    assert made.networks == 1 + 2, "the target, and the least number of references"
    assert made.jobs > 6
    assert list(folder.iterdir()) == []


def test_what_fails_is_named(family: dict[str, Protocol], tmp_path: Path) -> None:
    given = family["tiny.yale"].model_copy(update={"architecture": "alexnet_as_released"})
    made = go_through(task(given, tmp_path))
    assert any("expected images of at least 63x63 pixels, given 32x32" in line for line in made.failures)
    shadow = given.model_copy(update={"architecture": "small_cnn", "attacks": ("nn_sorted",)})
    assert go_through(task(shadow, tmp_path)).failures == [
        "UserError: tiny.yale: nn_sorted[epochs=1]: split official has no shadow world, which membership needs for shadow; "
        "thresholds: partial gives known samples in its place"
    ]
    known = shadow.model_copy(update={"thresholds": "partial", "attacks": ("nn_sorted", "metric_ent")})
    assert go_through(task(known, tmp_path)).failures == []
    online = given.model_copy(update={"architecture": "small_cnn", "attacks": ("lira",)})
    assert "parts of different sizes" in go_through(task(online, tmp_path)).failures[0]


def test_entries_repeat_nothing_and_stay_what_they_are(family: dict[str, Protocol]) -> None:
    registry = Registry(SUBMISSIONS)
    given = family["tiny.svhn"].model_copy(
        update={
            "attacks": ("loss", "nn_three_branch", "label_only_boundary"),
            "defenses": ("undefended", "pgd_training[epsilon=0.2]", "pgd_training[epsilon=0.3]", "diffence[n=5,scenario=1]", "diffence[n=5]"),
        }
    )  # fmt: skip
    whole = pairs(given, registry, True, True)
    assert ("", "undefended") in whole and ("nn_three_branch[epochs=1]", "undefended") in whole
    assert ("label_only_boundary[queries=200]", "undefended") in whole
    assert ("loss", "pgd_training[epsilon=0.2,steps=1]") in whole
    assert not any("epsilon=0.3" in defense for _, defense in whole)
    assert ("loss", "diffence[n=1,train_steps=1,scenario=1]") in whole and (
        "loss",
        "diffence[n=1,train_steps=1]",
    ) in whole
    assert ("nn_three_branch[epochs=1]", "diffence[n=1,train_steps=1,scenario=1]") in whole, "the longest cascade"
    other = pairs(given, registry, False, False)
    assert other == (("loss", "undefended"), ("nn_three_branch[epochs=1]", "undefended"))
    small, size = shrunk(given, rehearsal.facts("svhn/32"), registry)
    assert size == 8 and small.recipe.epochs == 1 and small.recipe.batch_size >= size and small.references.online == 2


def test_what_this_machine_lacks(family: dict[str, Protocol], monkeypatch: pytest.MonkeyPatch) -> None:
    svhn, registry = family["tiny.svhn"], Registry(SUBMISSIONS)
    assert lacking(svhn, registry) == ["data: svhn/32 is not prepared"]
    monkeypatch.setattr(rehearsal.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    assert "package: timm is not installed" in lacking(svhn.model_copy(update={"architecture": "resnet18"}), registry)
    assert too_large(svhn, 1, "cpu") == []
    monkeypatch.setattr(rehearsal, "_memory", lambda: 50 << 20)
    (line,) = too_large(svhn, 2, "cpu")
    assert line.startswith("training images in float32: about 0.1 GiB in each of 2 workers, this machine has 0.0 GiB")


def test_hours_by_hand(family: dict[str, Protocol]) -> None:
    """5,000 samples in batches of 20 are 250 updates an epoch: 500 updates are two epochs."""
    given, registry = family["tiny.svhn"], Registry(SUBMISSIONS)
    assert training_samples(given) == 5000 and training_samples(family["tiny.yale"]) == 1900
    found = estimate.estimate(given, registry)
    assert (found.networks, found.scenarios, found.samples) == (17, 10, 5000)
    assert found.training == 17 * 5000 * 2 * 3 * 2 * found.multiply_adds
    assert found.attacks == 4 * 2000 * 2 * 2 * found.multiply_adds, "four attacks that ask once, on two defenses"
    assert found.hours() == (found.training / estimate.SMALL / 3600, found.attacks / estimate.SMALL / 3600)
    thrice = estimate.estimate(given.model_copy(update={"seeds": (0, 1, 2)}), registry)
    assert thrice.training == 3 * found.training
    harder = given.model_copy(update={"defenses": ("undefended", "pgd_training[steps=10]")})
    assert estimate.estimate(harder, registry).training == (1 + 11) * found.training
    assert replace(found, multiply_adds=estimate.FILLS).throughput == estimate.LARGE
    for attack, passes in (
        ("steal_mse[epochs=10]", 5000 * (1 + 10 * 3)), ("steal_posteriors[queries=500,epochs=10]", 500 * (1 + 10 * 3)),
        ("steal_posteriors[queries=500,epochs=10,choose=diverse,rounds=4]", 500 * 1 + 1250 * 10 * 3),
    ):  # fmt: skip
        only = estimate.estimate(given.model_copy(update={"attacks": (attack,)}), registry)
        assert only.attacks == 2 * passes * 2 * found.multiply_adds, "two defenses; 125, 250, 375 and 500 images"
