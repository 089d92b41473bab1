"""Inversion in an audit: the judge's numbers with the judge's classifiers, who has which images, what it costs, and what is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmark.judge.kinds import scenario
from benchmark.run.audit import images, kinds, live
from benchmark.run.audit.attacks import Released
from benchmark.run.audit.kinds.inversion import Inversion
from benchmark.run.audit.model import Model, load, of_module
from benchmark.run.audit.report import OtherKind
from benchmark.sandbox.host import Launcher
from benchmark.targets.experiment import EVALUATORS as ROLES
from benchmark.targets.store import Store
from tests.conftest import artifacts_in
from tests.run.audit import pictures
from tests.run.audit.kinds import planned, ran
from tests.run.audit.worlds import registry

ALL = kinds.chosen("membership,inversion")


@pytest.fixture(scope="module")
def data() -> images.Images:
    return images.of_arrays(*pictures.digits())


def of(
    model: Model, data: images.Images, released: Released = "weights", queries: int = 40_000, store: Store | None = None
) -> Inversion:
    kind = planned("inversion", model, data, released, queries, store)
    assert isinstance(kind, Inversion)
    return kind


def quick(kind: Inversion, *names: str) -> Inversion:
    """With these attacks; the last one is the null."""
    vars(kind)["listed"] = [(registry().attack(name), name == names[-1]) for name in names]
    return kind


def test_a_target_of_the_judge_has_the_judges_numbers(smoke_store: Path, tmp_path: Path) -> None:
    """To the last digit: the same images come of the exported weights, and with its classifiers they are worth the same."""
    shutil.copytree(smoke_store, tmp_path / "store")
    artifacts = artifacts_in(tmp_path / "store")
    names = ("fredrikson[steps=30]", "inversion_null")
    judges = {
        n: scenario(artifacts, registry().attack(n), registry().chain("undefended", "undefended"), 0) for n in names
    }
    judge = judges[names[0]]
    parts = [judge.population.part(p) for p in ("target-train", "shadow-train", "target-test")]
    save_file(judge._model().network.weights(), tmp_path / "exported.safetensors")
    x, y = (torch.cat([getattr(s, f) for s in parts]) for f in ("x", "y"))
    ends = np.cumsum([len(s) for s in parts])
    data = images.of_arrays(x, y, np.arange(len(x)) < ends[0])
    kind = of(load(tmp_path / "exported.safetensors", "small_cnn", 10, data.shape), data)
    vars(kind)["_rows"] = np.arange(ends[0], ends[1]), np.arange(ends[1], ends[2]), np.arange(0)
    vars(kind)["_evaluators"] = [judge._evaluator(role).predictor() for role in ROLES]  # type: ignore[attr-defined]
    for name, judge in judges.items():
        judged = judge.score()
        vars(kind)["knowledge"] = lambda part, target, judge=judge, **more: judge._knowledge()
        outcome = kind.measure(registry().attack(name), kind.work(registry().attack(name)))
        assert outcome.metrics == {m: judged.metrics[m] for m in outcome.metrics}, name
        assert {*judged.metrics} - {*outcome.metrics} == {
            "frechet_distance",
            "frechet_distance_null",
            "feature_distance",
        }
        assert outcome.hits.mean() == judged.metrics["both_evaluators"]


def test_nobody_shares_an_image(data: images.Images) -> None:
    kind = of(of_module(pictures.trained(), 10, data.shape), data)
    rows = [set(part.tolist()) for part in kind._rows]
    assert [len(r) for r in rows] == [30, 15, 15] and set.union(*rows) == set(np.flatnonzero(~data.members))
    assert kind._judges == ["simple_cnn", "small_cnn"], "a module has a name of its own"
    named = of_module(pictures.trained(), 10, data.shape, "small_cnn")
    assert of(named, data)._judges == ["simple_cnn", "mlp"]


def test_it_is_run_kept_and_told(data: images.Images, tmp_path: Path) -> None:
    save_file(pictures.trained().state_dict(), tmp_path / "model.safetensors")
    names = ("fredrikson[steps=40]", "secret_revealer[epochs=2,steps=3,starts=2]", "inversion_null")

    def run(store: Store | None, released: Released = "weights") -> OtherKind:
        model = load(tmp_path / "model.safetensors", "small_cnn", 10, data.shape)
        return ran(quick(of(model, data, released, store=store), *names))

    first, second = (Store(tmp_path / "store") for _ in range(2))
    found = run(first)
    assert found == run(second) == run(None) and not second.made
    assert len(first.made) == 1 + 3 + 2 + 1, "answers; three attacks and nulls; two classifiers; a generator"
    assert (found.known, found.scored) == (30, 10) and {a.name for a in found.counting} == {*names[:2]}
    null = found.attacks[-1]
    for attack in found.counting:
        assert attack.gain is not None and attack.gain.over == null.name
        difference = attack.metrics["both_evaluators"].value - null.metrics["both_evaluators"].value
        assert attack.gain.value == pytest.approx(difference)
    assert "classes in what" in found.sentence
    unreleased = run(second, "posteriors")
    assert not unreleased.counting and unreleased.sentence.endswith(
        " It does not count: it reads more than is released."
    )


def test_the_budget_bounds_the_classes(data: images.Images) -> None:
    model = of_module(pictures.trained(), 10, data.shape)
    for queries, count in ((40_000, 10), (10_000, 3), (2000, 0)):
        kind = of(model, data, queries=queries)
        assert kind.counts()[1] == count and all(kind.passes(p)[0] <= queries for p in kind.plan()[0])
    assert kind.unmet() == "--queries 2,000 pays for no class"
    few = quick(of(model, data, queries=4000), "fredrikson[steps=400]", "inversion_null")
    found = ran(few)
    assert found.scored == 3 and "of 3 classes" in found.sentence


def test_by_default_it_says_how_to_ask_for_it(data: images.Images) -> None:
    asked = live.ask_all(of_module(pictures.trained(), 10, data.shape), data, registry(), 0)
    found = kinds.run([kinds.planned(asked, data, registry(), 0, "weights", None)[-1]])[0]
    assert found.sentence == (
        "Model inversion was not measured: it takes minutes; --kinds membership,stealing,attribute,inversion runs it."
    )


def test_every_attack_runs_or_has_its_reason(data: images.Images) -> None:
    parts, left = of(of_module(pictures.trained(), 10, data.shape), data).plan()
    known = {e.id for (k, _), e in registry().entries.items() if k == "attack" and e.task == "inversion"}
    assert {p.entry.id for p in parts} | {x.name for x in left} == known


@pytest.mark.slow
def test_a_networks_file_is_inverted_in_its_sandbox(data: images.Images, tmp_path: Path, launcher: Launcher) -> None:
    pictures.own(tmp_path)
    model = load(tmp_path / "model.safetensors", str(tmp_path / "mine.py"), 10, data.shape)
    try:
        found = ran(quick(of(model, data), "fredrikson[steps=20]", "inversion_null"))
    finally:
        model.close()
    assert [a.name for a in found.counting] == ["fredrikson[steps=20]"]
