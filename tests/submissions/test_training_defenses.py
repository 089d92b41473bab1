"""Training defenses against closed forms, slow loops and independent implementations, on tiny tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting import pld
from opacus.accountants import RDPAccountant
from scipy.optimize import brentq
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmark.api import Context, Defense, Samples
from benchmark.entries.registry import Registry
from benchmark.networks.optimizers import as_asked
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Recipe
from submissions.defenses import advreg, distillation, dp_sgd, hamp, mixup_mmd, relaxloss, selena, undefended

CPU = torch.device("cpu")
CLASSES = 4
NEW = (advreg, mixup_mmd, distillation, selena, relaxloss, hamp)
SUBMISSIONS = Path(__file__).parents[2] / "submissions"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadrants(n: int, seed: int) -> Samples:
    """8 x 8 images of four classes: a brighter quadrant under noise."""
    g = generator(seed)
    y = torch.randint(CLASSES, (n,), generator=g)
    bright = nn.functional.one_hot(y, CLASSES).float().view(n, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return Samples(((torch.rand(n, 1, 8, 8, generator=g) * 0.6 + 0.3 * bright) * 255).round() / 255, y)


def make_training(n: int = 40, architecture: str = "small_cnn", reference: int = 30, **recipe: Any) -> TrainingRun:
    settings = {"learning_rate": 0.05, "epochs": 2, "batch_size": 10} | recipe
    return TrainingRun(
        train=quadrants(n, 0), reference=quadrants(reference, 1), validation=quadrants(20, 2), classes=CLASSES,
        recipe=Recipe(**settings), architecture=architecture, simple={"pad": 1, "flip": True}, seed=5, device=CPU,
        uses=("reference", "validation"),
    )  # fmt: skip


def make(module: Any, **params: Any) -> Any:
    cls = next(c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Defense) and c is not Defense)
    return cls(cls.Params(**params))


def gap(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def batch(n: int = 12, k: int = CLASSES, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    return torch.randn(n, k, generator=g, dtype=torch.float64) * scale, torch.randint(k, (n,), generator=g)


def among(x: Tensor, pool: Tensor) -> Tensor:
    """Which images (n,) are equal to one of the pool's."""
    return (x.flatten(1).unsqueeze(1) == pool.flatten(1)).all(2).any(1)


# --- All of them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", NEW)
def test_each_trains_a_network_with_batch_norm(module):
    params = {"models": 3, "left_out": 1} if module is selena else {}
    task = make_training(n=16, architecture="resnet18", reference=16, batch_size=8, learning_rate=0.01)
    defense = make(module, **params)
    trained, fresh = defense.train(task), task.build()
    assert not trained.training
    assert any(isinstance(m, nn.BatchNorm2d) for m in trained.modules())
    assert all(t.isfinite().all() for t in trained.state_dict().values())
    assert gap(trained, fresh) > 1e-3
    defense.network(task).load_state_dict(trained.state_dict())


@pytest.mark.parametrize("module", [advreg, mixup_mmd])
def test_no_reference_part_is_one_line(module):
    with pytest.raises(ValueError, match="expected a split with a reference part, given none"):
        make(module).train(make_training(reference=0))


@pytest.mark.parametrize("module", [advreg, mixup_mmd])
def test_what_reads_the_reference_part_declares_it(module):
    entry = Registry(SUBMISSIONS).entry("defense", module.__name__.rpartition(".")[2])
    assert set(entry.uses) == {"reference"}


@pytest.mark.parametrize("module", NEW)
def test_bfloat16_and_channels_last_are_honoured(module):
    params = {"models": 3, "left_out": 1} if module is selena else {}
    task = make_training(precision="bfloat16", channels_last=True, augmentation="simple")
    trained = make(module, **params).train(task)
    assert gap(trained, make(module, **params).train(make_training(augmentation="simple"))) > 0
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trained.parameters())


def training_defenses() -> list[Any]:
    registry = Registry(SUBMISSIONS)
    found = [registry.entry("defense", p.stem) for p in sorted((SUBMISSIONS / "defenses").glob("[a-z]*.py"))]
    return [entry for entry in found if "training" in entry.stages]


@pytest.mark.parametrize("entry", training_defenses(), ids=lambda entry: entry.id)
def test_a_recipe_with_amsgrad_reaches_every_network_that_is_trained_by_it(entry):
    """Also where the defense makes the recipe's optimizer itself. Networks of a defense's own, such as AdvReg's attack, have their own."""
    params = {
        "label_smoothing": {"epsilon": 0.1},
        "selena": {"models": 3, "left_out": 1},
        "pgd_training": {"steps": 1},
        "trades": {"steps": 1},
        "wrm": {"steps": 1},
    }
    recipe = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 1, "ensemble": 1}
    task = as_asked(make_training(n=12, reference=12, batch_size=6, amsgrad=True, **recipe))
    shapes = [p.shape for p in task.build().parameters()]
    met: list[str] = []

    def note(update: torch.optim.Optimizer, *_: Any) -> None:
        own = [p for group in update.param_groups for p in group["params"]]
        if [p.shape for p in own] == shapes:
            met.append(type(update).__name__)
            assert not isinstance(update, torch.optim.Adam) or all("max_exp_avg_sq" in update.state[p] for p in own)

    handle = register_optimizer_step_post_hook(note)
    try:
        cls = entry.load()
        cls(cls.Params(**params.get(entry.id, {}))).train(task)
    finally:
        handle.remove()
    kinds = {"constant_output": set(), "distillation": {"Adam", "SGD"}}.get(
        entry.id, {"Adam"}
    )  # the student's SGD is the paper's
    assert set(met) - {"DPOptimizer"} == kinds


def test_dp_sgd_without_noise_and_clipping_is_pytorchs_amsgrad():
    """One batch of all samples an epoch, so that nothing is drawn."""
    recipe = {
        "optimizer": "adam",
        "learning_rate": 0.05,
        "weight_decay": 0.0,
        "schedule": "constant",
        "epochs": 12,
        "batch_size": 12,
    }
    trained = {}
    for amsgrad in (True, False):
        task = as_asked(make_training(n=12, amsgrad=amsgrad, **recipe))
        trained[amsgrad] = make(dp_sgd, noise_multiplier=1e-30, max_grad_norm=1e3).train(task)
    expected = task.build().train()
    update = torch.optim.Adam(expected.parameters(), 0.05, amsgrad=True)
    for _ in range(12):
        update.zero_grad()
        nn.functional.cross_entropy(expected(task.train.x), task.train.y).backward()
        update.step()
    assert gap(trained[True], expected) < 1e-3 < 0.02 < gap(trained[False], expected)


# --- AdvReg -----------------------------------------------------------------------------------------


class Identity(nn.Module):
    """A model whose images are its logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("as_released", [False, True])
def test_advreg_trains_the_attack_with_members_as_one(as_released):
    """One step of plain gradient descent, by the formula written out sample by sample."""
    defense = make(advreg, as_released=as_released)
    h = advreg.InferenceNetwork(CLASSES, generator()).double()
    before = {name: p.clone() for name, p in h.named_parameters()}
    sides = [Samples(*batch(5, seed=1)), Samples(*batch(7, seed=2))]
    total = 0.0
    for side, truth in zip(sides, (1.0, 0.0), strict=True):
        for logits, label in zip(side.x, side.y, strict=True):
            p = torch.sigmoid(h(logits.softmax(0)[None], label[None]))[0]
            total = total + ((p - truth) ** 2 if as_released else -torch.log(p if truth else 1 - p))
    expected = torch.autograd.grad(total / 12, list(h.parameters()))
    defense.improve(h, torch.optim.SGD(h.parameters(), 0.5), Identity(), *sides)
    for (name, p), gradient in zip(h.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), before[name] - 0.5 * gradient)
    assert max(float(g.abs().max()) for g in expected) > 1e-3
    assert not any(p.requires_grad for p in h.parameters())


@pytest.mark.parametrize("as_released", [False, True])
def test_advreg_penalty_is_what_the_attack_gains_on_members(as_released):
    logits, y = batch()
    logits.requires_grad_()
    h = advreg.InferenceNetwork(CLASSES, generator()).double()
    p = torch.sigmoid(h(logits.softmax(1), y))
    value = make(advreg, as_released=as_released).penalty(h, logits, y)
    torch.testing.assert_close(value, p.mean() - 0.5 if as_released else p.log().mean())
    h.requires_grad_(False)
    (gradient,) = torch.autograd.grad(make(advreg, as_released=as_released).penalty(h, logits, y), logits)
    step = 1e-6 * gradient
    moved = make(advreg, as_released=as_released).penalty(h, logits.detach() - step, y)
    assert float((value - moved).detach()) == pytest.approx(1e-6 * float(gradient.square().sum()), rel=1e-3)
    assert gradient.abs().max() > 1e-6


def test_advreg_plays_the_game_with_the_right_data(monkeypatch):
    """Members come from the training part, others from the reference part; the model's step leaves h as it is."""
    task, seen, states = make_training(), [], []
    improve = advreg.AdvReg.improve

    def watched(self, h, optimizer, answering, members, others):
        if states:
            assert all(torch.equal(p, states[-1][name]) for name, p in h.named_parameters())
        start = {name: p.clone() for name, p in h.named_parameters()}
        improve(self, h, optimizer, answering, members, others)
        states.append({name: p.clone() for name, p in h.named_parameters()})
        assert any(not torch.equal(p, start[name]) for name, p in states[-1].items())
        seen.append((members, others))

    monkeypatch.setattr(advreg.AdvReg, "improve", watched)
    make(advreg, attack_steps=2).train(task)
    assert len(seen) == 2 * 4 * 2  # epochs x batches x steps
    for members, others in seen:
        assert among(members.x, task.train.x).all() and among(others.x, task.reference.x).all()
        assert len(members) == len(others) == 10
    assert len(torch.cat([m.x for m, _ in seen]).unique(dim=0)) > 30, "all of the training set takes part"


@pytest.mark.parametrize("architecture", ["small_cnn", "vgg11"])
def test_advreg_of_weight_zero_is_the_recipe(architecture):
    """The attack's queries move nothing of the model, not even the statistics of BatchNorm."""
    task = make_training(architecture=architecture, learning_rate=0.01)
    plain = make(undefended).train(task)
    assert gap(make(advreg, weight=0.0).train(task), plain) == 0
    assert gap(make(advreg, weight=5.0).train(task), plain) > 1e-4


def test_advreg_as_released_begins_plainly(monkeypatch):
    steps = []
    improve = advreg.AdvReg.improve
    monkeypatch.setattr(advreg.AdvReg, "improve", lambda *a: (steps.append(1), improve(*a)))
    defense = make(advreg, weight=5.0, as_released=True)
    assert gap(defense.train(make_training(epochs=1)), make(undefended).train(make_training(epochs=1))) == 0
    assert len(steps) == 4 * 5
    assert gap(defense.train(make_training(epochs=2)), make(undefended).train(make_training(epochs=2))) > 0
    assert len(steps) == 4 * 5 + 4 * (5 + 1)


def test_advreg_attack_network_starts_from_its_generator():
    state = torch.get_rng_state()
    plain, released = (advreg.InferenceNetwork(10, generator(), d) for d in (None, 0.01))
    assert torch.equal(torch.get_rng_state(), state)
    shapes = [tuple(p.shape) for p in plain.parameters() if p.ndim == 2]
    assert shapes == [
        (1024, 10),
        (512, 1024),
        (64, 512),
        (128, 10),
        (64, 128),
        (256, 128),
        (128, 256),
        (64, 128),
        (1, 64),
    ]
    for p, q in zip(plain.parameters(), released.parameters(), strict=True):
        if p.ndim == 2 and p.numel() > 1000:
            assert p.detach().std() == pytest.approx((3 * p.shape[1]) ** -0.5, rel=0.1)
            assert q.detach().std() == pytest.approx(0.01, rel=0.1)
        assert p.ndim == 2 or not q.detach().any()


# --- MixupMMD ---------------------------------------------------------------------------------------


def test_mmd_is_the_double_loop():
    a, b = (batch(n, seed=n)[0].softmax(1) for n in (6, 9))

    def kernel(one: Tensor, two: Tensor) -> float:
        pairs = [math.exp(-float(((p - q) ** 2).sum()) / 2) for p in one for q in two]
        return sum(pairs) / len(pairs)

    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    assert float(mixup_mmd.squared_mmd(a, b)) == pytest.approx(expected, rel=1e-12)
    assert expected > 1e-3
    assert float(mixup_mmd.squared_mmd(a, a)) == pytest.approx(0, abs=1e-15)


def test_mixed_loss_is_cross_entropy_against_mixed_labels():
    logits, y = batch()
    other = y.roll(1)
    labels = 0.3 * nn.functional.one_hot(y, CLASSES) + 0.7 * nn.functional.one_hot(other, CLASSES)
    expected = nn.functional.cross_entropy(logits, labels.double())
    torch.testing.assert_close(mixup_mmd.mixed_loss(logits, y, other, 0.3), expected)


def test_partners_have_the_same_class_and_are_drawn_evenly():
    pool = torch.tensor([2, 0, 2, 0, 2, 2])  # nobody of class 1
    partners = mixup_mmd.Partners(pool, 3)
    y = torch.tensor([0, 1, 2, 2]).repeat(2000)
    known, chosen = partners.draw(y, generator())
    assert torch.equal(known, (y != 1).nonzero().squeeze(1))
    assert torch.equal(pool[chosen], y[known])
    for label, rows in ((0, [1, 3]), (2, [0, 2, 4, 5])):
        counts = torch.bincount(chosen[y[known] == label], minlength=6)[rows]
        assert chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [(0.93, 0.9, True), (0.9, 0.93, True), (0.9299, 0.9, False), (1.0, 0.97, True), (0.5, 0.5, False)],
)
def test_the_second_pass_begins_at_three_points(inside, outside, expected):
    assert make(mixup_mmd).applies(inside, outside) is expected


@pytest.mark.parametrize("far", [True, False])
def test_the_second_pass_runs_where_the_gap_is_wide_and_never_last(monkeypatch, far):
    calls, squared_mmd = [], mixup_mmd.squared_mmd

    def watched(members, others):
        assert members.requires_grad and not others.requires_grad
        calls.append(len(members))
        return squared_mmd(members, others)

    sides = iter([1.0, 0.9 if far else 0.98] * 10)
    monkeypatch.setattr(mixup_mmd, "accuracy", lambda network, samples: next(sides))
    monkeypatch.setattr(mixup_mmd, "squared_mmd", watched)
    trained = make(mixup_mmd).train(make_training(epochs=3))
    assert calls == ([10] * 8 if far else [])
    # Without it, the learning rate still falls from epoch to epoch.
    assert (gap(trained, make(mixup_mmd, weight=0.0).train(make_training(epochs=3))) > 0) is far


def test_the_second_pass_leaves_batch_norm_statistics_alone(monkeypatch):
    monkeypatch.setattr(mixup_mmd, "accuracy", lambda network, samples: float(len(samples) == 40))
    seen = []

    def watched(members, others):
        seen.append(1)
        return members.sum() * 0.0

    monkeypatch.setattr(mixup_mmd, "squared_mmd", watched)
    task = make_training(architecture="vgg11", weight_decay=0.0, momentum=0.0)
    with_pass, without = make(mixup_mmd).train(task), make(mixup_mmd, weight=0.0).train(task)
    assert len(seen) == 4
    buffers = zip(with_pass.named_buffers(), without.named_buffers(), strict=True)
    counts = {float(b) for (name, b), _ in buffers if name.endswith("num_batches_tracked")}
    assert counts == {8.0}  # two epochs of four batches


def test_mixup_pass_is_the_slow_one():
    """One epoch: soft labels through PyTorch's own cross-entropy, and mixing sample by sample."""
    task = make_training(epochs=1, momentum=0.0, weight_decay=0.0)
    trained = make(mixup_mmd, mixup=0.5).train(task)
    network = task.build()
    order, pairing = task.generator("order"), task.generator("pairing")
    beta = np.random.default_rng(int(torch.randint(2**62, (), generator=task.generator("mixup"))))
    labels = nn.functional.one_hot(task.train.y, CLASSES).float()
    for rows in torch.randperm(40, generator=order).split(10):
        share, other = beta.beta(0.5, 0.5), rows[torch.randperm(10, generator=pairing)]
        mixed = [share * t[rows] + (1 - share) * t[other] for t in (task.train.x, labels)]
        loss = nn.functional.cross_entropy(network(mixed[0].float()), mixed[1].float())
        for p, g in zip(network.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True):
            p.data -= 0.05 * g
    assert gap(trained, network) < 1e-6
    assert gap(trained, task.build()) > 1e-3


# --- Distillation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize(("temperature", "share"), [(20.0, 0.7), (1.0, 1.0), (4.0, 0.0)])
def test_distillation_agrees_with_torch(as_released, temperature, share):
    (logits, y), (taught, _) = batch(), batch(seed=1)
    defense = make(distillation, temperature=temperature, soft_weight=share, as_released=as_released)
    soft = nn.KLDivLoss(reduction="batchmean")((logits / temperature).log_softmax(1), (taught / temperature).softmax(1))
    expected = share * temperature**2 * soft * (2 if as_released else 1)
    expected = expected + (1 - share) * nn.functional.cross_entropy(logits, y)
    losses = defense.student_loss(logits, taught, y)
    assert losses.shape == (12,)
    torch.testing.assert_close(losses.mean(), expected)


class Recorder(nn.Module):
    """Fixed linear logits; remembers what it was asked."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, CLASSES, generator=generator(seed)))
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return x.flatten(1) @ self.weight


def test_the_teacher_answers_for_the_augmented_batch(monkeypatch):
    task, teacher, student = make_training(augmentation="simple"), Recorder(1), Recorder(2)
    start = teacher.weight.detach().clone()
    monkeypatch.setattr(task, "fit_each", lambda rows, name: [teacher])
    defense = make(distillation)
    monkeypatch.setattr(defense, "network", lambda task: student)
    defense.train(task)
    asked = torch.cat(teacher.asked)
    assert torch.equal(asked, torch.cat(student.asked))
    assert len(asked) == 80 and not among(asked, task.train.x).all()
    assert torch.equal(teacher.weight, start)


def test_the_teacher_is_named_or_the_same_network_from_another_start(monkeypatch):
    task, named, fitted = make_training(), [], []
    build, fit = task.build, task.fit

    def watched(network, **kinds):
        fitted.append(network.state_dict()["head.weight"].clone())
        return fit(network, **kinds)

    monkeypatch.setattr(task, "build", lambda name=None: (named.append(name), build(name))[1])
    monkeypatch.setattr(task, "fit", watched)
    make(distillation, teacher="simple_cnn").train(task)
    assert named == ["simple_cnn", None]
    assert fitted[0].shape == (CLASSES, 128) and fitted[1].shape == (CLASSES, 64)
    task = make_training()
    (teacher,) = task.fit_each([torch.arange(40)], "teacher")
    assert gap(teacher, task.fit(task.build())) > 1e-2


def test_the_student_learns_at_its_own_rate(monkeypatch):
    task, rates = make_training(), []
    fit = task.fit

    def watched(network, **kinds):
        rates.append([group["lr"] for group in kinds["optimizer"](list(network.parameters())).param_groups])
        return fit(network, **kinds)

    monkeypatch.setattr(task, "fit_each", lambda rows, name: [Recorder(1)])
    monkeypatch.setattr(task, "fit", watched)
    trained = [make(distillation, learning_rate=rate).train(task) for rate in (0.01, 0.001)]
    assert rates == [[0.01], [0.001]]
    assert gap(*trained) > 1e-3


# --- SELENA -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "models", "left_out"), [(60, 25, 10), (1000, 25, 10), (7, 5, 2), (101, 3, 2), (3, 50, 49)]
)
def test_each_sample_is_left_out_of_exactly_l_models_of_even_size(n, models, left_out):
    out = selena.assign(n, models, left_out, generator())
    assert out.shape == (n, models) and out.dtype == torch.bool
    assert (out.sum(1) == left_out).all()
    assert out.sum(0).max() - out.sum(0).min() <= 1
    assert not torch.equal(out, selena.assign(n, models, left_out, generator(1)))


def test_which_models_leave_a_sample_out_is_random():
    """Pairs of sub-models share as many left-out samples as independent draws of ten among 25 would."""
    out = selena.assign(5000, 25, 10, generator()).double()
    shared = (out.T @ out)[torch.triu(torch.ones(25, 25, dtype=torch.bool), 1)] / 5000
    p = 10 * 9 / (25 * 24)
    assert float(shared.mean()) == pytest.approx(p, rel=1e-9)
    assert (shared - p).abs().max() < 4.5 * math.sqrt(p * (1 - p) / 5000)


def test_left_out_must_be_fewer_than_the_models():
    with pytest.raises(ValueError, match="left_out: expected below models = 5, given 5"):
        make(selena, models=5, left_out=5).train(make_training())


@pytest.mark.parametrize("augmentation", ["none", "simple"])
def test_selena_teaches_what_models_say_that_never_saw_the_sample(monkeypatch, augmentation):
    """The soft labels against a loop over samples and models, from the rows that each model was trained on."""
    task, given = make_training(n=23, augmentation=augmentation), {}
    networks = [Recorder(i) for i in range(6)]
    monkeypatch.setattr(task, "fit_each", lambda rows, name: given.update(rows=rows) or networks)
    monkeypatch.setattr(task, "fit", lambda network, **kinds: given.update(kinds) or network)
    make(selena, models=6, left_out=2).train(task)
    rows, targets = [set(r.tolist()) for r in given["rows"]], given["targets"]
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    for j in range(23):
        unseen = [i for i in range(6) if j not in rows[i]]
        assert len(unseen) == 2
        answers = [(task.train.x[j].flatten() @ networks[i].weight).softmax(0).tolist() for i in unseen]
        expected = [(a + b) / 2 for a, b in zip(*answers, strict=True)]
        assert targets[j].tolist() == pytest.approx(expected, abs=1e-6)
    for i, network in enumerate(networks):
        assert not among(torch.cat(network.asked), task.train.x[list(rows[i])]).any()
    torch.testing.assert_close(targets.sum(1), torch.ones(23))


def test_selena_trains_sub_models_on_their_rows_alone():
    """Of samples it is left out of, a sub-model learns nothing: other images there change none of its weights."""
    out = selena.assign(40, 4, 2, generator())
    rows = (~out[:, 0]).nonzero().squeeze(1)
    one, other = make_training(), make_training()
    other.samples["train"] = Samples(torch.where(out[:, 0].view(-1, 1, 1, 1), 0.5, one.train.x), one.train.y)
    assert gap(one.fit_each([rows], "selena")[0], other.fit_each([rows], "selena")[0]) == 0


def test_soft_cross_entropy_agrees_with_torch():
    logits, _ = batch()
    targets = batch(seed=3)[0].softmax(1)
    expected = nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(selena.soft_cross_entropy(logits, targets), expected)


# --- RelaxLoss --------------------------------------------------------------------------------------


def slow_relaxloss(logits: Tensor, y: Tensor, epoch: int, alpha: float, upper: float, attached: bool) -> Tensor:
    """Algorithm 1 of Chen et al. for one batch, sample by sample."""
    losses = [-z.softmax(0)[label].log() for z, label in zip(logits, y, strict=True)]
    mean = sum(losses) / len(losses)
    if epoch % 2 == 0:
        return mean - alpha if mean > alpha else alpha - mean
    if mean > alpha:
        return mean
    total = 0.0
    for z, label, loss in zip(logits, y, losses, strict=True):
        total = total - loss
        if z.argmax() != label:
            p = z.softmax(0)
            kept = min(p[label], torch.tensor(upper, dtype=p.dtype))
            kept = kept if attached else kept.detach()
            for c in range(len(z)):
                share = kept if c == label else (1 - kept) / (len(z) - 1)
                total = total - share * p[c].log()
    return total / len(y)


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("upper", [1.0, 0.2])
@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_relaxloss_is_the_slow_one_on_both_sides_of_alpha(epoch, above, upper, as_released):
    logits, y = batch(n=20)
    level = float(nn.functional.cross_entropy(logits, y))
    assert 0 < (logits.argmax(1) == y).sum() < 20
    alpha = level + (-1e-6 if above else 1e-6)
    defense = make(relaxloss, alpha=alpha, upper=upper, as_released=as_released)
    values, gradients = [], []
    for rule in (defense.relaxed, lambda z, y, e: slow_relaxloss(z, y, e, alpha, upper, as_released)):
        z = logits.clone().requires_grad_()
        values.append(rule(z, y, epoch))
        gradients.append(torch.autograd.grad(values[-1], z)[0])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    downhill = torch.autograd.grad(nn.functional.cross_entropy(z, y), z)[0]
    assert (float((gradients[0] * downhill).sum()) > 0) is above, "it descends above alpha and climbs below"


def test_relaxloss_detaches_its_soft_label_unless_as_released():
    logits, y = batch(n=20)
    gradients = []
    for as_released in (False, True):
        z = logits.clone().requires_grad_()
        gradients.append(
            torch.autograd.grad(make(relaxloss, alpha=9.0, as_released=as_released).relaxed(z, y, 1), z)[0]
        )
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_relaxloss_counts_epochs_and_holds_the_loss(monkeypatch):
    epochs, relaxed = [], relaxloss.RelaxLoss.relaxed
    monkeypatch.setattr(
        relaxloss.RelaxLoss, "relaxed", lambda self, z, y, epoch: (epochs.append(epoch), relaxed(self, z, y, epoch))[1]
    )
    task = make_training(epochs=60, weight_decay=0.0)
    network = make(relaxloss, alpha=0.6).train(task)
    assert epochs == [e for e in range(60) for _ in range(4)]
    plain = make(undefended).train(task)
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(n(task.train.x), task.train.y)) for n in (network, plain)]
    assert losses[0] == pytest.approx(0.6, abs=0.25)
    assert losses[1] < 0.05


def test_relaxloss_refuses_a_level_that_guessing_reaches():
    with pytest.raises(ValueError, match=r"alpha: expected below ln k = 1\.386 for 4 classes, given 1\.4"):
        make(relaxloss, alpha=1.4).train(make_training())


# --- HAMP -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4, 10, 100])
@pytest.mark.parametrize("gamma", [0.05, 0.5, 0.8, 0.95, 0.999])
def test_the_soft_label_has_the_entropy_asked_for(classes, gamma):
    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log((1 - p) / (classes - 1))

    root = brentq(lambda p: entropy(p) - gamma * math.log(classes), 1 / classes, 1 - 1e-15, xtol=1e-15)
    assert hamp.true_share(gamma, classes) == pytest.approx(root, abs=1e-7)
    assert entropy(hamp.true_share(gamma, classes)) == pytest.approx(gamma * math.log(classes), rel=1e-9)
    assert hamp.true_share(gamma, classes) > 1 / classes


@pytest.mark.parametrize(("gamma", "alpha", "k"), [(0.95, 0.001, 10), (0.5, 0.3, 4), (0.7, 0.0, 2)])
def test_hamp_loss_is_theirs_times_the_classes(gamma, alpha, k):
    """KL averaged over samples and classes, entropy over samples, both by torch."""
    logits, y = batch(k=k)
    p = hamp.true_share(gamma, k)
    target = torch.full((12, k), (1 - p) / (k - 1), dtype=torch.float64).scatter(1, y.unsqueeze(1), p)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    theirs = nn.KLDivLoss(reduction="batchmean")(logits.log_softmax(1), target) / k - alpha * entropy
    losses = make(hamp, gamma=gamma, alpha=alpha).loss(logits, y)
    assert losses.shape == (12,)
    torch.testing.assert_close(losses.mean(), k * theirs)


def test_hamp_is_trained_plainly():
    """Its reference models may train as one ensemble, and the judge may serve its weights."""
    entry = Registry(SUBMISSIONS).entry("defense", "hamp")
    assert entry.plain_training and entry.stages == ("training", "post-inference")


def context(key: bytes = b"secret") -> Context:
    return Context(key=key, device=CPU, remember=lambda name, x, make: make())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    made = make(hamp).train(make_training(epochs=20))
    return made


@pytest.fixture
def asked() -> list[Tensor]:
    return []


@pytest.fixture
def predict(network, asked):
    @torch.no_grad()
    def predict(x: Tensor) -> Tensor:
        asked.append(x)
        return network(x).double().log_softmax(1)

    return predict


def test_hamp_answers_keep_every_ranking_and_label(predict, asked):
    task = make_training(n=200, reference=200)
    x = torch.cat([task.train.x, task.reference.x])
    clean = predict(x)
    asked.clear()
    answer = make(hamp).guard(predict, {}, context())(x)
    assert torch.equal(answer.argmax(1), clean.argmax(1))
    assert torch.equal(answer.argsort(1), clean.argsort(1))
    assert [len(a) for a in asked] == [400, 400], "one more prediction a query, in a batch"
    noise = next(a for a in asked if not torch.equal(a, x))
    assert not among(noise, x).any()
    torch.testing.assert_close(noise * 255, (noise * 255).round(), rtol=0, atol=1e-4)
    assert noise.min() >= 0 and noise.max() <= 1
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01) and float(noise.std()) == pytest.approx(
        12**-0.5, abs=0.01
    )
    # Confidences are those of noise: nothing of the query's own is left but its ranking.
    torch.testing.assert_close(answer.sort(1).values, predict(noise).sort(1).values, rtol=0, atol=0)
    assert (answer - clean).abs().amax(1).median() > 0.01


def test_hamp_answers_a_query_alike_in_any_batch(predict):
    x = make_training().train.x
    guarded = make(hamp).guard(predict, {}, context())
    whole = guarded(x)
    torch.testing.assert_close(guarded(x.flip(0)).flip(0), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([guarded(x[i : i + 1]) for i in range(40)]), whole, rtol=0, atol=1e-5)
    assert (make(hamp).guard(predict, {}, context(b"other"))(x) - whole).abs().max() > 1e-3
    assert (guarded(x[:1]).argmax(1) == predict(x[:1]).argmax(1)).all()
    assert len(guarded(x[:0])) == 0


def test_hamp_without_its_test_step_is_the_network(predict):
    assert make(hamp, test_step=False).guard(predict, {}, context()) is predict


def test_ties_do_not_move_a_label():
    values = torch.tensor([[0.4, 0.4, 0.2], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64).log()
    ranking = torch.tensor([[0.1, 0.2, 0.7], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4]], dtype=torch.float64).log()
    placed = hamp.reordered(values, ranking)
    assert torch.equal(placed.argmax(1), ranking.argmax(1))
    assert (placed[0].max() > placed[0, :2]).all()
    torch.testing.assert_close(placed.exp().sum(1), torch.ones(3, dtype=torch.float64))
    assert (placed <= 0).all()


def test_hamps_test_step_comes_behind_guards_before_inference():
    registry = Registry(SUBMISSIONS)
    for spec, expected in (
        ("hamp+diffence", ["diffence", "hamp"]),
        ("hamp[test_step=false]+diffence+memguard", ["diffence", "hamp", "memguard"]),
        ("hamp+memguard", ["hamp", "memguard"]),
        ("hamp", ["hamp"]),
    ):
        chain = registry.chain(spec, "undefended")
        assert [g.entry.id for g in chain.guards] == expected
        assert chain.name == spec and chain.training.entry.id == "hamp"


# --- DP-SGD: augmentation multiplicity and target epsilon -------------------------------------------


@pytest.mark.parametrize("elements", [2**27, 60_000])
def test_augmult_averages_views_before_it_clips(monkeypatch, elements):
    """Against a loop over samples and views, without noise."""
    monkeypatch.setattr(dp_sgd, "GRADIENT_ELEMENTS", elements)  # 60,000: parts of few samples
    task = make_training(n=30, augmentation="simple", momentum=0.0, weight_decay=0.0, schedule="constant")
    params = {"noise_multiplier": 1e-9, "max_grad_norm": 0.5, "learning_rate": 0.3, "batch_size": 10, "augmult": 3}
    fast, network = make(dp_sgd, **params).train(task), task.build()
    poisson, views, clipped = task.generator("poisson"), task.generator("augmentation"), 0
    for _ in range(2 * 3):
        drawn = torch.rand(30, generator=poisson, dtype=torch.float64) < 1 / 3
        seen = task.augment(task.train.x[drawn].repeat_interleave(3, 0), views).view(-1, 3, 1, 8, 8)
        total = [torch.zeros_like(p) for p in network.parameters()]
        for sample, label in zip(seen, task.train.y[drawn], strict=True):
            each = []
            for view in sample:
                loss = nn.functional.cross_entropy(network(view[None]), label[None])
                each.append(torch.autograd.grad(loss, list(network.parameters())))
            mean = [sum(parts) / 3 for parts in zip(*each, strict=True)]
            norm = math.sqrt(sum(float(g.square().sum()) for g in mean))
            clipped += norm > 0.5
            for t, g in zip(total, mean, strict=True):
                t += g * min(1.0, 0.5 / norm)
        for p, t in zip(network.parameters(), total, strict=True):
            p.data -= 0.3 * t / 10
    assert clipped > 10
    assert gap(fast, network) < 1e-4
    assert gap(fast, task.build()) > 0.01


def test_augmult_needs_augmentation():
    with pytest.raises(ValueError, match="augmult: expected 1 where the recipe has no augmentation, given 8"):
        make(dp_sgd, augmult=8).train(make_training())


def independent_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """Its moments of fractional orders are bounds, so that it is up to 0.3 % above; those of whole orders are equal."""
    accountant = dp_accounting.rdp.RdpAccountant(
        [*RDPAccountant.DEFAULT_ALPHAS, *dp_sgd.LARGE_ORDERS], dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return float(accountant.compose(event, steps).get_epsilon(delta))


@pytest.mark.parametrize(("noise", "size", "epochs"), [(1.0, 10, 5), (0.6, 20, 3), (3.0, 40, 50), (8.0, 1, 2)])
def test_epsilon_agrees_with_another_accountant(noise, size, epochs):
    claims = make(dp_sgd, noise_multiplier=noise, batch_size=size).claims(make_training(epochs=epochs))
    expected = independent_epsilon(noise, size / 40, epochs * (40 // size), 1e-5)
    assert expected * 0.997 <= claims.epsilon <= expected * (1 + 1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "most"),
    [
        (50.0, 0.01, 100, 0.0057),
        (20.0, 0.01, 100, 0.0146),
        (100.0, 1.0, 1, 0.0310),
        (5.0, 0.01, 1000, 0.2345),
        (3.0, 0.5, 50, 6.111),
    ],
)
def test_epsilon_is_small_where_noise_is_large_and_never_below_the_truth(noise, rate, steps, most):
    """The truth by the distribution of the privacy loss itself, composed numerically and rounded to the safe side."""
    law = pld.privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=1e-4, use_connect_dots=True
    )
    truth = law.self_compose(steps).get_epsilon_for_delta(1e-5)
    found = dp_sgd.epsilon_of(noise, rate, steps, 1e-5)
    assert truth < found <= most


@pytest.mark.parametrize("target", [0.05, 0.1, 0.5, 2.0, 8.0, 1000.0])
def test_a_target_epsilon_is_met_and_hardly_missed(monkeypatch, target):
    import opacus.optimizers

    used, init = [], opacus.optimizers.DPOptimizer.__init__

    def watched(self, *args, **kinds):
        used.append(kinds["noise_multiplier"])
        init(self, *args, **kinds)

    monkeypatch.setattr(opacus.optimizers.DPOptimizer, "__init__", watched)
    task, defense = make_training(), make(dp_sgd, target_epsilon=target)
    claims = defense.claims(task)
    defense.train(task)
    assert target * 0.99 < claims.epsilon <= target
    assert claims.epsilon <= independent_epsilon(used[0], 0.25, 8, 1e-5) * (1 + 1e-9) <= claims.epsilon * 1.003
    assert dp_sgd.epsilon_of(used[0] * (1 - 2 * dp_sgd.PRECISION), 0.25, 8, 1e-5) > target


def test_reference_models_are_accounted_for_once(monkeypatch):
    calls, get_epsilon = [], RDPAccountant.get_epsilon
    monkeypatch.setattr(RDPAccountant, "get_epsilon", lambda self, d: (calls.append(1), get_epsilon(self, d))[1])
    dp_sgd.epsilon_of.cache_clear()
    dp_sgd.noise_for.cache_clear()
    task = make_training(epochs=1)
    make(dp_sgd, target_epsilon=3.0).claims(task)
    first = len(calls)
    assert first > 1
    for seed in range(3):
        task.seed = seed
        make(dp_sgd, target_epsilon=3.0).train(task)
        make(dp_sgd, target_epsilon=3.0).claims(task)
    assert len(calls) == first


def test_noise_and_epsilon_exclude_each_other():
    defense = make(dp_sgd, noise_multiplier=1.0, target_epsilon=8.0)
    for rule in (defense.train, defense.claims):
        with pytest.raises(ValueError, match="noise_multiplier, target_epsilon: expected one of them, given both"):
            rule(make_training())
    assert make(dp_sgd).claims(make_training()) == make(dp_sgd, noise_multiplier=1.0).claims(make_training())


def test_an_epsilon_that_no_noise_reaches_is_one_line():
    with pytest.raises(ValueError, match=r"expected more than 0\.00\d+, .* Renyi orders end at 1000\), given 0\.001$"):
        make(dp_sgd, target_epsilon=0.001).train(make_training())


class Mixing(nn.Module):
    """Its own normalisation keeps statistics of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))
        self.register_buffer("mean", torch.zeros(64))
        self.head = nn.Linear(64, CLASSES)


class Coupled(nn.Module):
    """Opacus fails to copy what it would replace."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.utils.parametrizations.spectral_norm(nn.Linear(64, CLASSES))


@pytest.mark.parametrize("network", [Mixing, Coupled])
def test_a_network_that_opacus_cannot_handle_is_one_line(monkeypatch, network):
    task = make_training()
    monkeypatch.setattr(task, "build", network)
    monkeypatch.setattr(task, "epochs", lambda network: pytest.fail("training has started"))
    with pytest.raises(ValueError, match=r"dp_sgd: expected a network that Opacus can handle, given: .") as problem:
        make(dp_sgd).train(task)
    assert "\n" not in str(problem.value)


def test_the_networks_that_a_protocol_may_name_can_be_handled():
    for name in ("small_cnn", "simple_cnn", "resnet18", "vgg11"):  # tests of networks have the others
        make(dp_sgd).network(make_training(architecture=name))
