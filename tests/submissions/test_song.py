"""Song et al.'s adversarial attacks against the Adversarial Robustness Toolbox, closed forms and degenerate targets."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentNumpy
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmark.api import Candidates, Knowledge, Samples, Target, World, logit_margin

FOLDER = Path(__file__).parents[2] / "submissions" / "attacks"
SHAPE, CLASSES = (1, 8, 8), 4


def module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"attack_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def entry(name: str, **params: Any) -> Any:
    loaded = module(name)
    kind: Any
    (kind,) = [v for v in vars(loaded).values() if isinstance(v, type) and v.__module__ == loaded.__name__]
    return kind(kind.Params(**params))


class Open(Target):
    """A network to be seen, times `scale`: 0 gives constant posteriors, 1e3 saturated ones."""

    def __init__(self, network: nn.Module, scale: float = 1.0):
        self.network, self.scale = nn.Sequential(network, Times(scale)).eval(), scale
        self.seen: list[Tensor] = []

    def white_box(self) -> nn.Module:
        return self.network

    @torch.no_grad()
    def log_posteriors(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.network(x).double().log_softmax(1)


class Times(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def perceptron(seed: int = 0, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))


def samples(n: int, seed: int = 0, classes: int = CLASSES) -> Samples:
    g = torch.Generator().manual_seed(seed)
    return Samples(torch.rand(n, *SHAPE, generator=g), torch.randint(classes, (n,), generator=g))


def candidates(n: int, seed: int = 0) -> Candidates:
    s = samples(n, seed)
    return Candidates(s.x, s.y, torch.arange(n))


def fitted(name: str, target: Target, known: tuple[Samples, Samples] | None = None, **params: Any) -> Any:
    attack = entry(name, **params)
    world = World(target, *(known or (samples(60, 1), samples(50, 2))))
    attack.fit(Knowledge(CLASSES, SHAPE, 7, torch.device("cpu"), partial=world))
    return attack


ENTRIES: list[tuple[str, dict[str, Any]]] = [
    ("song_adversarial", {}),
    ("song_targeted", {"epochs": 3}),
    ("song_targeted", {"rule": "mean"}),
]


@pytest.mark.parametrize(("name", "params"), ENTRIES)
def test_scores_depend_on_the_sample_alone(name: str, params: dict[str, Any]) -> None:
    target, c = Open(perceptron(2)), candidates(50)
    attack = fitted(name, target, **params)
    scores = attack.score(target, c, None)
    assert scores.shape[-1] == 50 and scores.dtype == torch.float64
    assert torch.equal(attack.score(target, c, None), scores)
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(3))[:11]
    again = attack.score(target, Candidates(c.x[rows], c.y[rows], c.id[rows]), None)
    torch.testing.assert_close(again, scores[..., rows], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "params"), ENTRIES)
@pytest.mark.parametrize("case", ["constant", "saturated", "all wrong", "class missing"])
def test_scores_are_finite(name: str, params: dict[str, Any], case: str) -> None:
    target = Open(perceptron(2), {"constant": 0.0, "saturated": 1e3}.get(case, 1.0))
    c = candidates(30)
    if case == "all wrong":
        c = Candidates(c.x, (target.log_posteriors(c.x).argmax(1) + 1) % CLASSES, c.id)
    known = (samples(60, 1, 3), samples(50, 2, 3)) if case == "class missing" else None
    assert fitted(name, target, known, **params).score(target, c, None).isfinite().all()


@pytest.mark.parametrize(("name", "params"), ENTRIES)
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 1.0])
def test_images_stay_in_the_ball_and_the_box(name: str, params: dict[str, Any], epsilon: float) -> None:
    target, c = Open(perceptron(2)), candidates(40)
    attack = fitted(name, target, epsilon=epsilon, **params)
    target.seen.clear()
    attack.score(target, c, None)
    asked = torch.cat(target.seen)
    assert len(asked) == 40 * (1 if name == "song_adversarial" else CLASSES - 1)
    change = (asked - c.x.repeat_interleave(len(asked) // 40, 0)).abs()
    assert float(change.max()) <= epsilon + 1e-6 and float(asked.min()) >= 0 and float(asked.max()) <= 1
    assert float(change.max()) > 0.9 * min(epsilon, 0.5)


def test_confidence_under_attack_of_a_linear_network() -> None:
    """Two classes: PGD ends at the worst corner of the ball, where the margin is m - epsilon |w|_1."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    target, g = Open(network), torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(30, *SHAPE, generator=g)
    c = Candidates(x, torch.randint(2, (30,), generator=g), torch.arange(30))
    scores = fitted("song_adversarial", target, epsilon=0.1).score(target, c, None)
    (weight,), bias = network[1].weight.diff(dim=0).detach().double(), network[1].bias.diff().detach().double()
    margin = (x.flatten(1).double() @ weight + bias) * (2 * c.y - 1) - 0.1 * weight.abs().sum()
    torch.testing.assert_close(scores, nn.functional.logsigmoid(margin), rtol=1e-4, atol=1e-5)


def test_a_saturated_network_is_attacked_all_the_same() -> None:
    """Its cross-entropy has a gradient of 0 in float32; its margin hasn't."""
    network, c = perceptron(2), candidates(40)
    plain, saturated = Open(network), Open(network, 1e3)
    c = Candidates(c.x, plain.log_posteriors(c.x).argmax(1), c.id)
    image = c.x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(saturated.network(image), c.y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, image)
    assert (gradient.flatten(1).abs().sum(1) == 0).double().mean() > 0.5
    pgd = module("song_adversarial").pgd
    moved = pgd(saturated.network, c.x, c.y, 0.1)
    assert ((moved - c.x).flatten(1).abs().amax(1) > 0.09).all()
    assert (saturated.log_posteriors(moved).argmax(1) != c.y).double().mean() > 0.5


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_images_beside_the_toolbox(targeted: bool, epsilon: float) -> None:
    network, c = perceptron(2).eval(), candidates(60)
    peer = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=(0.0, 1.0), device_type="cpu")
    attack = ProjectedGradientDescentNumpy(
        peer, eps=epsilon, eps_step=2.5 * epsilon / 20, max_iter=20, targeted=targeted, num_random_init=0, verbose=False
    )
    y = (c.y + 1) % CLASSES if targeted else c.y
    theirs = torch.tensor(attack.generate(c.x.numpy(), y=y.numpy()))
    loaded = module("song_targeted" if targeted else "song_adversarial")
    ours = loaded.pgd(network, c.x, y, epsilon, *([1] if targeted else []))
    assert float((ours - c.x).abs().max()) > 0.9 * epsilon
    # A pixel whose gradient is small beside the rounding to bfloat16 may step either way, and moves nothing.
    assert float(((ours - theirs).abs() < 1e-5).double().mean()) > 0.88
    with torch.no_grad():
        reached, peers = (logit_margin(network(images), y) for images in (ours, theirs))
    torch.testing.assert_close(reached, peers, rtol=0, atol=0.1 * float(peers.std()))


def test_mean_confidence_is_the_mean_and_keeps_its_digits() -> None:
    loaded = module("song_targeted")
    g = torch.Generator().manual_seed(0)
    answers = torch.randn(20, 3, CLASSES, generator=g, dtype=torch.float64).log_softmax(2)
    y = torch.randint(CLASSES, (20,), generator=g)
    plain = answers.exp()[torch.arange(20), :, y].mean(1)
    torch.testing.assert_close(loaded.mean_confidence(answers, y), -(1 - plain).log())
    sure = torch.tensor([[0.0, -50.0]] * 3, dtype=torch.float64).log_softmax(1).unsqueeze(0)
    found = loaded.mean_confidence(torch.cat([sure, sure - torch.tensor([0.0, 5.0])]), torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([50.0, 55.0], dtype=torch.float64))


def test_answers_stand_in_the_order_of_the_wrong_labels() -> None:
    target = Open(perceptron(2))
    attack = fitted("song_targeted", target, epochs=1)
    s = samples(12, 5)
    answers = attack._answers(target, s)
    towards = module("song_targeted").pgd
    for i in range(12):
        for place, wrong in enumerate(w for w in range(CLASSES) if w != s.y[i]):
            image = towards(target.network, s.x[i : i + 1], torch.tensor([wrong]), 0.1, 1)
            torch.testing.assert_close(answers[i, place], target.log_posteriors(image)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("images", ["untargeted", "benign"])
def test_the_controls_answer_at_one_image(images: str) -> None:
    """Where I_A looks, or at the sample itself."""
    target, s = Open(perceptron(2)), samples(12, 5)
    answers = fitted("song_targeted", target, epochs=1, images=images)._answers(target, s)
    at = module("song_adversarial").pgd(target.network, s.x, s.y, 0.1) if images == "untargeted" else s.x
    assert answers.shape == (12, 1, CLASSES)
    torch.testing.assert_close(answers[:, 0], target.log_posteriors(at), rtol=1e-3, atol=1e-4)


def test_of_many_wrong_labels_some_are_attacked() -> None:
    target, s = Open(perceptron(2)), samples(12, 5)
    some, every = (fitted("song_targeted", target, epochs=1, labels=n)._answers(target, s) for n in (1, 9))
    assert some.shape == (12, 1, CLASSES) and every.shape == (12, CLASSES - 1, CLASSES)
    for i, label in enumerate(s.y.tolist()):
        following = sorted((label + 1 + k) % CLASSES for k in range(CLASSES - 1)).index((label + 1) % CLASSES)
        torch.testing.assert_close(some[i, 0], every[i, following], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("known", "networks"), [(1200, CLASSES), (100, 1)])
def test_members_are_told_apart_by_networks_of_their_class_where_enough_is_known(known: int, networks: int) -> None:
    """Members are those of a class that the network is surer of: there the answers to targeted images differ."""
    target, pool = Open(perceptron(2), 5.0), samples(2 * known, 3)
    sure = target.log_posteriors(pool.x).gather(1, pool.y.unsqueeze(1)).squeeze(1)
    median = torch.stack([sure[pool.y == label].median() for label in range(CLASSES)])
    inner = sure > median[pool.y]
    members, others = (Samples(pool.x[rows], pool.y[rows]) for rows in (inner, ~inner))
    attack = fitted("song_targeted", target, (halves(members, 0), halves(others, 0)), epochs=20)
    assert len(attack.networks) == networks
    inside, outside = (
        attack.score(target, Candidates(p.x, p.y, torch.arange(len(p))), None).mean(0)
        for p in (halves(members, 1), halves(others, 1))
    )
    assert float((inside.unsqueeze(1) > outside).double().mean()) > 0.8
    assert np.isfinite(inside.numpy()).all()


def halves(s: Samples, which: int) -> Samples:
    """Every second sample."""
    return Samples(s.x[which::2], s.y[which::2])
