"""The label-only attacks against closed forms, the Adversarial Robustness Toolbox and degenerate targets."""

import importlib.util
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import HopSkipJump
from art.attacks.inference.membership_inference import LabelOnlyGapAttack
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmark.api import Candidates, Knowledge, Samples, Target, World

FOLDER = Path(__file__).parents[2] / "submissions" / "attacks"
SHAPE = (1, 8, 8)
NAMES = ["label_only_boundary", "label_only_noise", "label_only_augmentation"]


def entry(name: str, **params: Any) -> Any:
    spec = importlib.util.spec_from_file_location(f"attack_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    kind: Any
    (kind,) = [v for v in vars(loaded).values() if isinstance(v, type) and v.__module__ == loaded.__name__]
    return kind(kind.Params(**params))


class Labels(Target):
    """Answers labels alone, and counts the images."""

    def __init__(self, network: nn.Module):
        self.network, self.asked = network.eval(), 0

    @torch.no_grad()
    def labels(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == SHAPE and x.dtype == torch.float32 and float(x.min()) >= 0 and float(x.max()) <= 1
        self.asked += len(x)
        return self.network(x).argmax(1)


def linear(classes: int = 2, seed: int = 0) -> nn.Sequential:
    """Two classes: the boundary is a plane through the middle of the box."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    with torch.no_grad():
        network[1].bias.copy_(-network[1].weight.sum(1) / 2)
    return network


class Constant(nn.Module):
    """One class, whatever it is asked."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(4)[0].expand(len(x), 4)


def candidates(n: int, seed: int = 0, spread: float = 1.0, classes: int = 2) -> Candidates:
    g = torch.Generator().manual_seed(seed)
    x = 0.5 + spread * (torch.rand(n, *SHAPE, generator=g) - 0.5)
    return Candidates(x, torch.randint(classes, (n,), generator=g), torch.arange(n))


def rightly(c: Candidates, target: Labels) -> Candidates:
    """The same images, labelled as the target does."""
    return Candidates(c.x, target.labels(c.x), c.id)


def knowledge(target: Target, seed: int = 7, classes: int = 2) -> Knowledge:
    parts = [candidates(40, s, classes=classes) for s in (1, 2)]
    world = World(target, *(Samples(p.x, p.y) for p in parts))
    return Knowledge(classes, SHAPE, seed, torch.device("cpu"), shadow=world)


def fitted(name: str, target: Target, seed: int = 7, **params: Any) -> Any:
    attack = entry(name, **params)
    attack.fit(knowledge(target, seed))
    return attack


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Candidates]:
    """A network that has learnt half of the digits by heart, and 30 of each half."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    update = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        update.zero_grad()
        nn.functional.cross_entropy(network(x[:300]), y[:300]).backward()
        update.step()
    rows = torch.cat([torch.arange(30), 300 + torch.arange(30)])
    return network.eval(), Candidates(x[rows], y[rows], rows)


# --- What holds for all three -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scores_depend_on_the_sample_alone(name: str) -> None:
    target = Labels(linear())
    c = rightly(candidates(40, spread=0.6), target)
    attack = fitted(name, target)
    scores = attack.score(target, c, None)
    assert scores.shape == (40,) and scores.dtype == torch.float64 and scores.unique().numel() > 5
    assert torch.equal(attack.score(target, c, None), scores)
    for rows in (torch.randperm(40, generator=torch.Generator().manual_seed(3)), torch.tensor([17])):
        again = attack.score(target, Candidates(c.x[rows], c.y[rows], c.id[rows]), None)
        torch.testing.assert_close(again, scores[rows], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_label_takes_the_rest(name: str) -> None:
    """Of two classes the other gets what y does not; of distances nothing is left."""
    target = Labels(linear())
    c = rightly(candidates(40), target)
    wrong = Candidates(c.x, 1 - c.y, c.id)
    attack = fitted(name, target)
    right = attack.score(target, c, None)
    target.asked = 0
    scores = attack.score(target, wrong, None)
    if name == "label_only_boundary":
        assert (scores == 0).all() and (right > 0).all()
        assert target.asked == 125 + 250, "one batch for the labels, and the noise images"
    else:
        torch.testing.assert_close(scores, 1 - right)
        assert float(right.max()) > float(right.min())


# --- The boundary -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "order", "slack"), [("l2", 2, 1.1), ("linf", 1, 1.25)])
def test_distances_to_a_plane(norm: str, order: int, slack: float) -> None:
    network = linear()
    target = Labels(network)
    c = rightly(candidates(100, spread=0.4), target)  # far enough from the box's sides for it not to bind
    (weight,), bias = network[1].weight.diff(dim=0).detach(), network[1].bias.diff()
    exact = ((c.x.flatten(1) @ weight + bias).abs() / weight.norm(order)).double().detach()
    found = fitted("label_only_boundary", target, norm=norm, queries=3000).score(target, c, None)
    assert (found >= exact * (1 - 1e-3) - 1e-5).all(), "nearer than the boundary"
    assert float((found / exact).median()) < slack
    assert np.corrcoef(found, exact)[0, 1] > 0.95
    coarse = fitted("label_only_boundary", target, norm=norm, queries=200).score(target, c, None)
    assert float(coarse.mean()) > float(found.mean()), "more queries find nearer images"


@pytest.mark.parametrize("queries", [200, 777, 3000])
def test_queries_keep_to_the_budget(queries: int) -> None:
    target = Labels(linear())
    c = rightly(candidates(500), target)  # full batches: nothing is filled up but the last of each question
    attack = fitted("label_only_boundary", target, queries=queries)
    target.asked = 0
    attack.score(target, c, None)
    questions = target.asked - 250
    assert 500 * (queries - 40) <= questions <= 500 * queries * 1.1


@pytest.mark.parametrize(("norm", "largest"), [("l2", 8.0), ("linf", 1.0)])
def test_no_start_is_the_largest_distance_and_said(norm: str, largest: float) -> None:
    target = Labels(Constant())
    c = Candidates(candidates(10).x, torch.tensor([0] * 6 + [1] * 4), torch.arange(10))
    attack = fitted("label_only_boundary", target, norm=norm)
    with pytest.warns(UserWarning, match="no start for 6 of 10 samples"):
        scores = attack.score(target, c, None)
    assert scores.tolist() == [largest] * 6 + [0.0] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack.score(Labels(linear()), c, None)


def test_another_seed_probes_elsewhere() -> None:
    target = Labels(linear())
    c = rightly(candidates(20, spread=0.4), target)
    one, other = (fitted("label_only_boundary", target, seed).score(target, c, None) for seed in (7, 8))
    assert not torch.equal(one, other) and np.corrcoef(one, other)[0, 1] > 0.9


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distances_beside_the_toolbox(digits: tuple[nn.Module, Candidates], norm: str) -> None:
    network, c = digits
    target = Labels(network)
    c = rightly(c, target)
    peer = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, 10, clip_values=(0.0, 1.0), device_type="cpu")
    asked, predict = 0, peer.predict

    def counted(x: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += len(x)
        return predict(x.astype(np.float32), **kwargs)  # under NumPy 2 the toolbox's own sums make it float64

    peer.predict = counted
    order = 2 if norm == "l2" else np.inf
    walk = HopSkipJump(peer, norm=order, max_iter=4, init_eval=100, init_size=100, verbose=False)
    # The toolbox's starts are drawn from the operating system's entropy: ours are given, one noise image each.
    noise = np.random.default_rng(0).random((400, *SHAPE), dtype=np.float32)
    denied = target.labels(torch.tensor(noise)).numpy() != c.y.numpy()[:, None]
    usable = torch.tensor(denied.any(1))
    c = Candidates(c.x[usable], c.y[usable], c.id[usable])
    starts = noise[denied[usable.numpy()].argmax(1)]
    moved = torch.tensor(walk.generate(c.x.numpy(), x_adv_init=starts)) - c.x
    theirs = moved.flatten(1).norm(dim=1) if norm == "l2" else moved.flatten(1).abs().amax(1)
    attack = fitted("label_only_boundary", target, norm=norm, queries=asked // len(c))
    ours = attack.score(target, c, None)
    assert len(c) > 40 and float(theirs.min()) > 0
    assert float(ours.median()) <= float(theirs.median())
    assert np.corrcoef(ours, theirs)[0, 1] > 0.5, "both measure one distance"


# --- Noise and views --------------------------------------------------------------------------------


def test_noise_keeps_a_label_as_often_as_a_normal_law_says() -> None:
    network = linear()
    target = Labels(network)
    c = rightly(candidates(200, spread=0.2), target)
    attack = fitted("label_only_noise", target, copies=4000)
    (weight,), bias = network[1].weight.diff(dim=0).detach(), network[1].bias.diff()
    exact = ((c.x.flatten(1) @ weight + bias).abs() / weight.norm()).double().detach()
    for deviation in (0.025, 0.05):  # small enough for the box's sides to be out of reach
        attack.noise = attack.noise / attack.noise.std() * deviation
        shares = attack.score(target, c, None)
        expected = 0.5 * (1 + torch.erf(exact / deviation / math.sqrt(2)))
        assert float((shares - expected).abs().max()) < 0.05


def test_noise_is_as_strong_as_the_shadow_world_says() -> None:
    """Members lie 1 from the plane and non-members 0.3: a deviation near these parts them, a tiny one doesn't."""
    network = linear()
    target = Labels(network)
    (weight,) = network[1].weight.diff(dim=0).detach()
    along = (weight / weight.norm()).view(SHAPE)
    across = candidates(80, spread=0.1).x - 0.5
    across = across - (across * along).sum((1, 2, 3), keepdim=True) * along
    parts = [Samples(0.5 + across + d * along, torch.ones(80, dtype=torch.long)) for d in (1.0, 0.3)]
    attack = entry("label_only_noise")
    attack.fit(Knowledge(2, SHAPE, 7, torch.device("cpu"), shadow=World(target, *parts)))
    assert float(attack.noise.std()) > 0.1
    inside, outside = (attack.score(target, Candidates(p.x, p.y, torch.arange(80)), None) for p in parts)
    assert float(inside.min()) > float(outside.max())


def test_a_large_shadow_world_is_asked_in_part() -> None:
    """The choice asks for the copies of 500 members and 500 non-members at most, for each of six deviations."""
    target = Labels(linear())
    parts = [candidates(n) for n in (700, 30)]
    world = World(target, *(Samples(c.x, c.y) for c in parts))
    entry("label_only_noise", copies=1).fit(Knowledge(2, SHAPE, 7, torch.device("cpu"), shadow=world))
    assert target.asked == 6 * 2 * (500 + 30)


@pytest.mark.parametrize("flip", [True, False])
def test_views_are_all_shifts_and_flips(flip: bool) -> None:
    x = candidates(2).x
    found = {tuple(v.flatten().tolist()) for v in entry("label_only_augmentation", shift=2, flip=flip)._views(x)[1]}
    plain = x[1, 0].numpy()
    expected = set()
    for image in (plain, plain[:, ::-1])[: 2 if flip else 1]:
        wide = np.pad(image, 2)
        expected |= {tuple(wide[i : i + 8, j : j + 8].flatten().tolist()) for i in range(5) for j in range(5)}
    assert found == expected and len(expected) == (50 if flip else 25)


# --- The gap ----------------------------------------------------------------------------------------


def test_correctness_is_the_toolbox_gap_attack(digits: tuple[nn.Module, Candidates]) -> None:
    network, c = digits
    peer = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, 10, clip_values=(0.0, 1.0), device_type="cpu")
    theirs = np.asarray(LabelOnlyGapAttack(peer).infer(c.x.numpy(), c.y.numpy())).reshape(-1)
    ours = fitted("metric_corr", Labels(network)).score(Labels(network), c, None)
    assert 0 < theirs.mean() < 1
    assert np.array_equal((ours > 0).numpy(), theirs == 1)
