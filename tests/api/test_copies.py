"""Training copies: losses against closed forms and finite differences, the loop and the choice of queries against plain ones."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark.api.copies import (
    FLOOR,
    ask_in_rounds,
    certain,
    copy_loss,
    copy_targets,
    k_centres,
    most_uncertain,
    train_copy,
)

LOSSES = ["cross-entropy", "kl", "mse", "mse-released", "logits"]


def drawn(n: int = 7, k: int = 4, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a copy and log-posteriors of a target, (n, k) float64."""
    g = torch.Generator().manual_seed(seed)
    z, a = (scale * torch.randn(n, k, generator=g, dtype=torch.float64) for _ in "za")
    return z, a.log_softmax(1)


# --- Losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_losses_are_the_means_of_what_a_plain_loop_sums(temperature: float) -> None:
    z, a = drawn()
    expected = dict.fromkeys(LOSSES, 0.0)
    scale = np.sqrt(np.mean([(row - row.mean()) ** 2 for row in a.numpy()]))
    for logits, answer in zip(z.numpy(), a.numpy(), strict=True):
        p, q = (np.exp(v / temperature) / np.exp(v / temperature).sum() for v in (answer, logits))
        expected["cross-entropy"] += temperature**2 * -sum(p[j] * np.log(q[j]) for j in range(4)) / 7
        expected["kl"] += temperature**2 * stats.entropy(p, q) / 7
        plain = np.exp(logits) / np.exp(logits).sum()
        expected["mse"] += sum((plain - np.exp(answer)) ** 2) / 7
        expected["mse-released"] += sum((logits - np.exp(answer)) ** 2) / 28
        expected["logits"] += sum((logits - logits.mean() - (answer - answer.mean()) / scale) ** 2) / 28
    for loss in LOSSES:
        t = temperature if loss in ("cross-entropy", "kl") else 1.0
        value = copy_loss(z, copy_targets(a, loss, t).double(), loss, t)  # type: ignore[arg-type]
        assert float(value) == pytest.approx(expected[loss], rel=1e-5), loss


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradients_agree_with_finite_differences(loss: Any, temperature: float) -> None:
    z, a = drawn(3)
    targets, step = copy_targets(a, loss, temperature).double(), 1e-6
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(copy_loss(z, targets, loss, temperature), z)
    for i in range(3):
        for j in range(4):
            moved = torch.zeros_like(z)
            moved[i, j] = step
            with torch.no_grad():
                up, down = (copy_loss(z + s * moved, targets, loss, temperature) for s in (1, -1))
            assert float(gradient[i, j]) == pytest.approx(float(up - down) / (2 * step), abs=1e-7)


def test_cross_entropy_and_kl_take_the_same_steps_and_kl_is_0_of_a_perfect_copy() -> None:
    z, a = drawn()
    z.requires_grad_()
    one, other = (torch.autograd.grad(copy_loss(z, a.exp(), loss), z)[0] for loss in ("cross-entropy", "kl"))
    torch.testing.assert_close(one, other)
    perfect, other_value = (float(copy_loss(logits.detach(), a.exp(), "kl")) for logits in (a, z))
    assert abs(perfect) < 1e-12 and other_value > 0.1


def test_a_label_counts_as_certain() -> None:
    z, a = drawn()
    y = a.argmax(1)
    assert torch.equal(certain(y, 4).argmax(1), y) and torch.equal(certain(y, 4).exp().sum(1), torch.ones(7).double())
    for loss in ("cross-entropy", "kl"):
        value = copy_loss(z, copy_targets(certain(y, 4), loss).double(), loss)
        assert float(value) == pytest.approx(float(nn.functional.cross_entropy(z, y)))


def test_the_size_of_answers_does_not_matter_to_the_loss_of_logits() -> None:
    z = drawn()[0]
    sure, flat = (copy_targets((s * z).log_softmax(1), "logits") for s in (1.0, 1e-3))
    torch.testing.assert_close(sure, flat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sure.sum(1), torch.zeros(7), atol=1e-5, rtol=0)
    assert float(sure.square().mean()) == pytest.approx(1)
    assert not copy_targets(torch.zeros(3, 4).double().log_softmax(1), "logits").any(), "nothing to tell apart"
    floored = torch.tensor([[0.0, FLOOR, FLOOR, FLOOR]]).double()
    assert torch.equal(copy_targets(certain(torch.tensor([0]), 4), "logits"), copy_targets(floored, "logits"))


# --- The loop ---------------------------------------------------------------------------------------


def network(k: int = 4) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, k))


def images(n: int = 100, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_copy_of_labels_is_what_training_on_them_gives(schedule: Any) -> None:
    """Of any access: the argmax labels by PyTorch's own loss, optimizer and scheduler."""
    x, y = images(), drawn(100)[1].argmax(1)
    made = train_copy(
        network(), x, certain(y, 4), loss="cross-entropy", epochs=3, learning_rate=0.1, schedule=schedule,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    plain, g = network(), torch.Generator().manual_seed(5)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 3)
    for _ in range(3):
        order = torch.randperm(100, generator=g)
        for rows in (order[:50], order[50:]):
            sgd.zero_grad()
            nn.functional.cross_entropy(plain(x[rows]), y[rows]).backward()
            sgd.step()
        if schedule == "cosine":
            rates.step()
    assert not made.training
    for ours, theirs in zip(made.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_views_keep_the_answer_of_their_image() -> None:
    """A crop of one pixel of padding, and a flip; the images of one brightness each stay so but at their border."""
    seen: list[Tensor] = []

    class Seeing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            out: Tensor = super().forward(x)
            return out

    x = torch.linspace(0.1, 1, 20).view(20, 1, 1, 1).expand(20, 1, 5, 5).contiguous()
    net = Seeing(nn.Flatten(), nn.Linear(25, 4))
    train_copy(
        net, x, drawn(20)[1], loss="cross-entropy", epochs=1, learning_rate=0.0, simple={"pad": 1, "flip": True},
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    (batch,) = seen
    assert batch.shape == x.shape and (batch == 0).any(), "some are moved"
    assert torch.equal(batch[:, 0, 2, 2].sort().values, x[:, 0, 2, 2]), "each of them is there once"


def test_without_images_the_network_stays_as_it_is() -> None:
    before = network()
    after = train_copy(
        copy.deepcopy(before), images(0), torch.zeros(0, 4).double(), loss="kl", epochs=5, learning_rate=0.1,
        generator=torch.Generator(),
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


# --- What to ask about ------------------------------------------------------------------------------


def test_the_most_uncertain_are_those_that_a_plain_loop_finds() -> None:
    p = drawn(60)[1].exp()
    p[10] = p[3]  # of equal ones the earlier
    p[5] = torch.tensor([1.0, 0, 0, 0])
    entropy = [stats.entropy(row) for row in p.numpy()]
    assert most_uncertain(p, 60).tolist() == sorted(range(60), key=lambda i: (-entropy[i], i))
    assert most_uncertain(p, 4).tolist() == most_uncertain(p, 60)[:4].tolist()


def test_centres_are_those_that_a_plain_loop_finds() -> None:
    points, centres = (torch.from_numpy(np.random.default_rng(s).random((n, 3))) for s, n in ((0, 40), (1, 5)))
    have, expected = [*centres.numpy()], []
    for _ in range(8):
        nearest = [min(np.linalg.norm(p - c) for c in have) for p in points.numpy()]
        expected.append(int(np.argmax([-1 if i in expected else d for i, d in enumerate(nearest)])))
        have.append(points.numpy()[expected[-1]])
    assert k_centres(points, centres, 8).tolist() == expected
    assert sorted(k_centres(points, points, 40).tolist()) == [*range(40)], "equal points are taken once each"


class Oracle:
    """Answers by the brightness of an image, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.calls.append(x)
        level = x.flatten(1).mean(1, keepdim=True).double()
        return torch.cat([level, 1 - level], 1).log_softmax(1)


def rows_of(x: Tensor, pool: Tensor) -> list[int]:
    return [int((pool == image).flatten(1).all(1).nonzero()) for image in x]


@pytest.mark.parametrize("choice", ["random", "uncertain", "diverse"])
@pytest.mark.parametrize("budget", [1, 3, 30])
def test_each_image_is_asked_about_once_within_the_budget(choice: Any, budget: int) -> None:
    pool, oracle = images(50, 2), Oracle()

    def train(x: Tensor, answers: Tensor) -> nn.Module:
        assert len(x) == len(answers) and torch.equal(answers, Oracle()(x))
        return network(2).eval()

    x, answers = ask_in_rounds(oracle, pool, budget, train, generator=torch.Generator().manual_seed(1), choice=choice)
    assert len(x) == sum(map(len, oracle.calls)) == budget == len(set(rows_of(x, pool)))
    assert torch.equal(answers, Oracle()(x))
    assert len(oracle.calls) == (1 if choice == "random" else min(4, budget))


def never(x: Tensor, answers: Tensor) -> nn.Module:
    raise AssertionError("nothing is chosen")


@pytest.mark.parametrize("choice", ["random", "uncertain", "diverse"])
@pytest.mark.parametrize("budget", [None, 50, 99])
def test_the_whole_pool_is_asked_about_in_its_order(choice: Any, budget: int | None) -> None:
    pool, oracle = images(50, 2), Oracle()
    x, _ = ask_in_rounds(oracle, pool, budget, never, generator=torch.Generator(), choice=choice)
    assert torch.equal(x, pool) and len(oracle.calls) == 1


def test_an_empty_pool_asks_nothing() -> None:
    oracle = Oracle()
    x, answers = ask_in_rounds(oracle, images(0), None, never, generator=torch.Generator())
    assert len(x) == len(answers) == len(oracle.calls) == 0


@pytest.mark.parametrize(("choice", "pick"), [("uncertain", most_uncertain), ("diverse", None)])
def test_the_copy_so_far_chooses(choice: Any, pick: Callable[[Tensor, int], Tensor] | None) -> None:
    pool, oracle, copied = images(50, 2), Oracle(), network(2).eval()
    ask_in_rounds(
        oracle, pool, 20, lambda x, a: copied, generator=torch.Generator().manual_seed(1), choice=choice, rounds=2
    )
    first, second = (rows_of(x, pool) for x in oracle.calls)
    left = [i for i in torch.randperm(50, generator=torch.Generator().manual_seed(1)).tolist() if i not in first]
    with torch.no_grad():
        p = copied(pool).double().softmax(1)
    expected = pick(p[left], 10) if pick else k_centres(p[left], p[first], 10)
    assert len(first) == len(second) == 10 and second == [left[i] for i in expected]
