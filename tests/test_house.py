"""What is added to the house by one file: it is found by its place, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FAMILY = """from torch import nn

from benchmark.api.network import Network


def linear(classes: int, shape: tuple[int, int, int]) -> Network:
    return Network(nn.Flatten(), width=shape[0] * shape[1] * shape[2], classes=classes)


NETWORKS = {"linear": linear}
"""
SOURCE = """import numpy as np

from benchmark.data.dataset import Data, make


def load() -> Data:
    x = np.arange(40 * 64, dtype=np.int64).reshape(40, 1, 8, 8) % 251
    return make("ramp", x.astype(np.uint8), np.arange(40) % 2, {"pad": 0, "flip": False})


SOURCES = {"ramp": load}
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
from benchmark.metrics import METRICS, TASK_METRICS
from leaderboard.ranking import Board, attack_table, scenarios
from benchmark.result import Result
row = dict(protocol="p", protocol_digest="d", task="stealing", defense="undefended", dataset="digits",
    architecture="small_cnn", status="ok", access="posterior", knowledge="none")
rows = [Result(key=f"{s}" * 40, attack="a", seed=s, metrics={"agreement": .5, "stolen_accuracy": .4, "stolen_share": .3}, **row) for s in (0, 1)]
board = Board(required_attacks=(), required_defenses=("undefended",), seeds=(0, 1), baseline="undefended", utility_floor=0)
network = networks.build("linear", 3, (1, 8, 8), 0)
print(json.dumps({
    "networks": networks.NAMES, "answers": list(network(torch.zeros(2, 1, 8, 8)).shape), "data": data.NAMES,
    "samples": len(data.load("ramp")), "columns": TASK_METRICS["stealing"], "trained": protocol.load("little").architecture,
    "table": [c for c in attack_table(scenarios(rows), board, "stealing") if c.startswith("stolen_share")],
    "code": [networks.code(n) for n in ("linear", "vgg11")],
}))
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for half in ("benchmark", "leaderboard"):
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
    assert "ramp" in found["data"] and found["samples"] == 40
    assert "stolen_share" in found["columns"] and "stolen_share" in found["table"]
    assert len(set(found["code"])) == 2
