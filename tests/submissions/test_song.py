"""Song et al.'s adversarial attacks against the Adversarial Robustness Toolbox, closed forms and degenerate targets."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentNumpy
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmark.api import Candidates, Knowledge, Samples, Target, World

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
    assert len(asked) == 40
    change = (asked - c.x).abs()
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


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_images_beside_the_toolbox(epsilon: float) -> None:
    network, c = perceptron(2).eval(), candidates(60)
    peer = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=(0.0, 1.0), device_type="cpu")
    attack = ProjectedGradientDescentNumpy(
        peer, eps=epsilon, eps_step=2.5 * epsilon / 20, max_iter=20, num_random_init=0, verbose=False
    )
    theirs = torch.tensor(attack.generate(c.x.numpy(), y=c.y.numpy()))
    ours = module("song_adversarial").pgd(network, c.x, c.y, epsilon)
    assert float((ours - c.x).abs().max()) > 0.9 * epsilon
    # A pixel whose gradient is 0 but for rounding may step either way.
    assert float(((ours - theirs).abs() < 1e-5).double().mean()) > 0.99
