"""Stealing in an audit: the judge's agreement on the judge's target, what the attacker has and pays, and what is said of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark.errors import UserError
from benchmark.judge.kinds import scenario
from benchmark.run.audit import images, kinds, live
from benchmark.run.audit.attacks import Released
from benchmark.run.audit.kinds.base import Kind
from benchmark.run.audit.kinds.stealing import Stealing, labels_of_copy
from benchmark.run.audit.model import Model, load, of_module
from benchmark.sandbox.host import Launcher
from benchmark.sandbox.remote import AnyBuilder
from benchmark.targets.store import Store
from tests.conftest import artifacts_in
from tests.run.audit import pictures
from tests.run.audit.kinds import planned, ran
from tests.run.audit.worlds import registry


@pytest.fixture(scope="module")
def data() -> images.Images:
    return images.of_arrays(*pictures.digits())


def of(
    model: Model,
    data: images.Images,
    released: Released = "posteriors",
    queries: int = 2000,
    store: Store | None = None,
) -> Kind:
    return planned("stealing", model, data, released, queries, store)


@pytest.mark.parametrize("name", ["steal_posteriors[epochs=3]", "steal_labels[epochs=3]", "steal_null[epochs=3]"])
def test_a_target_of_the_judge_has_the_judges_agreement(smoke_store: Path, tmp_path: Path, name: str) -> None:
    """To the last digit, intervals and all: its weights as a file, the same images asked about, the same fresh copy."""
    shutil.copytree(smoke_store, tmp_path / "store")
    artifacts, part = artifacts_in(tmp_path / "store"), registry().attack(name)
    judge = scenario(artifacts, part, registry().chain("undefended", "undefended"), 0)
    judged = judge.score()
    judge._open()
    save_file(judge._model().network.weights(), tmp_path / "exported.safetensors")
    known, test = (judge.population.part(p) for p in ("shadow-train", "target-test"))
    members = judge.population.part("target-train")
    x, y = (torch.cat([getattr(s, f) for s in (members, known, test)]) for f in ("x", "y"))
    data = images.of_arrays(x, y, np.arange(len(x)) < len(members))
    kind = of(load(tmp_path / "exported.safetensors", "small_cnn", 10, data.shape), data, queries=10_000)
    builder = artifacts.builder(0)
    target = kind.target(part)
    copied = labels_of_copy(part, target, judge._knowledge(), known, AnyBuilder(builder.setup, builder.seed), test.x)
    rows = np.arange(len(members) + len(known), len(x))
    vars(kind)["_rows"] = (rows[:0], rows)  # measured on the judge's part
    outcome = kind.measure(part, {"labels": copied, "queries": torch.tensor(target.queries)})
    assert outcome.metrics == judged.metrics and outcome.intervals == judged.intervals
    assert outcome.queries == judged.cost["queries"]


def test_a_copy_is_measured_on_images_that_nobody_asked_about(data: images.Images) -> None:
    asked: list[torch.Tensor] = []
    model = of_module(pictures.trained(), 10, data.shape)
    kind = of(model, data)
    predict = model.ask
    model.ask = lambda x: asked.append(x) or predict(x)  # type: ignore[func-returns-value]
    known, test = kind._rows  # type: ignore[attr-defined]
    assert len(known) == 30 and not np.intersect1d(known, test).size and not data.members[[*known, *test]].any()
    assert sorted([*known, *test]) == np.flatnonzero(~data.members).tolist()
    found = ran(kind)
    assert not asked, "the records were asked about before, once for all attacks"
    assert (found.known, found.scored) == (30, 30)
    by_name = {a.name.partition("[")[0]: a for a in found.attacks}
    assert {n: a.queries for n, a in by_name.items()} == {"steal_posteriors": 30, "steal_labels": 30, "steal_null": 0}
    null, best = by_name["steal_null"], found.counting[0]
    assert null.null and null.gain is None and best.gain is not None and best.gain.over == null.name
    assert best.gain.value == pytest.approx(best.metrics["agreement"].value - null.metrics["agreement"].value)
    assert best.gain.low <= best.gain.value <= best.gain.high
    assert f"{best.metrics['agreement'].value:.1%}" in found.sentence and "30 images" in found.sentence


class Turned(nn.Module):
    """A model whose answers no data would teach: those of a network, one class further."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pictures.trained()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).roll(1, dims=1)  # type: ignore[no-any-return]


def test_asking_helps_where_only_the_model_knows(data: images.Images) -> None:
    """The true labels lead away from such a model; and the same network asked about what it says of its own is worth no more."""
    found = ran(of(of_module(Turned(), 10, data.shape), data, queries=20_000))
    best = found.counting[0]
    assert (
        best.gain is not None and best.gain.low > 0.1 and found.sentence.startswith("Asking helps to copy the model: ")
    )

    class Knows(nn.Module):
        """Always right, and sure of it: asking tells the true labels."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            same = (x.unsqueeze(1) == data.x.unsqueeze(0)).flatten(2).all(2)
            return 20 * torch.nn.functional.one_hot(torch.from_numpy(data.y)[same.int().argmax(1)], 10).float()

    found = ran(of(of_module(Knows(), 10, data.shape), data))
    labels = next(a for a in found.attacks if a.name.startswith("steal_labels"))
    assert labels.gain is not None and labels.gain.value == 0, "its recipe is that of the null"


def test_the_budget_bounds_what_is_asked_and_trained(data: images.Images) -> None:
    model = of_module(pictures.trained(), 10, data.shape)
    for queries in (1000, 1500, 100_000):
        kind = of(model, data, queries=queries)
        parts, _ = kind.plan()
        assert len(parts) == 3 and all(sum(kind.passes(part)) <= queries for part in parts)
        assert {p.params.epochs for p in parts} == {{1000: 20, 1500: 20, 100_000: 300}[queries]}  # type: ignore[attr-defined]
        assert kind.counts()[0] == min(30, queries // 61) and sum(kind.counts()) == pictures.SIDE
    parts, left = of(model, data, queries=600).plan()
    assert not parts and left[0].reason == "--queries 600 leaves the attacker 9 images"
    assert "--queries 600" in ran(of(model, data, queries=600)).sentence


def test_what_is_released_decides_what_counts(data: images.Images) -> None:
    model = of_module(pictures.trained(), 10, data.shape)
    found = ran(of(model, data, "labels"))
    assert {a.name.partition("[")[0] for a in found.attacks if a.counts} == {"steal_labels", "steal_null"}
    assert {a.name for a in found.counting} == {"steal_labels[epochs=21,learning_rate=0.05]"}, "as 2,000 passes pay"
    found = ran(of(model, data, "weights"))
    assert not found.attacks and found.sentence == (
        "Model stealing was not measured: the weights are released, and with them the model itself."
    )


def test_every_attack_runs_or_has_its_reason(data: images.Images) -> None:
    kind = of(of_module(pictures.trained(), 10, data.shape), data)
    parts, left = kind.plan()
    known = {e.id for (k, _), e in registry().entries.items() if k == "attack" and e.task == "stealing"}
    assert {p.entry.id for p in parts} | {x.name for x in left} == known and all(x.reason for x in left)


def test_a_second_call_computes_nothing_anew(data: images.Images, tmp_path: Path) -> None:
    save_file(pictures.trained().state_dict(), tmp_path / "model.safetensors")

    def run(store: Store | None, queries: int = 2000) -> str:
        model = load(tmp_path / "model.safetensors", "small_cnn", 10, data.shape)
        return ran(of(model, data, queries=queries, store=store)).model_dump_json()

    first, second, third = (Store(tmp_path / "store") for _ in range(3))
    assert run(first) == run(second) == run(None)
    assert len(first.made) == 4 and not second.made, "three attacks, and the answers"
    assert run(third, queries=1000) != run(second) and len(third.made) == 3, "with fewer images they are others"


def test_a_copy_must_do_without_the_model(data: images.Images, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = of(of_module(pictures.trained(), 10, data.shape), data)
    part, targets = kind.plan()[0][0], []
    plain = kind.target
    monkeypatch.setattr(Stealing, "target", lambda self, part: targets.append(plain(part)) or targets[-1])
    kind.work(part)
    with pytest.raises(PermissionError, match="answers no more"):
        targets[0].labels(data.x[:1])


@pytest.mark.slow
def test_a_model_in_a_sandbox_is_copied_by_its_answers(data: images.Images, tmp_path: Path, launcher: Launcher) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.jit.script(network).save(tmp_path / "m.ts")  # type: ignore[no-untyped-call]
    model = load(tmp_path / "m.ts", "", 10, data.shape)
    try:
        there = ran(of(model, data))
    finally:
        model.close()
    here = ran(of(of_module(network, 10, data.shape), data))
    assert [a.metrics["stolen_accuracy"] for a in there.attacks] == [a.metrics["stolen_accuracy"] for a in here.attacks]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("membership,stealling", "--kinds: unknown kind 'stealling'; did you mean 'stealing'"),
        ("stealing", "--kinds: expected membership among them, for the verdict is about it, given stealing"),
    ],
)
def test_kinds_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kinds.chosen(text)


def test_kinds_that_were_not_asked_for_say_so(data: images.Images) -> None:
    assert kinds.chosen("") is None and kinds.chosen("membership, stealing") == ("stealing",)
    asked = live.ask_all(of_module(pictures.trained(), 10, data.shape), data, registry(), 0, queries=2000)
    found = kinds.run(kinds.planned(asked, data, registry(), 0, "posteriors", kinds.chosen("membership")))
    assert {k.kind for k in found} == {*kinds.KINDS} and not any(k.attacks for k in found)
    assert all("it was not asked for (--kinds)" in k.sentence for k in found)
