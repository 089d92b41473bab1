"""Audits with reference models of a user's recipe: the judge's LiRA, what is trained and when, and what a recipe can get wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import protocol
from benchmark.errors import UserError
from benchmark.judge.kinds import scenario
from benchmark.metrics import Curve
from benchmark.networks.access import raw
from benchmark.run.audit import chance, images, live, predicted, recipe, trainer
from benchmark.run.audit.attacks import Bench, pool, unseen
from benchmark.run.audit.model import of_module
from benchmark.run.audit.recipe import Budget
from benchmark.run.audit.report import Recipe
from tests.conftest import ROOT, artifacts_in
from tests.run.audit import pictures, recipes
from tests.run.audit.worlds import registry, world

WHEN = "2026-01-01T00:00:00Z"


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "in_a_process", recipes.here)
    monkeypatch.setattr(sys, "path", [*sys.path])


JUDGES = """
from dataclasses import replace
import torch
from benchmark import protocol
from benchmark.api import Samples
from benchmark.networks.training import TrainingRun


def train(x, y, classes, seed):
    samples, none = Samples(x, y), Samples(x[:0], y[:0])
    recipe = protocol.load("smoke").recipe.model_copy(update={"epochs": 30})
    training = TrainingRun(
        train=samples, reference=none, validation=none, classes=classes, recipe=recipe, architecture="small_cnn", simple={},
        seed=seed, device=torch.device("cpu"),
    )
    return training.fit(training.build())
"""


def test_lira_finds_what_it_finds_for_the_judge(inline: None, tmp_path: Path) -> None:
    """A target of the judge's, whose weights and data are all that the audit sees: its AUC lies in the judge's interval."""
    smoke = protocol.load("smoke")
    longer = smoke.model_copy(update={"recipe": smoke.recipe.model_copy(update={"epochs": 30})})
    artifacts = artifacts_in(tmp_path / "judge", longer)
    judged = scenario(artifacts, registry().attack("lira"), registry().chain("undefended", "undefended"), 0)
    measured = judged.score()
    parts = [judged.population.part(name) for name in ("target-train", "target-test")]
    x, y = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y"))
    data = images.of_arrays(x, y, np.arange(120) < 60)
    trained = recipes.trainings(recipes.write(tmp_path, text=JUDGES), data).references(Budget(4, None))
    network = judged._model().network.judge_copy()
    assert network is not None
    asked = live.ask_all(of_module(network, 10, data.shape), data, registry(), 0)
    given = replace(asked.given, references=trained.answers, reference_members=trained.members)
    (scores,) = Bench(given, 0, asked.live).run(registry().attack("lira")).scores
    auc, (low, high) = Curve.of(scores, data.members, ~data.members).auc(), measured.intervals["auc"]
    assert 0.55 < measured.metrics["auc"] and low <= auc <= high
    assert low > 0.5, "which says something"


def test_every_record_is_in_one_model_of_each_pair(inline: None, tmp_path: Path) -> None:
    asked = recipes.trainings(recipes.write(tmp_path))
    trained = asked.references(Budget(4, None))
    assert (trained.members[::2] ^ trained.members[1::2]).all() and recipes.trained(tmp_path) == [60] * 4
    sides = trained.members[:, asked.images.members].sum(1)
    assert (sides != 60).all() and (trained.members[0] != trained.members[2]).any()
    seen, other = recipe.accuracies(asked, trained)
    assert seen > 0.95 > other, "by heart"
    network = pictures.trained()
    answers = raw(network, torch.device("cpu"))(asked.images.x).numpy()
    assert trained.answers.shape == (4, *answers.shape) and not np.allclose(trained.answers[0], trained.answers[1])


def test_topping_up_trains_the_rest_alone(inline: None, tmp_path: Path) -> None:
    path = recipes.write(tmp_path)
    few = recipes.trainings(path).references(Budget(4, None))
    again = recipes.trainings(path)
    assert [again.stored(number) for number in range(6)] == [True] * 4 + [False] * 2
    more = again.references(Budget(8, None))
    assert len(recipes.trained(tmp_path)) == 8, "four of them are new"
    assert (more.answers[:4] == few.answers).all() and len(more.answers) == 8
    assert more.seconds > few.seconds > 0
    recipes.write(tmp_path, "torch.manual_seed(1)")
    assert not recipes.trainings(path).stored(0), "another recipe, other models"


def test_hours_buy_pairs_and_more_hours_more(inline: None, tmp_path: Path) -> None:
    path = recipes.write(tmp_path, "import time; time.sleep(0.2)")
    told: list[tuple[int, int, float, float]] = []
    least = recipes.trainings(path).references(Budget(None, 1e-6), lambda *given: told.append(given))
    assert len(least.answers) == 2 and told[0][:2] == (2, 2) and told[0][3] == 0
    pair = least.seconds
    more = recipes.trainings(path).references(Budget(None, 2.5 * pair), lambda *given: told.append(given))
    assert len(more.answers) == 4 or more.seconds > 1.2 * 2 * pair, "two pairs and a half, if all take as long"
    assert len(recipes.trained(tmp_path)) == len(more.answers)
    same = recipes.trainings(path).references(Budget(None, 2.5 * pair))
    assert (same.answers == more.answers).all() and len(recipes.trained(tmp_path)) == len(more.answers)
    assert Budget(None, 100.0).pairs(2, 20.0) == 10 and Budget(6, None).pairs(0, 0) == 3


def test_a_killed_call_goes_on_where_it_was(inline: None, tmp_path: Path) -> None:
    """kill -9 at the third of four models: two are not trained again, and the answers are those of a call that was left alone."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
        recipes.write(folder, "if len(notes.read_text().split()) == 3 and not notes.with_name('once').exists():\n"
                              "    notes.with_name('once').touch()\n    os.kill(os.getpid(), 9)")  # fmt: skip
    (whole / "once").touch()
    program = f"from tests.run.audit.recipes import train_here; train_here({str(killed)!r}, 4)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(recipes.trained(killed)) == 3
    found, expected = (recipes.train_here(str(folder), 4) for folder in (killed, whole))
    assert len(recipes.trained(killed)) == 5 and len(recipes.trained(whole)) == 4
    assert (found.answers == expected.answers).all() and (found.members == expected.members).all()


def test_a_model_that_never_saw_its_members_passes_and_one_that_did_does_not(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chance, "DRAWS", (199, 99))  # the level is kept with any number of draws
    x, y, members = pictures.digits()
    data = images.of_arrays(x, y, members)
    asked = recipes.trainings(recipes.write(tmp_path), data)
    trained = asked.references(Budget(8, None))
    verdicts = []
    for answers in (trained.answers[0], asked.target()):
        given = live.predictions(answers, y, members, form="log-probabilities")
        # Model 0 was trained on a random half, whoever is a member: it is no reference of itself, nor is its pair.
        given = replace(given, references=trained.answers[2:], reference_members=trained.members[2:])
        made = Recipe(file="train.py", references=6, size=60, seconds=1, trained=True, seen=1, unseen=1)
        report, _ = predicted.audit(given, registry(), when=WHEN, recipe=made)
        calibrated = {a.name for a in report.attacks if a.calibrated}
        assert report.way == "recipe" and calibrated == {
            "lira",
            "rmia",
            "lira_offline",
            "rmia_offline",
            "calibrated_loss",
        }
        assert report.recipe is not None and report.recipe.without is not None
        assert report.recipe.without.worst["auc"].attack not in calibrated
        assert report.recipe.without.worst["auc"].value <= report.worst["auc"].value
        verdicts.append(report.verdict.state)
    assert verdicts == ["chance", "leaks"]


def test_offline_attacks_get_models_that_never_saw_the_record() -> None:
    rng = np.random.default_rng(0)
    given = world(1, n=30)
    n, k = given.log_posteriors.shape
    inside = np.array([rng.permutation(n) < n // 2 for _ in range(3) for _ in range(2)])
    inside[1::2] = ~inside[::2]
    answers = np.where(inside[:, :, None], 1.0, 0.0) + np.arange(6)[:, None, None] / 10 + np.zeros(k)
    found = unseen(replace(given, references=answers, reference_members=inside))
    assert found is not None and found.shape == (3, n, k) and (found < 1).all()
    pairs = (found[:, :, 0] * 10).round().astype(int) // 2
    assert (pairs == np.arange(3)[:, None]).all(), "one model a pair, in their order"
    inside[:, 7] = True
    lacking = replace(given, references=answers, reference_members=inside)
    assert unseen(lacking) is None
    reasons = {x.name: x.reason for x in pool(registry(), lacking)[1]}
    assert "a reference model that never saw it" in reasons["lira_offline"]


# --- What a recipe can get wrong --------------------------------------------------------------------

HEAD = "import torch\nfrom torch import nn\n\n\ndef train(x, y, classes, seed):\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def fit(x, y):\n    pass\n", r"train\.py: expected a function def train\(x, y, classes, seed\) .* given none"),
        ("def train(x, y):\n    pass\n", r"train\.py, line 1: expected def train\(x, y, classes, seed\), given train\(x, y\)"),
        ("def train(:\n", r"train\.py: expected Python, given: invalid syntax"),
        ("import nothing_of_this_name\n\n\ndef train(x, y, classes, seed):\n    pass\n", r"train failed: ModuleNotFoundError: No module named 'nothing_of_this_name' \(train\.py, line 1, in <module>\)"),
        (HEAD + "    return nn.Linear(3, 4)(x)\n", r"train failed: RuntimeError: .* \(train\.py, line 6, in train\)$"),
        (HEAD + "    raise SystemExit(3)\n", r"train failed: SystemExit: 3 \(train\.py, line 6, in train\)"),
        (HEAD + "    return x.mean()\n", r"train\.py: train: expected a torch\.nn\.Module, images -> logits, given Tensor"),
        (HEAD + "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n", r"train\.py: train: expected logits of 10 classes, given 7"),
        (HEAD + "    n = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n    n[1].bias.data.fill_(torch.nan)\n    return n\n", r"finite logits, given NaN or infinite ones for 120 of 120 images"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_recipe_is_one_line(inline: None, tmp_path: Path, text: str, said: str) -> None:
    path = recipes.write(tmp_path, text=text)
    with pytest.raises(UserError, match=said) as raised:
        recipes.trainings(path).references(Budget(2, None))
    assert "\n" not in str(raised.value)


def test_a_recipe_may_return_a_network_whose_answers_hold_the_logits(inline: None, tmp_path: Path) -> None:
    """As those of Hugging Face's transformers do."""
    holding = """
class Holding(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.network(pixel_values))
"""
    text = recipes.TRAIN.replace("    return network", "    return Holding(network)") + holding
    answers = []
    for name, given in (("plain", recipes.TRAIN), ("holding", "from types import SimpleNamespace\n" + text)):
        (tmp_path / name).mkdir()
        answers.append(
            recipes.trainings(recipes.write(tmp_path / name, text=given)).references(Budget(2, None)).answers
        )
    assert (answers[0] == answers[1]).all()


def test_modules_beside_a_recipe_are_part_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for name, text in {
        "mine.py": "import more",
        "more.py": "a = 1",
        "parts/net.py": "b = 1",
        "other.py": "c = 1",
    }.items():
        (tmp_path / name).write_text(text, "utf-8")
    path = recipes.write(
        tmp_path, text="import mine\nfrom parts.net import b\n\n\ndef train(x, y, classes, seed):\n    pass\n"
    )
    keys = [trainer.read(path).key]
    for name in ("more.py", "parts/net.py", "other.py"):
        (tmp_path / name).write_text("changed = 1", "utf-8")
        keys.append(trainer.read(path).key)
    assert len({*keys}) == 3 and keys[2] == keys[3], "other.py is not imported"


def test_a_crash_of_a_training_is_one_line_and_ends_the_others(tmp_path: Path) -> None:
    """In processes: one aborts, the other would sleep for long."""
    path = recipes.write(
        tmp_path,
        "print('epoch 1', flush=True)\nif len(notes.read_text().split()) > 1: os.abort()\nimport time; time.sleep(90)",
    )
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"train\.py: expected a training that ends, given a process that ended by signal 6; .*"
    ):
        recipes.trainings(path, workers=2).references(Budget(2, None))
    assert time.monotonic() - start < 80
    assert not (tmp_path / "store" / "audit").exists() or not [*(tmp_path / "store" / "audit").rglob("*.safetensors")]


def test_a_training_ends_with_its_caller(tmp_path: Path) -> None:
    command = [*recipe._TRAINER[:3], "import sys; sys.path.append(sys.argv.pop(1)); "
               "from benchmark.run.audit.process import end_with_the_caller; print('here', flush=True); end_with_the_caller()",
               recipe._TRAINER[4]]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"here\n" and process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 1
