"""Targets that look members up, and honest ones that must not be accused of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.api import Context
from benchmark.judge.probes import WALKS, LookupGap, lookup_gap, near_duplicates, walk
from benchmark.metrics import METRICS
from benchmark.networks.access import CHUNK

K = 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def measure(predict, images, seed=0, stored=None):
    """What the judge finds of members and non-members; `stored` is what attacks were given, by default by this target."""
    answers = walk(predict, torch.cat(images), np.random.default_rng(seed))
    if stored is not None:
        answers[0] = stored(torch.cat(images))
    return lookup_gap(answers, len(images[0]))


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
    found = measure(network, images, seed)
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
    found = measure(noisy(network, lambda x: torch.full((len(x),), 3.0)), images, seed)
    assert not found.looks_up
    assert min(found.members, found.nonmembers) > 0.1, "it draws anew for a near-duplicate, everywhere"


@pytest.mark.parametrize("seed", range(5))
def test_noise_that_is_larger_around_members_is_not_a_table(images, network, seed):
    """Overfitting makes honest guards move more on one side: near-duplicates move as the originals do."""
    centres = images[0]

    def strength(x):
        near = torch.cdist(x.flatten(1), centres.flatten(1)).amin(1) < 0.1
        return torch.where(near, 5.0, 0.1).double()

    found = measure(noisy(network, strength), images, seed)
    assert found.members > found.nonmembers + 0.1
    assert not found.looks_up


def test_honest_targets_are_accused_as_rarely_as_stated(images, network):
    """200 draws of the noise and of the walks: each |difference| / error is that of a normal law, nothing is accused."""
    served = noisy(network, lambda x: torch.full((len(x),), 3.0))
    found = [measure(served, images, seed) for seed in range(200)]
    ratios = np.array([f.gap / f.error for f in found])
    # The originals' noise is drawn once: their part of the error is common to all draws.
    assert abs(ratios.mean()) < 4
    assert ratios.std() < 1.2
    # The least of nine p-values that go together; of what is discrete, none is smaller than it should be.
    assert np.mean([f.chance < 0.01 for f in found]) < 0.09
    assert not any(f.looks_up for f in found)


# --- Tables -----------------------------------------------------------------------------------------


def uniform(honest):
    return torch.zeros_like(honest).log_softmax(1)


def softened(honest):
    return (honest / 2).log_softmax(1)


@pytest.mark.parametrize("answer", [uniform, softened], ids=["uniform", "softened"])
@pytest.mark.parametrize("seed", range(3))
def test_a_table_of_members_is_caught(images, network, answer, seed):
    found = measure(table(network, images[0], answer), images, seed)
    assert found.looks_up
    assert found.interval[0] < found.gap < found.interval[1]
    assert found.members > found.nonmembers


@pytest.mark.parametrize("share", [0.02, 0.001, 1e-6])
def test_a_table_that_moves_members_a_little_is_caught(images, network, share):
    """Ranks move by the least move; the total variation hardly shows it."""

    def little(honest):
        return ((1 - share) * honest.exp() + share / K).log()

    smooth = lambda x: network(x.round(decimals=1))  # noqa: E731  one that near-duplicates hardly move
    found = measure(table(smooth, images[0], little), images)
    assert found.gap < 0.02 and found.looks_up


def test_a_table_that_rests_while_it_is_walked_is_caught_by_what_is_stored(images, network):
    """Whatever tells it that this is a walk: attacks were given other answers."""
    hidden = table(network, images[0], uniform)
    assert not measure(network, images).looks_up
    assert measure(network, images, stored=hidden).looks_up


@pytest.fixture(scope="module")
def many():
    """350 members and as many non-members."""
    x = torch.randint(0, 256, (700, 1, 6, 6), generator=generator(5)).float() / 255
    return x[:350], x[350:]


@pytest.mark.parametrize("share", [0.08, 0.15])
def test_a_table_of_few_members_is_caught(many, network, share):
    """Too few to move any mean beyond its error."""
    smooth = lambda x: network(x * 0.01)  # noqa: E731  one that near-duplicates hardly move
    few = many[0][: round(share * 350)]
    assert measure(table(smooth, few, lambda honest: honest.roll(1, 1)), many).looks_up
    assert not measure(smooth, many).looks_up


@pytest.mark.parametrize("masked", ["least", "second"])
def test_a_table_that_masks_its_steps_is_caught(many, network, masked):
    """Keyed noise on a class that no attack reads decides which log-posterior moves most, but not which posterior does."""
    context = Context(b"k" * 32, torch.device("cpu"), lambda name, x, make: make())
    smooth = lambda x: network(x * 0.01)  # noqa: E731

    def served(x, of):
        p = of(x).exp()
        index = p.argmin(1, keepdim=True) if masked == "least" else p.topk(2).indices[:, 1:]
        noise = p.gather(1, index) * 10 ** (-12 * context.uniform("mask", x, 1))
        return p.scatter(1, index, noise).div(p.scatter(1, index, noise).sum(1, keepdim=True)).log()

    def little(honest):
        return (0.98 * honest.exp() + 0.02 / K).log()

    hidden = table(smooth, many[0], little)
    assert measure(lambda x: served(x, hidden), many).looks_up
    assert not measure(lambda x: served(x, smooth), many).looks_up


def test_a_table_of_half_of_the_members_is_caught(images, network):
    assert measure(table(network, images[0][:30], uniform), images, 0).looks_up


def test_a_table_behind_keyed_noise_is_caught(many, network):
    served = noisy(table(network, many[0], uniform), lambda x: torch.full((len(x),), 1.0))
    assert measure(served, many).looks_up


def test_a_table_of_neighbourhoods_is_not_caught(images, network):
    """What the measurement can't see, as its description says: near-duplicates agree with the original."""
    members = images[0].flatten(1)

    def served(x):
        honest = network(x)
        near = (torch.cdist(x.flatten(1), members).amin(1) < 0.1).unsqueeze(1)
        return torch.where(near, uniform(honest), honest)

    assert not measure(served, images, 0).looks_up


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
    first, second, other = (measure(served, images, s) for s in (1, 1, 2))
    assert first == second != other


def test_calls_are_as_attacks_make_them(images, network):
    """Of many sizes; originals and near-duplicates mixed, on both sides alike; never two versions of one image."""
    asked = []

    def served(queries):
        asked.append(queries)
        return network(queries)

    x = torch.cat(images)
    walk(served, x, np.random.default_rng(0))
    assert sum(map(len, asked)) == len(x) * (1 + 2 * WALKS)
    sizes = [len(call) for call in asked]
    assert max(sizes) <= CHUNK and len(set(sizes)) > 5
    originals = {address(image): i for i, image in enumerate(x)}
    mixed, first = 0, []
    for call in asked:
        apart = torch.cdist(call.flatten(1), x.flatten(1), p=1)
        nearest = apart.argmin(1)
        assert len(nearest.unique()) == len(call), "two versions of one image in one call"
        known = [address(image) in originals for image in call]
        mixed += 0 < sum(known) < len(known)
        first += [i in range(len(images[0])) for i, k in zip(nearest.tolist(), known, strict=True) if k]
    assert mixed >= 0.6 * len(asked)
    position = np.flatnonzero(first).mean() / len(first)
    assert abs(position - 0.5) < 0.15, "members do not come first"


def test_each_answer_belongs_to_its_version(images):
    """A target that answers with the image itself: originals come back, and steps are as long as they should be."""
    x = torch.cat(images)
    answers = walk(lambda q: q.flatten(1).double(), x, np.random.default_rng(1))
    assert torch.equal(answers[0], x.flatten(1).double())
    near, far = answers[1 : 1 + WALKS], answers[1 + WALKS :]
    for step in (near - answers[0], far - near):
        assert torch.allclose(step.abs().sum(2), torch.full(step.shape[:2], 1 / 255, dtype=torch.float64), atol=1e-6)


def test_too_few_images_are_an_error():
    with pytest.raises(ValueError, match="expected 2 members and 2 non-members or more, given 1 and 5"):
        lookup_gap(torch.zeros(1 + 2 * WALKS, 6, K, dtype=torch.float64), 1)


def test_its_metrics_are_registered():
    found = LookupGap(0.5, 0.1, 0.6, 0.1, 0.9, 1e-9)
    assert set(found.metrics) <= set(METRICS)
    assert all(METRICS[n].low <= v <= METRICS[n].high for n, v in found.metrics.items())
