"""Digests of code are the same wherever the code is read: keys are made of them, and published rows hold keys."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmark import digests, networks, protocol
from benchmark.digests import tree_digest
from benchmark.entries.registry import Registry
from benchmark.entries.templates import TEMPLATES
from benchmark.judge.kinds import KINDS
from benchmark.run import plan, tuning
from benchmark.targets import experiment, network, served
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store

ROOT = Path(__file__).resolve().parent.parent
DIGESTS = {
    "tests/fixtures/digests/expressions.py": "b249c47cacdeb93d7055b1d3f67eda02548ce268",
    "tests/fixtures/digests/statements.py": "f08267ef7561ac4a7b2d1bdd8b03baf6ccdb7c91",
    "submissions/attacks/loss.py": "d4e4a472025964512a4e248147b327b336ead23d",
    "submissions/attacks/quantile_regression.py": "eb0db7b591ab4ba460d164738e6fa6ebcfa97c13",
    "submissions/defenses/diffence.py": "613e5849783fb2d5170e15bfbad92b34123330dd",
    "submissions/defenses/undefended.py": "419a4a869dd96ef6b8f33e733b705297f7a21a42",
}
"""As Python 3.11 has always given them."""
OTHERS = sorted(
    {str(Path(p).resolve()) for m in range(11, 20) if (p := shutil.which(f"python3.{m}")) and "shims" not in p}
    | {str(path.resolve()) for path in Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python")}
)
CODE = """
import ast, json, sys
from pathlib import Path
from benchmark.digests import code_of, tree_digest
root, names, roots = json.loads(sys.argv[1])
found = {name: tree_digest(ast.parse(Path(root, name).read_text("utf-8"))) for name in names}
print(json.dumps(found | {name: code_of(*of) for name, of in roots.items()}))
"""


@pytest.mark.parametrize("name", DIGESTS)
def test_digests_of_code_stay_as_they_are(name: str) -> None:
    assert tree_digest(ast.parse((ROOT / name).read_text("utf-8"))) == DIGESTS[name]


def asked() -> dict[str, tuple[str, ...]]:
    """The definitions that each digest of code starts from."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (experiment, network, served, networks, plan, tuning):
            patch.setattr(module, "code_of", lambda *roots: roots)
        found = {
            "training": network.training_code(), "serving": served.serving_code(), "reading": experiment.reading_code(),
            "tuning": tuning.tuning_code(),
        }  # fmt: skip
        found |= {task: plan.judge_code(task) for task in (*KINDS, "utility")}
        found |= {name: networks.code(name) for name in networks.NAMES}
    entry = Registry(ROOT / "submissions").attack("nn_sorted").entry
    return found | {"nn_sorted": tuple(f"api:{name}" for name in entry.contract)}


def digests_of(python: str, root: Path, *names: str) -> dict[str, str]:
    """By this Python, on the standard library alone, where texts are not UTF-8 by default."""
    environment = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(root)}
    command = [python, "-S", "-W", "ignore", "-c", CODE, json.dumps([str(ROOT), names, asked()])]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True, timeout=60)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("python", [sys.executable, *OTHERS])
def test_every_python_gives_the_same_digests(python: str) -> None:
    """Of each version that is installed here."""
    found = digests_of(python, ROOT, *DIGESTS)
    assert {name: found[name] for name in DIGESTS} == DIGESTS
    assert found == digests_of(sys.executable, ROOT, *DIGESTS)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "benchmark", tmp_path / "benchmark", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def edit(house: Path, file: str, old: str, new: str) -> None:
    path = house / "benchmark" / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def move(house: Path, old: str, new: str) -> None:
    """Move a module as one would: its file, and what imports it."""
    (before, was), (after, now) = ((d.rpartition(".")[0], d.rpartition(".")[2]) for d in (old, new))
    base = house / "benchmark"
    base.joinpath(*new.split(".")).with_suffix(".py").write_text(
        base.joinpath(*old.split(".")).with_suffix(".py").read_text("utf-8"), "utf-8"
    )
    base.joinpath(*old.split(".")).with_suffix(".py").unlink()
    for path in base.rglob("*.py"):
        text = path.read_text("utf-8").replace(f"from benchmark.{old} import", f"from benchmark.{new} import")
        both = re.sub(rf"from benchmark.{before} import (.*)\b{was}\b", rf"from benchmark.{after} import \1{now}", text)
        path.write_text(both if both == text else re.sub(rf"\b{was}\.", f"{now}.", both), "utf-8")


def test_no_key_changes_where_files_move_and_the_house_grows(house: Path) -> None:
    before = digests_of(sys.executable, house)
    move(house, "judge.risk", "judge.divergence")
    move(house, "judge.bootstrap", "data.resampling")
    move(house, "api.signals", "api.thresholds")
    source = (house / "benchmark/data/sources/digits.py").read_text("utf-8")
    (house / "benchmark/data/sources/letters.py").write_text(source.replace("digits", "letters"), "utf-8")
    family = (house / "benchmark/networks/families/vgg.py").read_text("utf-8")
    (house / "benchmark/networks/families/tall.py").write_text(family.replace("vgg11", "tall"), "utf-8")
    kind = (house / "benchmark/judge/kinds/stealing.py").read_text("utf-8")
    (house / "benchmark/judge/kinds/property.py").write_text(kind, "utf-8")
    edit(house, "networks/training.py", '"""', '"""# no comment counts, ')
    edit(house, "metrics.py", "import math\n", "import math\n\nUNUSED = 1\n")
    assert digests_of(sys.executable, house) == before


def test_what_cannot_be_followed_is_an_error(house: Path) -> None:
    """A dependency that is missed would keep old numbers under a new meaning."""
    for old, new in (
        ("from benchmark import networks\n", "import benchmark.networks\nfrom benchmark import networks\n"),
        ("networks.build(", "networks.bild("),
        ("from benchmark import networks\n", "from .. import networks\n"),
        ("from benchmark import networks\n", "from benchmark.networks import *\nfrom benchmark import networks\n"),
    ):
        before = (house / "benchmark/networks/training.py").read_text("utf-8")
        edit(house, "networks/training.py", old, new)
        with pytest.raises(subprocess.CalledProcessError) as error:
            digests_of(sys.executable, house)
        assert b"LookupError: benchmark.network" in error.value.stderr
        (house / "benchmark/networks/training.py").write_text(before, "utf-8")


def test_networks_name_the_packages_that_they_are_built_with() -> None:
    found = {name: networks.libraries(name) for name in networks.NAMES}
    timm = {
        "resnet18",
        "resnet18_as_released",
        "resnet34",
        "resnet34_as_released",
        "vit",
        "xception",
        "xception_as_released",
    }
    vision = {"densenet121", "mobilenetv2"} | {f"{n}_as_released" for n in ("alexnet", "densenet121", "mobilenetv2", "vgg11", "vgg16", "vgg19")}  # fmt: skip
    assert {name for name, packages in found.items() if packages == ["timm"]} == timm
    assert {name for name, packages in found.items() if packages == ["torchvision"]} == vision
    assert {name for name, packages in found.items() if not packages} == set(networks.NAMES) - timm - vision


OLD = {
    "simple_cnn": "961b62e2ca7b16676fb3f247f9a6ff59169aa131",
    "small_cnn": "f7a0bb9a3c6f3008b505c9cd965a1052e8ad9720",
    "resnet18": "43fde39d5a44ed8d14f30b34da71f3e0675b8b9c",
    "vgg11": "275462a5fca4c32184a911e94922b565ebe25f2f",
}
"""Networks of published rows."""


def test_networks_of_published_rows_keep_their_digests() -> None:
    assert {name: networks.code(name) for name in OLD} == OLD


@pytest.fixture
def smoke(tmp_path: Path) -> Artifacts:
    registry, store = Registry(ROOT / "submissions"), Store(tmp_path)
    return Artifacts(protocol.load("smoke"), registry, store, torch.device("cpu"))


@pytest.mark.parametrize(
    ("changed", "whose"),
    [
        ("vgg11", {"distillation[teacher=vgg11]"}),
        ("resnet18", set()),
        ("simple_cnn", {"fredrikson"}),  # an evaluator's, which inversion alone meets
        ("mlp", {"fredrikson"}),  # the other one's
        ("small_cnn", {"distillation", "distillation[teacher=vgg11]", "loss", "fredrikson", "utility"}),
    ],
)
def test_a_network_is_in_the_keys_of_those_that_meet_it(
    smoke: Artifacts, monkeypatch: pytest.MonkeyPatch, changed: str, whose: set[str]
) -> None:
    def keys() -> dict[str, str]:
        found = {name: plan.scenario_key(smoke, smoke.registry.attack(name), smoke.chain("undefended"), 0) for name in ("loss", "fredrikson")}  # fmt: skip
        for spec in ("distillation", "distillation[teacher=vgg11]", "undefended"):
            found[spec] = plan.scenario_key(smoke, None, smoke.chain(spec), 0)
        return found | {"utility": found.pop("undefended")}

    before, code = keys(), networks.code
    monkeypatch.setattr(networks, "code", lambda name: "another" if name == changed else code(name))
    after = keys()
    assert {name for name in before if before[name] != after[name]} == whose


def test_a_network_that_a_file_spells_out_is_in_its_key(tmp_path: Path) -> None:
    path = tmp_path / "defenses" / "mine.py"
    path.parent.mkdir()
    path.write_text(TEMPLATES["defense"].replace('"""', '"""vgg11 ', 1), "utf-8")
    assert "vgg11" not in Registry(tmp_path).entries["defense", "mine"].texts, "a docstring builds nothing"
    path.write_text(TEMPLATES["defense"] + '\n\nprint("vgg11")\n', "utf-8")
    assert "vgg11" in Registry(tmp_path).entries["defense", "mine"].texts


EVERYBODY = {*KINDS, "utility"}


@pytest.mark.parametrize(
    ("file", "old", "new", "whose"),
    [
        ("networks/families/vgg.py", "(512, 512))", "(512,))", {"vgg11"}),
        ("api/network.py", "/ 0.5", "/ 0.25", {*networks.NAMES, "utility"}),
        ("judge/risk.py", "BINS = 20", "BINS = 21", {"utility"}),
        ("judge/bootstrap.py", "LEVEL = 0.95", "LEVEL = 0.9", {"membership", "stealing", "utility"}),
        ("judge/kinds/stealing.py", "argmax(1)", "argmin(1)", {"stealing"}),
        ("networks/pretrained.py", "STEPS = ", "STEPS = 1 + ", {"reading", *EVERYBODY}),
        ("networks/access.py", "CHUNK = 500", "CHUNK = 400", {"serving", *EVERYBODY}),
        ("run/tuning.py", "status", "state", {"tuning"}),
        ("api/perceptron.py", ".relu_()", ".tanh_()", {"nn_sorted"}),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".py") else "",
)
def test_what_changes_changes_the_keys_that_depend_on_it(
    house: Path, file: str, old: str, new: str, whose: set[str]
) -> None:
    before = digests_of(sys.executable, house)
    edit(house, file, old, new)
    after = digests_of(sys.executable, house)
    assert {name for name in before if before[name] != after[name]} == whose


def test_threads_read_each_module_once_and_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two `ast.parse` at once end in SystemError now and then before Python 3.11.8, and twice is once too often."""
    roots = ("api.perceptron:Perceptron", "judge.risk:BINS")
    expected = digests.code_of(*roots)
    for kept in (digests.code_of, digests.libraries_of, digests._definition, digests._read):
        kept.cache_clear()
    parse, running, read = ast.parse, threading.Lock(), []

    def watched(text: str, *more: str) -> ast.Module:
        assert running.acquire(blocking=False), "two at once"
        time.sleep(0.01)
        read.append(text)
        running.release()
        return parse(text, *more)

    monkeypatch.setattr(ast, "parse", watched)
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda _: digests.code_of(*roots), range(8)))
    assert set(found) == {expected}
    assert len(read) == len({*read}) > 1
