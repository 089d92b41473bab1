"""Training: the ensemble goes the way of single networks, augmentation does what it says, seeds decide everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, functional

from benchmark import data as datasets
from benchmark.api import Samples
from benchmark.api.augmentation import _operate, equalize, randaug
from benchmark.networks.access import raw
from benchmark.networks.training import TrainingRun, fit_ensemble, make_optimizer
from benchmark.protocol import Recipe

CPU = torch.device("cpu")


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y, reduction="none")


def smoothed(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y, reduction="none", label_smoothing=0.3)


def make_training(k: int = 0, n: int = 90, architecture: str = "small_cnn", **changes: Any) -> TrainingRun:
    """Network k on its own n digits."""
    data = datasets.load("digits")
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(k))[:n]
    samples = Samples(data.x[rows].float() / 255, data.y[rows])
    recipe = Recipe(**({"learning_rate": 0.05, "epochs": 1, "batch_size": 32} | changes))
    empty = Samples(samples.x[:0], samples.y[:0])
    return TrainingRun(
        train=samples, reference=empty, validation=empty, classes=10, recipe=recipe, architecture=architecture,
        simple={"pad": 1, "flip": False}, seed=100 + k, device=CPU,
    )  # fmt: skip


def gap(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("loss", [cross_entropy, smoothed])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augmentation": "simple"},
        {"optimizer": "adam", "learning_rate": 1e-3},
        {"batch_size": 90, "momentum": 0, "learning_rate": 0.5},
    ],
    ids=["sgd", "augmented", "adam", "whole batch"],
)
def test_the_ensemble_takes_the_steps_of_single_networks(loss: Any, changes: dict[str, Any]) -> None:
    tasks = [make_training(k, **changes) for k in range(3)]
    fresh = [t.build() for t in tasks]
    single = [t.fit(t.build(), loss=loss) for t in tasks]
    together = fit_ensemble(tasks, [t.build() for t in tasks], loss)
    for one, other, start in zip(single, together, fresh, strict=True):
        assert gap(one, other) < 1e-4
        assert gap(one, start) > 2e-3, "they have learnt, twenty tolerances and more"
        assert not one.training and not other.training
    assert gap(together[0], together[1]) > 2e-3, "each has its own seed and data"


def test_a_network_does_not_depend_on_its_neighbours() -> None:
    """In another group only the rounding of sums may differ."""
    tasks = [make_training(k) for k in range(4)]
    four = fit_ensemble(tasks, [t.build() for t in tasks], cross_entropy)
    two = fit_ensemble(tasks[1:3], [t.build() for t in tasks[1:3]], cross_entropy)
    assert max(gap(four[1], two[0]), gap(four[2], two[1])) < 1e-4


def scores(networks: Sequence[nn.Module], tasks: Sequence[TrainingRun]) -> tuple[np.ndarray, list[float]]:  # type: ignore[type-arg]
    """Loss-attack scores of each network's members and of 90 others, pooled; and each network's AUC."""
    data = datasets.load("digits")
    pooled, aucs = [], []
    for k, (network, task) in enumerate(zip(networks, tasks, strict=True)):
        others = torch.randperm(len(data), generator=torch.Generator().manual_seed(k))[-90:]
        x, y = torch.cat([task.train.x, data.x[others].float() / 255]), torch.cat([task.train.y, data.y[others]])
        score = raw(network, CPU)(x)[torch.arange(len(y)), y].numpy()
        pooled.append(score)
        aucs.append(float(roc_auc_score(np.arange(len(y)) < len(task.train), score)))
    return np.concatenate(pooled), aucs


def test_both_ways_give_the_same_law_of_scores() -> None:
    """RULES 24: 8 networks each way. Networks with half the epochs show that the test can tell laws apart."""
    tasks = [make_training(k, epochs=20) for k in range(8)]
    short = [make_training(k, epochs=10) for k in range(8)]
    single, single_auc = scores([t.fit(t.build()) for t in tasks], tasks)
    together, together_auc = scores(fit_ensemble(tasks, [t.build() for t in tasks], cross_entropy), tasks)
    other, _ = scores(fit_ensemble(short, [t.build() for t in short], cross_entropy), short)
    assert ks_2samp(single, together).pvalue > 0.05
    assert abs(np.mean(single_auc) - np.mean(together_auc)) < 0.01
    assert np.mean(single_auc) > 0.55, "there is something to compare"
    assert ks_2samp(single, other).pvalue < 1e-6


def test_augmentation_is_off_unless_the_recipe_has_it() -> None:
    x = torch.rand(3, 1, 8, 8)
    assert make_training().augment(x, torch.Generator()) is x
    assert not torch.equal(make_training(augmentation="simple").augment(x, torch.Generator()), x)


@pytest.mark.parametrize("changes", [{}, {"augmentation": "simple", "precision": "bfloat16", "channels_last": True}])
def test_a_seed_makes_one_network_bit_for_bit(changes: dict[str, Any]) -> None:
    torch.manual_seed(1)
    one = make_training(**changes).fit(make_training().build())
    torch.manual_seed(2)
    torch.rand(5)
    before = torch.get_rng_state()
    two = make_training(**changes).fit(make_training().build())
    assert gap(one, two) == 0
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert all(p.dtype == torch.float32 for p in one.parameters())
    other = make_training(**changes)
    other.seed += 1
    assert gap(one, other.fit(other.build())) > 1e-2


def test_generators_are_independent() -> None:
    task = make_training()
    first = torch.rand(1000, generator=task.generator("order"))
    task.generator("noise").seed()
    assert torch.equal(first, torch.rand(1000, generator=task.generator("order")))
    others = [torch.rand(1000, generator=g) for g in (task.generator("noise"), make_training(1).generator("order"))]
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.13  # 4 standard errors


def test_the_order_does_not_depend_on_augmentation() -> None:
    """Drawing more views must not shuffle the data anew."""
    seen: dict[str, list[Tensor]] = {"none": [], "simple": []}
    for augmentation, batches in seen.items():

        def note(network: nn.Module, x: Tensor, y: Tensor, epoch: int, into: list[Tensor] = batches) -> Tensor:
            into.append(y)
            return cross_entropy(network(x), y).mean()

        task = make_training(augmentation=augmentation, epochs=2)
        task.fit(task.build(), cost=note)
    assert len(seen["none"]) == 2 * math.ceil(90 / 32)
    assert all(torch.equal(a, b) for a, b in zip(seen["none"], seen["simple"], strict=True))
    for epoch in (seen["none"][:3], seen["none"][3:]):
        assert torch.equal(torch.cat(epoch).bincount(), make_training().train.y.bincount()), "everybody once an epoch"


def test_a_defense_can_change_batches_losses_and_the_optimizer() -> None:
    task = make_training()
    blind = task.fit(task.build(), cost=lambda network, x, y, epoch: cross_entropy(network(x * 0), y).mean())
    assert gap(blind, task.fit(task.build())) > 1e-3
    still = task.fit(task.build(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    assert gap(still, task.build()) == 0
    assert gap(task.fit(task.build(), loss=lambda z, y: 0 * z.sum(1)), task.build()) < 1e-3, "weight decay alone"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "cosine", "epochs": 4}, [0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(5)]),
        ({"schedule": "step", "milestones": (1, 3), "epochs": 4}, [1, 0.1, 0.1, 0.01, 0.01]),
        ({"schedule": "constant", "epochs": 4}, [1, 1, 1, 1, 1]),
    ],
)
def test_schedules(changes: dict[str, Any], expected: list[float]) -> None:
    task = make_training(learning_rate=1.0, **changes)
    weight = nn.Parameter(torch.zeros(1))
    update = make_optimizer([weight], task.recipe)
    schedule = task.schedule(update)
    rates = [update.param_groups[0]["lr"]]
    for _ in range(task.recipe.epochs):
        update.step()
        schedule.step()
        rates.append(update.param_groups[0]["lr"])
    assert rates == pytest.approx(expected, abs=1e-12)


def test_one_step_by_hand() -> None:
    """Two steps of SGD with momentum and weight decay on one weight."""
    recipe = Recipe(learning_rate=0.1, momentum=0.9, weight_decay=0.01, epochs=1, batch_size=1)
    weight = nn.Parameter(torch.tensor([2.0]))
    update = make_optimizer([weight], recipe)
    w, v = 2.0, 0.0
    for _ in range(2):
        weight.grad = torch.tensor([3.0])
        update.step()
        v = 0.9 * v + 3.0 + 0.01 * w
        w -= 0.1 * v
        assert weight.item() == pytest.approx(w, rel=1e-6)


def test_layout_does_not_change_what_is_learnt() -> None:
    one = make_training().fit(make_training().build())
    other = make_training(channels_last=True).fit(make_training().build())
    assert gap(one, other) < 1e-4
    low = make_training(precision="bfloat16").fit(make_training().build())
    assert 1e-4 < gap(one, low) < 0.1, "bfloat16 is in use, and near"


def test_artifacts_are_made_where_there_is_no_store() -> None:
    made = make_training().artifact("x", lambda: {"x": torch.ones(1)})
    assert torch.equal(made["x"], torch.ones(1))


def test_randaug_is_torchvisions() -> None:
    """Each operation, both signs, against torchvision's own RandAugment on one image at a time."""
    from torchvision.transforms.autoaugment import RandAugment, _apply_op

    names = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
             "Posterize", "Solarize", "AutoContrast", "Equalize", "Identity")  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 28, 28), (3, 32, 32)):
        x = torch.randint(0, 256, (5, *shape), generator=generator, dtype=torch.uint8)
        space = RandAugment()._augmentation_space(31, shape[1:])
        assert set(space) == set(names)
        for number, name in enumerate(names):
            magnitudes, signed = space[name]
            assert signed == (number < 9)
            for sign in (1, -1) if signed else (1,):
                size = sign * float(magnitudes[10] if magnitudes.ndim else magnitudes)
                expected = [_apply_op(image, name, size, InterpolationMode.NEAREST, None) for image in x]
                off = (_operate(x, number, sign).int() - torch.stack(expected).int()).abs()
                # Float32 sums of a batch round apart from those of an image: a grey level at most.
                assert off.max() <= 1 and (off > 0).double().mean() < 0.2, (name, sign)


@pytest.mark.parametrize("shape", [(30, 1, 8, 8), (20, 3, 32, 32), (3, 3, 5, 7)])
@pytest.mark.parametrize("levels", [1, 2, 3, 100, 256])
def test_equalize_by_tables_is_torchvisions(shape: tuple[int, ...], levels: int) -> None:
    x = torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(levels), dtype=torch.uint8)
    assert torch.equal(equalize(x), functional.equalize(x))


def test_randaug_depends_on_its_generator_alone_and_draws_for_each_image() -> None:
    x = datasets.load("digits").x[:200].float() / 255
    one, again, other = (randaug(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == x.shape and 0 <= one.min() and one.max() <= 1
    untouched = (one - x).abs().flatten(1).amax(1) < 1 / 254
    assert 0 < untouched.sum() < len(x), "identity twice is rare"
    same = randaug(x[:1].expand(400, 1, 8, 8), torch.Generator().manual_seed(2))
    assert len(same.flatten(1).unique(dim=0)) > 60, "equal images draw apart"


def test_early_stopping_keeps_the_best_epoch_on_validation_data() -> None:
    """The weights are those of a plain run that ends at the epoch that was best; the same one by one and as an ensemble."""
    data = datasets.load("digits")
    held = Samples(data.x[1000:1200].float() / 255, data.y[1000:1200])

    def task(k: int = 0, **changes: Any) -> TrainingRun:
        made = make_training(k, epochs=6, learning_rate=0.4, schedule="constant", **changes)
        made.samples["validation"] = held
        return made

    def accuracy(network: nn.Module) -> float:
        return float((network(held.x).argmax(1) == held.y).double().mean())

    seen: list[tuple[float, dict[str, Tensor]]] = []
    plain, watched = task(), task().build()
    optimizer = make_optimizer(list(watched.parameters()), plain.recipe)
    order, watched = plain.generator("order"), watched.train()
    for _ in plain.epochs(watched):
        for rows in torch.randperm(90, generator=order).split(32):
            optimizer.zero_grad()
            cross_entropy(watched(plain.train.x[rows]), plain.train.y[rows]).mean().backward()
            optimizer.step()
        seen.append((accuracy(watched.eval()), {n: t.clone() for n, t in watched.train().state_dict().items()}))
    scores = [s for s, _ in seen]
    best = scores.index(max(scores))
    assert best < 5, "a case in which the last epoch is not the best"
    stopping = task(early_stopping=True)
    stopped = stopping.fit(stopping.build())
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(stopped.state_dict().values(), seen[best][1].values(), strict=True)
    )
    tasks = [task(k, early_stopping=True) for k in range(2)]
    together = fit_ensemble(tasks, [t.build() for t in tasks], cross_entropy)
    alone = [t.fit(t.build()) for t in tasks]
    for one, other in zip(together, alone, strict=True):
        assert accuracy(one) == pytest.approx(accuracy(other), abs=0.03)
    empty = make_training(early_stopping=True)
    with pytest.raises(ValueError, match="validation data"):
        empty.fit(empty.build())


def test_networks_on_parts_of_the_training_set() -> None:
    """`fit_each` trains on the rows given, alone or as an ensemble, and leaves the task as it was."""
    rows = [torch.arange(0, 60), torch.arange(30, 90), torch.arange(1, 60)]
    task = make_training(epochs=4)
    alone = task.fit_each(rows, "parts")
    together = make_training(epochs=4, ensemble=4).fit_each(rows[:2], "parts")
    for one, other in zip(alone[:2], together, strict=True):
        assert gap(one, other) < 1e-3
    assert gap(alone[0], alone[1]) > 1e-3 and len(task.train) == 90
    uneven = make_training(epochs=4, ensemble=4).fit_each(rows, "parts")
    assert gap(uneven[1], alone[1]) > 0, "a sample an epoch is left out where sizes differ"
    assert len({float(n.head.bias[0]) for n in alone}) == 3  # type: ignore[union-attr, index]


def test_targets_take_the_labels_place_and_cost_gets_epochs() -> None:
    task = make_training(epochs=3)
    other = (task.train.y + 1) % 10
    moved = make_training(epochs=3)
    moved.samples["train"] = Samples(task.train.x, other)
    assert gap(task.fit(task.build(), targets=other), moved.fit(moved.build())) == 0
    epochs: list[int] = []

    def cost(network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
        epochs.append(epoch)
        return cross_entropy(network(x), y).mean()

    assert gap(task.fit(task.build(), cost=cost), task.fit(task.build())) == 0
    assert epochs == [0] * 3 + [1] * 3 + [2] * 3
    with pytest.raises(ValueError, match="given both"):
        task.fit(task.build(), cost=cost, loss=cross_entropy)
    with pytest.raises(ValueError, match="90 training samples"):
        task.fit(task.build(), targets=other[:3])


def test_what_a_defense_did_not_declare_is_not_there() -> None:
    with pytest.raises(PermissionError, match="uses = frozenset"):
        _ = make_training().reference


def test_another_architecture_on_request() -> None:
    task = make_training()
    assert gap(task.build("small_cnn"), task.build()) == 0
    assert task.build("simple_cnn").state_dict().keys() != {} and len(task.build("simple_cnn")(task.train.x)) == 90
