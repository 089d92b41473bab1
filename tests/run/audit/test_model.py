"""Audits of a model itself: the judge's numbers on the judge's candidates, what attacks may cost, foreign code in a sandbox."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark import networks
from benchmark.errors import UserError
from benchmark.judge.kinds import scenario
from benchmark.metrics import Curve
from benchmark.networks import given
from benchmark.networks.access import raw
from benchmark.run.audit import attacks, images, live, predicted
from benchmark.run.audit.attacks import Bench, Cost, Live, pool
from benchmark.run.audit.model import Model, load, of_module
from benchmark.sandbox.host import Launcher
from benchmark.targets.store import Store
from tests.conftest import artifacts_in
from tests.run.audit import pictures
from tests.run.audit.worlds import registry

WHEN = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def data() -> images.Images:
    return images.of_arrays(*pictures.digits())


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of quick attacks, of each access one at least."""
    (tmp_path / "pool.yaml").write_text(
        "answers: [loss, metric_corr, ml_doctor_partial, lira]\n"
        "model: [{attack: near_copies, asks: 16}, {attack: grad_norm, asks: 6}, {attack: ml_doctor_white_box_partial}]\n"
    )
    monkeypatch.setattr(attacks, "POOL", tmp_path / "pool.yaml")


def bench(model: Model, data: images.Images, queries: int = 2000, **more: object) -> Bench:
    asked = live.ask_all(model, data, registry(), 0, queries=queries)
    return Bench(asked.given, 0, replace(asked.live, **more))  # type: ignore[arg-type]


def test_a_target_of_the_judge_has_the_judges_aucs(smoke_store: Path, tmp_path: Path) -> None:
    """To the last digit: its weights as a file, and its candidates as images, are all that the audit sees."""
    shutil.copytree(smoke_store, tmp_path / "store")
    artifacts = artifacts_in(tmp_path / "store")
    judged, found = {}, None
    for name in ("loss", "near_copies", "grad_norm", "song_adversarial"):
        found = scenario(artifacts, registry().attack(name), registry().chain("undefended", "undefended"), 0)
        judged[name] = found.score().metrics["auc"]
    assert found is not None
    found._face(0)
    _, candidates, _ = found.fitted()  # type: ignore[attr-defined]
    save_file(found._model().network.weights(), tmp_path / "exported.safetensors")
    members = found.population.members_of("target", 0)[found.population.scored("posterior")]
    data = images.of_arrays(candidates.x, candidates.y, members)
    audited = bench(load(tmp_path / "exported.safetensors", "small_cnn", 10, data.shape), data, queries=100_000)
    for name, auc in judged.items():
        (scores,) = (outcome := audited.run(registry().attack(name))).scores
        assert len(outcome.rows) == len(data.y) and not outcome.part_of
        assert Curve.of(scores, data.members, ~data.members).auc() == auc != 0.5, name


def test_the_model_is_asked_about_each_record_once(data: images.Images) -> None:
    asked: list[torch.Tensor] = []
    model = of_module(pictures.trained(), 10, data.shape)
    predict = model.ask

    def counted(x: torch.Tensor) -> torch.Tensor:
        asked.append(x)
        return predict(x)

    model.ask = counted
    audited = bench(model, data)
    sides = np.concatenate(
        [data.members[[int((data.x == image).flatten(1).all(1).nonzero()) for image in x]] for x in asked]
    )
    assert len(sides) == len(data.y) and 0.3 < sides[:60].mean() < 0.7, "in random order"
    for name in ("loss", "metric_conf", "nn_sorted", "attack_p", "quantile_regression"):
        assert audited.run(registry().attack(name)).queries > 0
    assert sum(map(len, asked)) == len(data.y), "stored answers serve all of these"
    near = audited.run(registry().attack("near_copies"))
    assert near.queries == 16 and sum(map(len, asked)) == len(data.y) * 16
    assert audited.given.log_posteriors == pytest.approx(
        raw(pictures.trained(), torch.device("cpu"))(data.x).numpy(), abs=1e-4
    )


def test_what_costs_much_is_measured_on_a_part(data: images.Images) -> None:
    audited = bench(of_module(pictures.trained(), 10, data.shape), data)
    parts = {part.name: part for part in pool(registry(), audited.given, audited)[0]}
    costly, learner = parts["near_copies"], registry().attack("nn_augmented")
    limited = replace(audited, live=replace(audited.live, queries=16 * 60))  # type: ignore[type-var]
    for part in (costly, learner):
        counted, learnt, thresholds = (of(part) for of in (limited.counted, limited.learnt, limited.calibrating))
        cost = limited.cost(part)
        assert limited.passes(part) <= limited.live.queries  # type: ignore[union-attr]
        assert counted.sum() == 2 * (counted & data.members).sum(), "as many of each side"
        assert not (counted & (thresholds | (learnt if cost.fits else thresholds))).any()
    assert limited.counted(costly).sum() == 45 - 1 and limited.calibrating(costly).sum() == 14
    some, more = (limited.few(~limited.known, n) for n in (20, 40))
    assert some.sum() == 20 and (more & some).sum() == 20, "nested, so that there are few strata"
    strata = limited.strata([costly, learner, parts["loss"]])
    for mask in (limited.known, limited.counted(costly), limited.counted(learner)):
        assert all(mask[strata == s].all() or not mask[strata == s].any() for s in np.unique(strata))
    assert (audited.strata([parts["loss"]]) == audited.known).all()
    outcome = limited.run(costly)
    assert outcome.part_of and (outcome.rows == np.flatnonzero(limited.counted(costly))).all()


def test_every_attack_runs_or_has_its_reason(data: images.Images) -> None:
    audited = bench(of_module(pictures.trained(), 10, data.shape), data)
    parts, left = pool(registry(), audited.given, audited)
    known = {
        e.id
        for (kind, _), e in registry().entries.items()
        if kind == "attack" and e.task == "membership" and e.card and not e.card.null
    }
    assert {name.partition("[")[0] for name in (*(p.name for p in parts), *(x.name for x in left))} == known
    reasons = {x.name: x.reason for x in left}
    assert not any("is not in the pool" in reason for reason in reasons.values()), "whoever adds an attack decides"
    assert (
        reasons["label_only_boundary[queries=250]"]
        == "costs 255 forward passes a record: --queries 2,000 leaves too few records"
    )
    assert "reference models" in reasons["lira"] and "certified radius" in reasons["song_verified"]
    assert {p.name for p in parts} >= {"grad_norm", "ml_doctor_white_box_partial", "near_copies", "nn_augmented"}


class Odd(nn.Module):
    """A network whose answer is not that of its last linear layer, and in which a gradient of one sample cannot be computed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pictures.trained()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.detach().mean()) < 0:
            raise ValueError("no image is negative")
        return torch.log_softmax(self.inner(x), 1)


def test_a_network_that_an_attack_cannot_read_ends_that_attack_alone(data: images.Images, few: None) -> None:
    asked = live.ask_all(of_module(Odd(), 10, data.shape), data, registry(), 0, queries=2000)
    report, _ = predicted.audit(asked.given, registry(), when=WHEN, live=asked.live)
    reasons = {x.name: x.reason for x in report.left}
    assert "does not show" in reasons["ml_doctor_white_box_partial"]
    assert reasons["grad_norm"].startswith("failed, RuntimeError: ")
    assert report.way == "model" and report.model.network == "Odd" and report.model.shape == [1, 8, 8]


def of_transformers(name: str) -> tuple[nn.Module, Callable[[torch.Tensor], torch.Tensor]]:
    """A tiny image classifier of Hugging Face's transformers that has learnt the members, in training mode; and its embeddings, by
    its own layers."""
    import transformers

    torch.manual_seed(0)
    network: Any
    if name == "ViT":
        network = transformers.ViTForImageClassification(transformers.ViTConfig(
            image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            hidden_dropout_prob=0.1, num_labels=10,
        ))  # fmt: skip
    else:
        network = transformers.ResNetForImageClassification(transformers.ResNetConfig(
            num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
        ))  # fmt: skip
    x, y, members = pictures.digits()
    pixels = (torch.from_numpy(x[members]).float().unsqueeze(1) / 255 - MEAN) / STD
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        network(pixel_values=pixels, labels=torch.from_numpy(y[members])).loss.backward()
        optimizer.step()
    if name == "ViT":
        return network, lambda x: network.vit(x).last_hidden_state[:, 0]
    return network, lambda x: network.resnet(x).pooler_output.flatten(1)


MEAN, STD = 0.5, 0.25
"""What those networks subtract, and divide by."""


@pytest.mark.parametrize("name", ["ViT", "ResNet"])
def test_an_image_classifier_of_transformers_is_audited_as_it_is(data: images.Images, name: str) -> None:
    network, embed = of_transformers(name)
    model = of_module(network, 10, data.shape, mean=[MEAN], std=[STD])
    assert network.training and all(p.grad is not None for p in network.parameters()), "a copy is asked"
    network.eval()
    pixels = (data.x - MEAN) / STD
    with torch.no_grad():
        assert torch.equal(model.predict(data.x), network(pixels).logits.double().log_softmax(1)), "to the last digit"
        assert model.embeds and torch.equal(model.copy().embed(data.x), embed(pixels))  # type: ignore[misc]
    assert (model.predict(data.x).argmax(1).numpy() == data.y)[data.members].mean() > 0.7
    audited = bench(model, data)
    assert audited.run(registry().attack("ml_doctor_white_box_partial")).scores.std() > 0
    (scores,) = (outcome := audited.run(registry().attack("grad_norm"))).scores
    for row, score in list(zip(outcome.rows, scores, strict=True))[:5]:
        network.zero_grad()
        network(pixels[[row]], labels=torch.from_numpy(data.y[[row]])).loss.backward()
        norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
        assert -score == pytest.approx(float(norm), rel=1e-3)


def test_a_network_in_half_precision_is_asked_in_float32(data: images.Images) -> None:
    network = copy.deepcopy(pictures.trained()).bfloat16()
    answers = of_module(network, 10, data.shape).predict(data.x)
    assert next(network.parameters()).dtype == torch.bfloat16, "a copy"
    assert torch.equal(answers, raw(network, torch.device("cpu"))(data.x))


def test_what_is_released_decides_which_attacks_count(data: images.Images, few: None) -> None:
    asked = live.ask_all(of_module(pictures.trained(), 10, data.shape), data, registry(), 0, queries=3000)
    reports = {
        released: predicted.audit(asked.given, registry(), when=WHEN, live=asked.live, released=released)[0]
        for released in ("labels", "weights")
    }  # type: ignore[misc]
    for released, reads in (("labels", {"label"}), ("weights", {"label", "posterior", "white-box"})):
        report = reports[released]
        assert {a.access for a in report.attacks if a.counts} == reads
        assert {a.access for a in report.attacks} == {"label", "posterior", "white-box"}, "all run"
        assert next(a for a in report.attacks if a.name == report.worst["auc"].attack).counts
    assert reports["labels"].worst["auc"].value < reports["weights"].worst["auc"].value
    first, again = (
        reports["weights"],
        predicted.audit(asked.given, registry(), when=WHEN, live=asked.live, released="weights")[0],
    )
    assert first.as_json() == again.as_json()


def test_a_second_audit_goes_on_where_the_first_was_stopped(
    data: images.Images, few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(pictures.trained().state_dict(), tmp_path / "model.safetensors")
    make, made = Bench._scores, itertools.count(1)

    def stopped(*given: Any) -> Any:
        if next(made) > 3:
            raise KeyboardInterrupt
        return make(*given)

    def run(store: Store | None) -> predicted.Audit:
        model = load(tmp_path / "model.safetensors", "small_cnn", 10, data.shape)
        asked = live.ask_all(model, data, registry(), 0, store, 2000)
        return predicted.audit(asked.given, registry(), when=WHEN, live=asked.live)[0]

    first, second, third = (Store(tmp_path / "store") for _ in range(3))
    monkeypatch.setattr(Bench, "_scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    monkeypatch.undo()
    monkeypatch.setattr(attacks, "POOL", tmp_path / "pool.yaml")
    report = run(second)
    assert len(first.made) == len(second.reused) == 4 and len(second.made) == 3, "three attacks, and the answers"
    assert run(third).as_json() == report.as_json() == run(None).as_json() and not third.made


def test_a_stopped_model_answers_no_more(data: images.Images) -> None:
    model = of_module(pictures.trained(), 10, data.shape)
    model.stop()
    with pytest.raises(InterruptedError):
        model.predict(data.x)


# --- Foreign code -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_networks_file_is_attacked_in_the_sandbox_as_it_would_be_here(
    data: images.Images, tmp_path: Path, launcher: Launcher
) -> None:
    pictures.own(tmp_path)
    model = load(tmp_path / "model.safetensors", str(tmp_path / "mine.py"), 10, data.shape)
    try:
        there = bench(model, data)
        assert model.isolation is not None and model.parameters == 64 * 16 + 16 + 16 * 10 + 10
        networks.use({"mine": (tmp_path / "mine.py").read_text("utf-8")})
        here = bench(load(tmp_path / "model.safetensors", "mine", 10, data.shape), data)
        assert np.abs(here.given.log_posteriors - there.given.log_posteriors).max() < 1e-5
        for name in ("grad_norm", "ml_doctor_white_box_partial", "song_adversarial", "near_copies"):
            part = registry().attack(name)
            at_home, away = (b.run(part) for b in (here, there))
            assert (at_home.rows == away.rows).all() and at_home.queries == away.queries
            assert np.allclose(at_home.scores, away.scores, rtol=1e-3, atol=1e-4), name
    finally:
        networks.discover()
        model.close()


@pytest.mark.slow
def test_torchscript_runs_in_a_sandbox_and_shows_no_layers(
    data: images.Images, tmp_path: Path, launcher: Launcher
) -> None:
    torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))).save(tmp_path / "m.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match=r"m\.pt: expected weights, given TorchScript; say so by --torchscript"):
        load(tmp_path / "m.pt", "mlp", 10, data.shape)
    model = load(tmp_path / "m.pt", "", 10, data.shape, mean=[0.5], std=[0.25], torchscript=True)
    try:
        own: nn.Module = torch.jit.load(tmp_path / "m.pt")  # type: ignore[no-untyped-call]
        expected = own((data.x - 0.5) / 0.25).double().log_softmax(1)
        assert torch.allclose(model.predict(data.x), expected.detach(), atol=1e-5)
        _, left = pool(registry(), bench(model, data).given, bench(model, data))
        assert {x.name for x in left if "TorchScript is run as it is" in x.reason} >= {"grad_norm", "song_adversarial"}
    finally:
        model.close()


@pytest.mark.slow
def test_onnx_runs_in_a_sandbox(data: images.Images, tmp_path: Path, launcher: Launcher) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    onnx = pytest.importorskip("onnx", reason="makes the file")
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(64, 10)).astype(np.float32), rng.normal(size=10).astype(np.float32)
    h = onnx.helper
    graph = h.make_graph(
        [h.make_node("Flatten", ["x"], ["f"]), h.make_node("Gemm", ["f", "w", "b"], ["y"])], "g",
        [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [7, 1, 8, 8])],
        [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [7, 10])],
        [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx", "", 10, data.shape)
    try:
        expected = (data.x.flatten(1) @ torch.from_numpy(w) + torch.from_numpy(b)).double().log_softmax(1)
        assert torch.allclose(model.predict(data.x), expected, atol=1e-4), "seven at a time, as it was exported"
    finally:
        model.close()


def test_an_onnx_file_names_the_extra_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected onnxruntime .* python -m pip install 'leakboard\[onnx\]'"):
        load(tmp_path / "m.onnx", "", 10, (1, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tries", "message"),
    [
        ("import os\nraise ValueError([os.path.exists(p) for p in PATHS])", r"\[False, False, False\]"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 1))", "PermissionError|Operation not permitted"),
        ("open('/leakboard/benchmark/mine', 'w')", "Read-only file system|Permission denied"),
        ("import os\nos._exit(0)", "its process ended with exit code 0"),
        ("return nn.Linear(1, 1)", "expected a Network of 10 classes, given Linear"),
    ],
)
def test_a_networks_file_sees_neither_home_nor_data_nor_network(
    data: images.Images, tmp_path: Path, launcher: Launcher, tries: str, message: str
) -> None:
    paths = [str(tmp_path), str(tmp_path / "model.safetensors"), __file__]
    pictures.own(tmp_path, tries.replace("PATHS", repr(paths)))
    assert all(Path(p).exists() for p in paths)
    with pytest.raises(UserError, match=message) as told:
        load(tmp_path / "model.safetensors", str(tmp_path / "mine.py"), 10, data.shape)
    assert str(told.value).count("\n") == 0


@pytest.mark.slow
def test_a_networks_file_that_turns_on_the_audit_ends_it_in_one_line(
    data: images.Images, tmp_path: Path, launcher: Launcher
) -> None:
    """It answers one black image, and later dies."""
    own = pictures.OWN.replace("return Network(", "return Mine(") + (
        "\n\nclass Mine(Network):\n    def forward(self, x):\n        return super().forward(x) if len(x) == 1 else exit(0)\n"
    )
    pictures.own(tmp_path)
    (tmp_path / "mine.py").write_text(own.replace("TRIES", "pass"), "utf-8")
    model = load(tmp_path / "model.safetensors", str(tmp_path / "mine.py"), 10, data.shape)
    try:
        with pytest.raises(UserError, match=r"mine\.py: expected answers, given that the model failed"):
            live.ask_all(model, data, registry(), 0)
    finally:
        model.close()


# --- Mistakes ---------------------------------------------------------------------------------------


def test_weights_of_timms_network_of_that_name_are_told(data: images.Images, tmp_path: Path) -> None:
    weights = given.from_timm("resnet18", 10, data.shape).state_dict()
    save_file({n: t for n, t in weights.items() if not n.endswith("num_batches_tracked")}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"its tensors have the names of timm's: --network timm:resnet18$"):
        load(tmp_path / "m.safetensors", "resnet18", 10, data.shape)
    with pytest.raises(UserError, match="such as") as raised:
        load(tmp_path / "m.safetensors", "resnet34", 10, data.shape)
    assert "timm" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network": "vgg11"},
            r"vgg11: expected its \d+ tensors, given none of \d+ tensors such as \S+ and \d+ others",
        ),
        ({"network": "smal_cnn"}, "unknown architecture 'smal_cnn'; did you mean 'small_cnn'"),
        ({"network": ""}, "expected --network with it"),
        ({"network": "timm:resnet1888"}, "unknown network of timm 'resnet1888'; did you mean"),
        ({"network": "timm:hf-hub:somebody/model"}, "unknown network of timm 'hf-hub:somebody/model'"),
        ({"network": "gone.py"}, "gone.py: expected a network's file that can be read"),
        (
            {"classes": 7},
            r"expected head.weight of shape \(7, 64\), given \(10, 64\); is it another network, or another number of --classes",
        ),
        ({"shape": (3, 8, 8)}, r"expected \S+ of shape .* or --channels"),
        ({"shape": (1, 4, 4)}, "expected"),
        ({"mean": [0.5]}, "expected --mean and --std together, given one"),
        ({"mean": [0.5] * 2, "std": [0.5]}, "--mean: expected 1 or 1 numbers, one a channel, given 2"),
        ({"mean": [0.5], "std": [0]}, "--mean, --std: expected finite numbers, those of --std above 0, given 0.5, 0"),
        ({"mean": [0.5], "std": [0.5]}, "networks of this form normalise their images themselves"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_file(pictures.trained().state_dict(), tmp_path / "model.safetensors")
    given = {"network": "small_cnn", "classes": 10, "shape": pictures.SHAPE} | change
    network, classes, shape = given.pop("network"), given.pop("classes"), given.pop("shape")
    with pytest.raises(UserError, match=message) as told:
        load(tmp_path / "model.safetensors", network, classes, shape, **given)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


def test_nan_is_refused_with_how_many(data: images.Images) -> None:
    network = pictures.trained()

    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = network(x)
            return (
                logits / (x.amax((1, 2, 3)) < 0.99).float().mul(0).add(float("nan")).unsqueeze(1)
                if len(x) > 1
                else logits
            )

    with pytest.raises(
        UserError, match=r"Half: expected finite logits, given NaN or infinite ones for \d+ of \d+ images"
    ):
        live.ask_all(of_module(Half(), 10, data.shape), data, registry(), 0)


def test_a_module_that_takes_other_images_is_refused(data: images.Images) -> None:
    with pytest.raises(
        UserError, match=r"expected a network that takes float32 images \(n, 1, 8, 8\), given RuntimeError"
    ):
        of_module(nn.Conv2d(3, 1, 3), 10, data.shape)
    with pytest.raises(UserError, match=r"expected logits of 10 classes, given 64"):
        of_module(nn.Flatten(), 10, data.shape)
    with pytest.raises(
        UserError,
        match=r"expected logits \(n, 10\) of n images, as a tensor or as `logits` of an object, given shape \(1, 1, 8, 8\)",
    ):
        of_module(nn.Identity(), 10, data.shape)

    class Answers(nn.Module):
        def __init__(self, **answer: object) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(**self.answer)

    with pytest.raises(UserError, match=r"as `logits` of an object, given SimpleNamespace"):
        of_module(Answers(scores=torch.zeros(1, 10)), 10, data.shape)
    with pytest.raises(UserError, match=r"expected logits of 10 classes, given 9"):
        of_module(Answers(logits=torch.zeros(1, 9)), 10, data.shape)
    with pytest.raises(UserError, match=r"expected a torch\.nn\.Module, images -> logits, given int"):
        of_module(3, 10, data.shape)  # type: ignore[arg-type]


def test_costs_are_those_of_the_pool(data: images.Images) -> None:
    """What an attack says it asks is what it asks, but for what it asks once: noise images, and batches that it fills up."""
    audited = bench(of_module(pictures.trained(), 10, data.shape), data, queries=12_000)
    assert isinstance(audited.live, Live) and audited.live.costs["near_copies"] == Cost(16, 0)
    for name in (
        "near_copies",
        "nn_augmented",
        "label_only_augmentation",
        "label_only_boundary[queries=250]",
        "label_only_noise",
    ):
        part = registry().attack(name)
        outcome = audited.run(part)
        asked = outcome.queries * int((audited.counted(part) | audited.calibrating(part)).sum())
        assert abs(asked - audited.passes(part)) <= 0.05 * audited.passes(part) + 3000, name
