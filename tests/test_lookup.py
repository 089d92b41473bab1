"""Targets that look members up, and honest ones that must not be accused of it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.api import Context
from benchmark.lookup import IMAGES, WALKS, LookupGap, lookup_gap, near_duplicates
from benchmark.metrics import METRICS

K = 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    """Members and non-members of 8 bits, 60 and 80."""
    x = torch.randint(0, 256, (140, 1, 6, 6), generator=generator(9)).float() / 255
    return x[:60], x[60:]


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, K)).double()
    with torch.no_grad():
        net[3].weight *= 10  # sure of itself, as an overfitted network is

    @torch.no_grad()
    def predict(x):
        return net(x.double()).log_softmax(1)

    return predict


def address(image):
    return (image * 255).round().byte().numpy().tobytes()


def table(predict, members, answer):
    """Members, found by their bytes, get `answer` of their honest answer."""
    known = {address(image) for image in members}

    def served(x):
        honest = predict(x)
        rows = torch.tensor([address(image) in known for image in x]).unsqueeze(1)
        return torch.where(rows, answer(honest), honest)

    return served


# --- Honest targets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_network_is_not_accused(images, network, seed):
    found = lookup_gap(network, *images, generator(seed))
    assert not found.looks_up
    assert abs(found.gap) < 0.005
    assert 0 < found.members < 0.05
    assert 0 < found.nonmembers < 0.05


def noisy(predict, strength):
    """Keyed noise on the logits, as `Context` draws it; `strength` (n,) from the query."""
    context = Context(b"k" * 32, torch.device("cpu"), lambda name, x, make: make())

    def served(x):
        noise = torch.special.ndtri(context.uniform("test", x, K))
        return (predict(x) + strength(x).unsqueeze(1) * noise).log_softmax(1)

    return served


@pytest.mark.parametrize("seed", range(5))
def test_keyed_noise_is_not_accused(images, network, seed):
    found = lookup_gap(noisy(network, lambda x: torch.full((len(x),), 3.0)), *images, generator(seed))
    assert not found.looks_up
    assert min(found.members, found.nonmembers) > 0.1, "it draws anew for a near-duplicate, everywhere"


@pytest.mark.parametrize("seed", range(5))
def test_noise_that_is_larger_around_members_is_not_a_table(images, network, seed):
    """Overfitting makes honest guards move more on one side: near-duplicates move as the originals do."""
    centres = images[0]

    def strength(x):
        near = torch.cdist(x.flatten(1), centres.flatten(1)).amin(1) < 0.1
        return torch.where(near, 5.0, 0.1).double()

    found = lookup_gap(noisy(network, strength), *images, generator(seed))
    assert found.members > found.nonmembers + 0.1
    assert not found.looks_up


def test_honest_targets_are_accused_as_rarely_as_stated(images, network):
    """200 draws of the noise and of the walks: |gap| / error is that of a normal law, and nothing is accused."""
    served = noisy(network, lambda x: torch.full((len(x),), 3.0))
    found = [lookup_gap(served, *images, generator(seed)) for seed in range(200)]
    ratios = np.array([f.gap / f.error for f in found])
    # The originals' noise is drawn once: their part of the error is common to all draws.
    assert abs(ratios.mean()) < 4
    assert ratios.std() < 1.2
    assert not any(f.looks_up for f in found)


# --- Tables -----------------------------------------------------------------------------------------


def uniform(honest):
    return torch.zeros_like(honest).log_softmax(1)


def softened(honest):
    return (honest / 2).log_softmax(1)


@pytest.mark.parametrize("answer", [uniform, softened], ids=["uniform", "softened"])
@pytest.mark.parametrize("seed", range(3))
def test_a_table_of_members_is_caught(images, network, answer, seed):
    found = lookup_gap(table(network, images[0], answer), *images, generator(seed))
    assert found.looks_up
    assert found.interval[0] < found.gap < found.interval[1]
    assert found.members > found.nonmembers


def test_a_table_of_half_of_the_members_is_caught(images, network):
    assert lookup_gap(table(network, images[0][:30], uniform), *images, generator()).looks_up


def test_a_table_behind_keyed_noise_is_caught(images, network):
    served = noisy(table(network, images[0], uniform), lambda x: torch.full((len(x),), 1.0))
    assert lookup_gap(served, *images, generator()).looks_up


def test_a_table_of_neighbourhoods_is_not_caught(images, network):
    """What the measurement can't see, as its description says: near-duplicates agree with the original."""
    members = images[0].flatten(1)

    def served(x):
        honest = network(x)
        near = (torch.cdist(x.flatten(1), members).amin(1) < 0.1).unsqueeze(1)
        return torch.where(near, uniform(honest), honest)

    assert not lookup_gap(served, *images, generator()).looks_up


# --- The walk ---------------------------------------------------------------------------------------


def test_a_near_duplicate_is_one_grey_level_away(images):
    x = images[0]
    moved = (near_duplicates(x, generator()) * 255 - x * 255).flatten(1)
    assert torch.equal((moved.abs() > 0.5).sum(1), torch.ones(len(x), dtype=torch.int64))
    assert torch.allclose(moved.abs().sum(1), torch.ones(len(x)), atol=1e-3)


def test_near_duplicates_are_images_of_eight_bits(images):
    near = near_duplicates(images[0], generator())
    assert torch.equal(near, (near * 255).round() / 255)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_at_the_ends_of_the_range_it_steps_inwards(value):
    near = near_duplicates(torch.full((50, 3, 4, 4), value), generator())
    assert near.min() >= 0
    assert near.max() <= 1
    assert (near != value).flatten(1).sum(1).tolist() == [1] * 50


def test_the_generator_decides_everything(images, network):
    served = table(network, images[0], uniform)
    first, second, other = (lookup_gap(served, *images, generator(s)) for s in (1, 1, 2))
    assert first == second != other


def test_queries_are_shuffled_and_bounded(network):
    x = torch.randint(0, 256, (300, 1, 6, 6), generator=generator()).float() / 255
    asked = []

    def served(queries):
        asked.append(queries)
        return network(queries)

    lookup_gap(served, x[:150], x[150:], generator())
    (queries,) = asked
    assert len(queries) == 2 * IMAGES * (1 + 2 * WALKS)
    originals = {hashlib.sha256(address(i)).digest() for i in x}
    positions = [i for i, q in enumerate(queries) if hashlib.sha256(address(q)).digest() in originals]
    assert positions != list(range(len(positions)))


def test_too_few_images_are_an_error(network):
    x = torch.zeros(1, 1, 6, 6)
    with pytest.raises(ValueError, match="expected 2 members and 2 non-members or more, given 1 and 5"):
        lookup_gap(network, x, x.repeat(5, 1, 1, 1), generator())


def test_its_metrics_are_registered():
    found = LookupGap(0.5, 0.1, 0.6, 0.1)
    assert set(found.metrics) <= set(METRICS)
    assert all(METRICS[n].low <= v <= METRICS[n].high for n, v in found.metrics.items())
