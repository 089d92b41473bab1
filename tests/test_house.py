"""What is added to the house by one file: it is found by its place, and nothing else is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FAMILY = """from torch import nn

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture


def linear(classes: int, shape: tuple[int, int, int]) -> Network:
    return Network(nn.Flatten(), width=shape[0] * shape[1] * shape[2], classes=classes)


NETWORKS = {"linear": Architecture("Linear", build=linear)}
"""
SOURCE = """import numpy as np

from benchmark.data.source import Item, Source

source = Source(title="A ramp", terms="none", get="made here", views={"8": (1, 8, 8)}, installed=True)


def read(folder):
    x = np.arange(40 * 64, dtype=np.int64).reshape(40, 8, 8) % 251
    for i, image in enumerate(x.astype(np.uint8)):
        yield Item(image, i % 2)
"""
COLUMN = '        Metric("stolen_accuracy", '
ADDED = '        Metric("stolen_share", "Share stolen", "up", 0, 1, "A made-up column.", table="stealing"),\n'
PROTOCOL = (
    (ROOT / "benchmark/protocols/smoke.yaml")
    .read_text("utf-8")
    .replace("architecture: small_cnn", "architecture: linear")
)
LOOK = """
import json, torch
from benchmark import data, networks, protocol
from benchmark.data.intake import prepare
from benchmark.data.source import find
from benchmark.metrics import METRICS, TASK_METRICS
from leaderboard.ranking import Board, attack_table, scenarios
from benchmark.result import Result
row = dict(protocol="p", protocol_digest="d", task="stealing", defense="undefended", dataset="digits",
    architecture="small_cnn", status="ok", access="posterior", knowledge="none")
rows = [Result(key=f"{s}" * 40, attack="a", seed=s, metrics={"agreement": .5, "stolen_accuracy": .4, "stolen_share": .3}, **row) for s in (0, 1)]
board = Board(required_attacks=(), required_defenses=("undefended",), seeds=(0, 1), baseline="undefended", utility_floor=0)
prepare(find("ramp"), None, None)
data.refresh()
network = networks.build("linear", 3, (1, 8, 8), 0)
print(json.dumps({
    "networks": networks.NAMES, "answers": list(network(torch.zeros(2, 1, 8, 8)).shape), "data": data.names(),
    "samples": len(data.load("ramp/8")), "columns": TASK_METRICS["stealing"], "trained": protocol.load("little").architecture,
    "table": [c for c in attack_table(scenarios(rows), board, "stealing") if c.startswith("stolen_share")],
    "code": [networks.code(n) for n in ("linear", "vgg11")],
}))
"""

CONTRACT = '''

class PropertyAttack(AnyAttack):
    """Infer how large a share of the training data each class has."""

    task: ClassVar[str] = "property"
    answer: ClassVar[str] = "shares"
    from_shadow: ClassVar[ShadowField] = "auxiliary"

    def shares(self, target: Target, classes: Sequence[int]) -> Tensor:
        """Shares (len(classes),) float64 that sum to 1."""
        raise NotImplementedError


# --- Defenses -'''
KIND = '''"""Property inference: how large a share of the training data has each class?"""

from typing import Any

import torch

from benchmark.judge.scenario import Measurements, Scenario, expect


class Kind(Scenario):
    """Shares of classes against those of target-train."""

    def judge(self, attack: Any) -> Measurements:
        classes = self.population.data.classes
        attack.fit(self._knowledge())
        guess = attack.answer(self.target, list(range(classes)))
        expect(guess, (classes,), "shares")
        true = self.population.part("target-train").y.bincount(minlength=classes).double()
        return Measurements({"share_error": float((guess - true / true.sum()).abs().sum() / 2)}, {}, {"seconds": 0.0})
'''
KIND_METRIC = '        Metric("share_error", "Error of shares", "down", 0, 1, "Total variation.", table="property"),\n'
SUBMISSION = '''"""Shares as the shadow world has them."""

import torch

from benchmark.api import Card, PropertyAttack


class Submission(PropertyAttack):
    """The shadow world's shares."""

    card = Card("Shares", ("A",), "unpublished", None)
    access = "posterior"
    needs = frozenset({"shadow"})

    def fit(self, knowledge):
        self.y = knowledge.auxiliary.y

    def shares(self, target, classes):
        assert len(target.labels(torch.zeros(2, 1, 8, 8))) == 2
        counts = self.y.bincount(minlength=len(classes)).double()
        return counts / counts.sum()
'''


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for half in ("benchmark", "leakboard", "leaderboard"):
        shutil.copytree(ROOT / half, folder / half, ignore=shutil.ignore_patterns("__pycache__", "published"))
    return folder


def test_one_file_adds_a_network_a_source_a_protocol_and_one_line_a_column(house: Path) -> None:
    (house / "benchmark/networks/families/linear.py").write_text(FAMILY, "utf-8")
    (house / "benchmark/data/sources/ramp.py").write_text(SOURCE, "utf-8")
    (house / "benchmark/protocols/little.yaml").write_text(PROTOCOL.replace("name: smoke", "name: little"), "utf-8")
    metrics = house / "benchmark/metrics.py"
    text = metrics.read_text("utf-8")
    assert text.count(COLUMN) == 1
    metrics.write_text(text.replace(COLUMN, ADDED + COLUMN), "utf-8")
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=house, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "linear" in found["networks"] and found["answers"] == [2, 3] and found["trained"] == "linear"
    assert "ramp/8" in found["data"] and found["samples"] == 40
    assert "stolen_share" in found["columns"] and "stolen_share" in found["table"]
    assert len(set(found["code"])) == 2


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), "utf-8")


@pytest.mark.slow
def test_a_kind_of_attack_is_a_class_of_the_contract_a_module_of_the_judge_and_its_metrics(house: Path) -> None:
    """Property inference, a toy: found, run in a sandbox where there is one, stored, ranked and printed."""
    _edit(house / "benchmark/api/__init__.py", "\n\n# --- Defenses -", CONTRACT)
    _edit(house / "benchmark/api/__init__.py", '"Pretrained", ', '"Pretrained", "PropertyAttack", ')
    _edit(house / "benchmark/metrics.py", COLUMN, KIND_METRIC + COLUMN)
    (house / "benchmark/judge/kinds/property.py").write_text(KIND, "utf-8")
    project = house / "project"
    (project / "submissions/attacks").mkdir(parents=True)
    (project / "submissions/attacks/shares.py").write_text(SUBMISSION, "utf-8")
    shutil.copytree(ROOT / "submissions", house / "submissions")
    run = [sys.executable, "-m", "leakboard", "run", "shares", "--protocol", "smoke", "--json"]
    run += [] if shutil.which("bwrap") else ["--trust"]
    folder = project / "mlruns"
    env = os.environ | {
        "PYTHONPATH": str(house),
        "LEAKBOARD_STORE": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/ml.db",
    }
    done = subprocess.run(run, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [r for r in json.loads(done.stdout) if r["attack"] == "shares"]
    assert [r["status"] for r in rows] == ["ok"] and 0 <= rows[0]["metrics"]["share_error"] < 0.5
