"""The perceptrons of neural attacks, against PyTorch's own layers trained one by one."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from benchmark.api.perceptron import Perceptron


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int = 100) -> tuple[Tensor, Tensor]:
    """Two classes whose means lie 6 standard deviations apart."""
    y = torch.arange(n) % 2
    return torch.randn(n, 4, generator=generator(1)) + 6 * y.unsqueeze(1) * torch.tensor([1.0, 0, 0, 0]), y


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_seed_is_a_network_of_its_own(optimizer: Literal["sgd", "adam"]) -> None:
    x, y = blobs(50)
    y = (y + torch.arange(50) // 25) % 3
    model = Perceptron(4, (8, 5), 3, generator=generator(7), seeds=3)
    oracles = []
    for s in range(3):
        layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)]
        with torch.no_grad():
            for i, layer in enumerate(layers[::2]):
                layer.weight.copy_(model.weights[2 * i][s].T)  # type: ignore[operator]
                layer.bias.copy_(model.weights[2 * i + 1][s, 0])  # type: ignore[operator]
        oracles.append(nn.Sequential(*layers))
    state = model.generator.get_state()
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.01}
    found = model.fit(x, y, optimizer=optimizer, **settings).log_posteriors(x)

    draws = torch.Generator()
    draws.set_state(state)
    orders = [torch.rand(3, 50, generator=draws).argsort(1) for _ in range(4)]
    inputs = (x - x.mean(0)) / x.std(0)
    for s, oracle in enumerate(oracles):
        update: torch.optim.Optimizer = torch.optim.Adam(oracle.parameters(), lr=0.05, weight_decay=0.01)
        if optimizer == "sgd":
            update = torch.optim.SGD(oracle.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(update, 4)
        for order in orders:
            for rows in order[s].split(16):
                update.zero_grad()
                nn.functional.cross_entropy(oracle(inputs[rows]), y[rows]).backward()
                update.step()
            schedule.step()
        expected = oracle(inputs).double().log_softmax(1)
        assert torch.allclose(found[s], expected, atol=1e-3 if optimizer == "adam" else 1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_answers_are_log_posteriors_of_every_seed() -> None:
    x, y = blobs()
    answer = Perceptron(4, (8,), 2, generator=generator(), seeds=5).fit(x, y, epochs=2).log_posteriors(x[:7])
    assert answer.shape == (5, 7, 2) and answer.dtype == torch.float64 and not answer.requires_grad
    assert torch.allclose(answer.exp().sum(2), torch.ones(5, 7, dtype=torch.float64))


@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_what_is_separable_is_learnt(hidden: tuple[int, ...]) -> None:
    x, y = blobs()
    model = Perceptron(4, hidden, 2, generator=generator()).fit(x, y, batch_size=16)
    assert (model.log_posteriors(x).argmax(2) == y).double().mean() > 0.98


def test_a_hidden_layer_is_in_use() -> None:
    """XOR has no linear solution."""
    x = torch.randn(400, 2, generator=generator(3))
    y = (x[:, 0] * x[:, 1] > 0).long()
    deep = Perceptron(2, (32,), 2, generator=generator()).fit(x, y, learning_rate=0.1)
    flat = Perceptron(2, (), 2, generator=generator()).fit(x, y, learning_rate=0.1)
    assert (deep.log_posteriors(x).argmax(2) == y).double().mean() > 0.9
    assert (flat.log_posteriors(x).argmax(2) == y).double().mean() < 0.65


def test_inputs_need_no_standardising() -> None:
    x, y = blobs()
    plain = Perceptron(4, (8,), 2, generator=generator()).fit(x, y, epochs=5)
    scale = torch.tensor([1e4, 1e-3, 1.0, 50.0])
    scaled = Perceptron(4, (8,), 2, generator=generator()).fit(x * scale - 30 * scale, y, epochs=5)
    assert torch.allclose(plain.log_posteriors(x), scaled.log_posteriors(x * scale - 30 * scale), atol=1e-3)
    new = torch.randn(5, 4, generator=generator(4))
    together = plain.log_posteriors(torch.cat([new, 100 + new]))[:, :5]
    assert torch.allclose(plain.log_posteriors(new), together), "the moments are the training data's"


def test_a_constant_input_does_no_harm() -> None:
    x, y = blobs()
    x[:, 3] = 5.0
    assert torch.isfinite(Perceptron(4, (8,), 2, generator=generator()).fit(x, y, epochs=3).log_posteriors(x)).all()


def test_the_generator_decides() -> None:
    x, y = blobs()
    torch.manual_seed(1)
    one = Perceptron(4, (8,), 2, generator=generator()).fit(x, y, epochs=3).log_posteriors(x)
    torch.manual_seed(2)
    two = Perceptron(4, (8,), 2, generator=generator()).fit(x, y, epochs=3).log_posteriors(x)
    other = Perceptron(4, (8,), 2, generator=generator(1)).fit(x, y, epochs=3).log_posteriors(x)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_data_is_left_alone() -> None:
    x, y = blobs()
    before = x.clone()
    Perceptron(4, (8,), 2, generator=generator()).fit(x, y, epochs=1)
    assert torch.equal(x, before)
