"""Every submission passes every check of `leakboard check`, and the judge knows none of them by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from benchmark import checks, protocol
from benchmark.artifacts import Artifacts
from benchmark.registry import Registry
from benchmark.store import Store

ROOT = Path(__file__).parents[2]
REGISTRY = Registry(ROOT / "submissions")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    torch.set_num_threads(1)
    return Artifacts(protocol.load("smoke"), REGISTRY, Store(tmp_path_factory.mktemp("store")), torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("entry", REGISTRY.entries.values(), ids=lambda e: f"{e.kind}-{e.id}")
def test_every_submission_keeps_the_contract(entry, artifacts):
    assert not entry.error
    outcomes = checks.check_entry(artifacts, entry)
    assert len(outcomes) >= 3
    assert [f"{c.name}: {c.detail}" for c in outcomes if not c.ok] == []


def test_the_judge_and_the_app_name_no_entry():
    # Words that are also ordinary English in code, such as "loss", prove nothing.
    names = {id for _, id in REGISTRY.entries} - {"loss"}
    for path in [*(ROOT / "benchmark").rglob("*.py"), *(ROOT / "leaderboard").rglob("*.py")]:
        texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not names & {t for t in texts if isinstance(t, str)}, path


def test_the_contract_fits_on_a_few_pages():
    assert len((ROOT / "benchmark" / "api.py").read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", protocol.names())
def test_every_protocol_names_entries_that_exist(name):
    loaded = protocol.load(name)
    assert all(REGISTRY.attack(a) for a in loaded.attacks)
    assert all(REGISTRY.chain(d, loaded.baseline) for d in loaded.defenses)
    assert loaded.leaves_out


BROKEN = {
    "the same seed gives the same result": (
        "import torch\nfrom benchmark.api import *\nclass A(Attack):\n"
        "    card = Card(title='t', authors=(), reference='r', year=None)\n    access = 'label'\n    calibrate = 'none'\n"
        "    def score(self, target, candidates, bank):\n"
        "        return torch.rand(len(candidates), dtype=torch.float64)\n"
    ),
    "scores don't depend on the number of candidates": (
        "from benchmark.api import *\nclass A(Attack):\n"
        "    card = Card(title='t', authors=(), reference='r', year=None)\n    access = 'posterior'\n"
        "    def score(self, target, candidates, bank):\n"
        "        s = target.log_posteriors(candidates.x).gather(1, candidates.y.unsqueeze(1)).squeeze(1)\n"
        "        return s - s.mean()\n"
    ),
    "keeps its declared access, and what it returns is in shape and range": (
        "from benchmark.api import *\nclass A(Attack):\n"
        "    card = Card(title='t', authors=(), reference='r', year=None)\n    access = 'label'\n"
        "    def score(self, target, candidates, bank):\n        return target.log_posteriors(candidates.x)[:, 0]\n"
    ),
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_broken_attack_is_caught_by_its_check(check, artifacts, tmp_path):
    path = tmp_path / "attacks" / "broken.py"
    path.parent.mkdir()
    path.write_text(BROKEN[check])
    outcomes = checks.check_file(path, ROOT / "submissions", artifacts.store.root)
    assert check in [c.name for c in outcomes if not c.ok]


GUARD = """
import torch
from benchmark.api import *

class D(Defense):
    card = Card(title='t', authors=(), reference='r', year=None)
    stages = ('post-inference',)

    def guard(self, predict, state, context):
        return lambda x: (predict(x) + torch.rand(len(x), 1, dtype=torch.float64) * predict(x)).log_softmax(1)
"""


def test_a_guard_that_answers_one_query_in_two_ways_is_caught(artifacts, tmp_path):
    path = tmp_path / "defenses" / "wavering.py"
    path.parent.mkdir()
    path.write_text(GUARD)
    failed = [c for c in checks.check_file(path, ROOT / "submissions", artifacts.store.root) if not c.ok]
    assert [c.name for c in failed] == ["the same query gets the same answer, in any batch"]
