"""The stealing attacks: what they ask, what their copies learn, and what they make up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.extraction import KnockoffNets
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmark.api import Knowledge, Samples, Target
from benchmark.api.copies import certain, train_copy
from tests.submissions.test_attacks import CLASSES, SHAPE, Linear, entry, images, module

KNOWN = Knowledge(CLASSES, SHAPE, 7, torch.device("cpu"), simple={"pad": 0, "flip": False})


class Asked(Linear):
    """Keeps what it was asked, and refuses posteriors to attacks by labels."""

    def __init__(self, labels_alone: bool = False) -> None:
        super().__init__(4, scale=10)
        self.images: list[Tensor] = []
        self.labels_alone = labels_alone

    def labels(self, x: Tensor) -> Tensor:
        self.images.append(x)
        return super().log_posteriors(x).argmax(1)

    def log_posteriors(self, x: Tensor) -> Tensor:
        if self.labels_alone:
            raise PermissionError
        self.images.append(x)
        return super().log_posteriors(x)


def build(architecture: str | None = None) -> nn.Module:
    torch.manual_seed(1)
    hidden = {None: (), "simple_cnn": (nn.Linear(6, 6), nn.ReLU())}[architecture]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(6, CLASSES))


def stolen(name: str, target: Target, pool: Samples, **params: Any) -> nn.Module:
    attack = entry(name, **params)
    attack.fit(KNOWN)
    copied: nn.Module = attack.steal(target, pool, build)
    assert not copied.training
    return copied


def agreement(copied: nn.Module, target: Linear) -> float:
    test = images(400, 6)
    with torch.no_grad():
        return float((copied(test.x).argmax(1) == Linear.log_posteriors(target, test.x).argmax(1)).double().mean())


FAST: dict[str, Any] = {"epochs": 60, "learning_rate": 0.2}
FOUR = ["cross-entropy", "kl", "mse", "logits"]
THIEVES = {
    **{f"steal_posteriors, {loss}": ("steal_posteriors", {"loss": loss}) for loss in FOUR},
    **{f"steal_{by}, {how}": (f"steal_{by}", {"queries": 300, "choose": how}) for by in ("posteriors", "labels") for how in ("random", "uncertain", "diverse")},
    "steal_labels": ("steal_labels", {}),
    "steal_partial": ("steal_partial", {}),
    "another network": ("steal_posteriors", {"architecture": "simple_cnn"}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "params"), THIEVES.values(), ids=THIEVES)
def test_copies_agree_with_a_target_that_a_linear_map_is(name: str, params: dict[str, Any]) -> None:
    target, pool = Asked(name == "steal_labels"), images(600, 5)
    copied = stolen(name, target, pool, **FAST, **params)
    assert agreement(copied, target) > 0.9
    asked = torch.cat(target.images)
    assert len(asked) == len(asked.unique(dim=0)) == params.get("queries", 600), "each image once, and no more"
    assert len(torch.cat([asked, pool.x]).unique(dim=0)) == 600, "images that it was given"
    assert len([*copied.parameters()]) == (4 if "architecture" in params else 2)


def test_an_attack_by_labels_is_training_on_the_labels_that_the_target_gives() -> None:
    target, pool = Asked(), images(200, 5)
    copied = stolen("steal_labels", target, pool, augment=False, **FAST)
    plain = train_copy(
        build(), pool.x, certain(Linear.log_posteriors(target, pool.x).argmax(1), CLASSES), loss="cross-entropy",
        schedule="cosine", generator=KNOWN.generator("steal"), **FAST,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("labels", [False, True])
def test_the_copy_is_that_of_art(labels: bool) -> None:
    """Knockoff Nets of the Adversarial Robustness Toolbox, from the same first weights and in whole batches: the same weights."""
    target, pool, epochs, rate = Linear(4, scale=10), images(200, 5), 30, 0.2

    def wrapped(network: nn.Module, **more: Any) -> PyTorchClassifier:
        return PyTorchClassifier(
            network, nn.CrossEntropyLoss(), input_shape=SHAPE, nb_classes=CLASSES, device_type="cpu", **more
        )

    theirs = build()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=rate, momentum=0.9)
    victim = nn.Sequential(Scaled(target.network, 10), nn.Softmax(1))
    attack = KnockoffNets(
        wrapped(victim), batch_size_fit=200, batch_size_query=200, nb_epochs=epochs, nb_stolen=200, use_probability=not labels,
        verbose=False,
    )  # fmt: skip
    attack.extract(pool.x.numpy(), thieved_classifier=wrapped(theirs, optimizer=optimizer))
    answers = target.log_posteriors(pool.x)
    ours = train_copy(
        build(), pool.x, certain(answers.argmax(1), CLASSES) if labels else answers, loss="cross-entropy", epochs=epochs,
        learning_rate=rate, generator=torch.Generator().manual_seed(0), batch_size=200,
    )  # fmt: skip
    for mine, other, first in zip(ours.parameters(), theirs.parameters(), build().parameters(), strict=True):
        assert np.allclose(mine.detach(), other.detach(), atol=1e-4) and not np.allclose(
            mine.detach(), first.detach(), atol=0.1
        )


class Scaled(nn.Module):
    """A network whose logits are multiplied."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x) * self.factor
        return logits


def test_more_queries_give_a_better_copy() -> None:
    target = Asked()
    few, many = (
        agreement(stolen("steal_posteriors", target, images(600, 5), queries=n, **FAST), target) for n in (10, 600)
    )
    assert many > few + 0.1


def test_the_released_variant_learns_posteriors_by_its_logits() -> None:
    target, pool = Asked(), images(600, 5)
    copied = stolen("steal_mse", target, pool, as_released=True, **FAST)
    with torch.no_grad():
        gap = (copied(pool.x) - Linear.log_posteriors(target, pool.x).exp()).abs().mean()
    assert gap < 0.2 and agreement(copied, target) > 0.7


def test_the_null_row_trains_on_as_many_true_labels_and_asks_nothing() -> None:
    target, pool = Asked(), images(600, 5)
    labelled = Samples(pool.x, Linear.log_posteriors(target, pool.x).argmax(1))
    null = stolen("steal_null", target, labelled, queries=100, schedule="cosine", **FAST)
    assert not target.images
    thief = stolen("steal_labels", target, pool, queries=100, augment=False, **FAST)
    assert all(torch.equal(a, b) for a, b in zip(null.parameters(), thief.parameters(), strict=True)), "the same images"


# --- Without data -----------------------------------------------------------------------------------


def test_without_data_it_asks_about_images_of_its_own() -> None:
    nothing, made = Samples(torch.zeros(0, *SHAPE), torch.zeros(0).long()), []
    for seed in (0, 1):
        target = Asked()
        attack = entry("steal_no_data", queries=300, **FAST)
        attack.fit(Knowledge(CLASSES, SHAPE, seed, torch.device("cpu")))
        copied = attack.steal(target, nothing, build)
        assert agreement(copied, target) > 0.8 and sum(map(len, target.images)) == 300
        made.append(torch.cat(target.images))
    assert torch.equal(*made), "answers of one target serve all copies"


@pytest.mark.parametrize("name", ["smooth", "noise"])
@pytest.mark.parametrize("n", [1, 5, 500])
def test_made_up_images_are_images(name: str, n: int) -> None:
    x = getattr(module("steal_no_data"), name)(n, (3, 12, 10), torch.Generator().manual_seed(0))
    assert x.shape == (n, 3, 12, 10) and x.dtype == torch.float32 and 0 <= x.min() < x.max() <= 1
    torch.testing.assert_close(x * 255, (x * 255).round(), atol=1e-3, rtol=0)
    if n == 500:
        assert len(x.unique(dim=0)) == n
        near = (x.diff(dim=3).abs().mean() / (x - x.flip(0)).abs().mean()).item()
        assert near < 0.5 if name == "smooth" else near > 0.9, "neighbours are alike, or are not"
