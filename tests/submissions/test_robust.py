"""Robust training and I_V against closed forms, one-sample loops and hand computations."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark import protocol
from benchmark.api import Candidates, Claims, Defense, Knowledge, Samples, Target
from benchmark.networks import Network
from benchmark.networks.training import TrainingRun
from submissions.attacks import song_verified
from submissions.defenses import ibp, pgd_training, trades, wrm

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)
MODULES = {"pgd_training": pgd_training, "trades": trades, "wrm": wrm, "ibp": ibp}


def samples(n: int = 40, classes: int = 4, seed: int = 0) -> Samples:
    """Images with a bright quadrant each, of its class, under noise."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    x = 0.6 * torch.rand(n, *SHAPE, generator=g)
    for i, label in enumerate(y.tolist()):
        r, c = 4 * (label // 2 % 2), 4 * (label % 2)
        x[i, :, r : r + 4, c : c + 4] += 0.3
    return Samples(x, y)


def task(architecture: str = "small_cnn", n: int = 40, train: Samples | None = None, **recipe: Any) -> TrainingRun:
    settings = {"epochs": 2, "batch_size": 10, "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.0} | recipe
    given = train or samples(n)
    return TrainingRun(
        train=given, reference=given, validation=given, classes=4, simple={}, seed=0, device=CPU,
        architecture=architecture, recipe=protocol.load("smoke").recipe.model_copy(update=settings),
    )  # fmt: skip


def make(name: str, **params: Any) -> Any:
    module = MODULES[name]
    (cls,) = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Defense) and c is not Defense]
    return cls(cls.Params(**params))


def small(seed: int = 0, classes: int = 4, norm: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(), nn.Flatten(),
        nn.Linear(384, classes),
    )  # fmt: skip


def linear(seed: int = 0) -> nn.Module:
    """Two classes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- All four ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_the_seed_alone_decides_the_weights(name):
    first, again = (make(name).train(task()).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("name", MODULES)
def test_the_claim_is_the_radius(name):
    radius = 0.07
    expected = Claims(robust=radius, certificate=radius if name == "ibp" else None)
    assert make(name, epsilon=radius).claims(task()) == expected


@pytest.mark.parametrize("name", MODULES)
def test_a_residual_network_trains_a_few_steps(name):
    few = {"warm_up": 0} if name == "ibp" else {"steps": 2}
    network = make(name, **few).train(task("resnet18", n=8, epochs=1, batch_size=4, precision="bfloat16"))
    assert not network.training
    assert all(t.isfinite().all() for t in network.state_dict().values())
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_ibp_refuses_a_network_that_it_cannot_bound_before_it_trains(monkeypatch):
    monkeypatch.setattr(TrainingRun, "fit", lambda *a, **k: pytest.fail("it trained"))
    monkeypatch.setattr(MODULES["ibp"].IBP, "network", lambda self, task: nn.Sequential(nn.Flatten(), nn.Sigmoid()))
    with pytest.raises(ValueError, match=r"^interval bounds: expected layers of .*, given Sigmoid$"):
        make("ibp").train(task(n=4))


def test_ibp_trains_batch_norm_in_bfloat16():
    network = make("ibp", warm_up=0).train(task("vgg11", n=20, epochs=1, precision="bfloat16"))
    assert all(t.isfinite().all() for t in network.state_dict().values())


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("pgd_training", {"epsilon": 0}), ("pgd_training", {"share": 1.1}), ("pgd_training", {"steps": 0}),
        ("trades", {"beta": 0}), ("trades", {"epsilon": 1.5}), ("wrm", {"transport": "l3"}), ("wrm", {"a": -1}),
        ("ibp", {"verified": 0}), ("ibp", {"ramp": 0.6}),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(name, given):
    with pytest.raises(ValueError, match=next(iter(given))):
        make(name, **given)


# --- PGD adversarial training -----------------------------------------------------------------------


def test_pgd_stays_in_ball_and_box_and_hurts():
    network, s = small(norm=True).train(), samples()
    found = make("pgd_training").attack(network, s.x, s.y, 0.1, generator())
    change = (found - s.x).abs()
    assert 0.09 < float(change.max()) <= 0.1 + 1e-6 and float(found.min()) >= 0 and float(found.max()) <= 1
    losses = [nn.functional.cross_entropy(network(x), s.y).item() for x in (s.x, found)]
    assert losses[1] > losses[0] + 0.05


def test_pgd_of_a_linear_network_ends_at_the_worst_corner():
    network, defense = linear(), make("pgd_training", steps=20, step_size=0.02)
    x, y = 0.3 + 0.4 * torch.rand(30, *SHAPE, generator=generator(1)), torch.arange(30) % 2
    found = defense.attack(network, x, y, 0.1, generator())
    weight = network[1].weight.diff(dim=0).view(1, *SHAPE).sign()
    torch.testing.assert_close(found, x - 0.1 * weight * (2 * y - 1).view(-1, 1, 1, 1))


def test_pgd_starts_at_random_and_moves_by_steps_along_the_sign_of_the_cross_entropy():
    network, s = small(), samples(12)
    defense = make("pgd_training", steps=3, step_size=0.01)
    found = defense.attack(network, s.x, s.y, 0.1, generator(5))
    start = s.x + 0.1 * (2 * torch.rand(s.x.shape, generator=generator(5)) - 1)
    for i in range(12):
        image, x = start[i : i + 1].clamp(0, 1), s.x[i : i + 1]
        for _ in range(3):
            image = image.detach().requires_grad_()
            nn.functional.cross_entropy(network(image), s.y[i : i + 1]).backward()
            image = torch.minimum(torch.maximum(image + 0.01 * image.grad.sign(), x - 0.1), x + 0.1).clamp(0, 1)
        torch.testing.assert_close(found[i : i + 1], image.detach())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 1.0])
def test_the_share_is_of_points_and_does_not_change(share):
    defense, t = make("pgd_training", share=share), task(n=41)
    first, again = defense.targets(t), defense.targets(t)
    assert torch.equal(first, again) and torch.equal(first[:, 0], t.train.y)
    assert int(first[:, 1].sum()) == round(share * 41)
    fewer = make("pgd_training", share=share / 2).targets(t)[:, 1]
    assert bool((fewer <= first[:, 1]).all())  # who is robust at a smaller share stays so at a larger one


def test_points_of_the_share_alone_are_moved(monkeypatch):
    """In every batch of every epoch; and the ones moved are those that `targets` names."""
    moved: dict[int, set[bool]] = {}
    defense, t = make("pgd_training", share=0.5), task()
    attack = defense.attack

    def watched(network, x, y, reach, g):
        found = attack(network, x, y, reach, g)
        for before, after in zip(x, found, strict=True):
            (row,) = (t.train.x == before).flatten(1).all(1).nonzero().flatten().tolist()
            moved.setdefault(row, set()).add(not torch.equal(before, after))
        return found

    monkeypatch.setattr(defense, "attack", watched)
    defense.train(t)
    flags = defense.targets(t)[:, 1].bool().tolist()
    assert moved == {row: {flag} for row, flag in enumerate(flags)}


def test_without_robust_points_training_is_natural():
    t = task()
    plain, none = t.fit(t.build()).state_dict(), make("pgd_training", share=0).train(task()).state_dict()
    assert all(torch.equal(plain[key], none[key]) for key in plain)


def test_the_attack_goes_by_the_batch_and_leaves_the_running_statistics():
    network, s = small(norm=True).train(), samples(20)
    before = copy.deepcopy(network.state_dict())
    defense = make("pgd_training")
    trained = defense.attack(network, s.x, s.y, 0.1, generator())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network[1].track_running_stats and network.training
    evaluated = defense.attack(network.eval(), s.x, s.y, 0.1, generator())
    assert not torch.equal(trained, evaluated)


def test_a_robust_network_is_more_robust():
    from benchmark.judge.robustness import robust

    s = samples(200)
    t = task(train=s, epochs=15)
    kept = [
        float(robust(n, s.x, s.y, 0.1, generator()).double().mean())
        for n in (t.fit(t.build()), make("pgd_training").train(t))
    ]
    assert kept[1] > kept[0] + 0.05


# --- TRADES -----------------------------------------------------------------------------------------


def test_trades_by_hand():
    logits = torch.tensor([[math.log(0.5), math.log(0.5)], [math.log(0.9), math.log(0.1)]])
    attacked = torch.tensor([[math.log(0.25), math.log(0.75)], [math.log(0.6), math.log(0.4)]])
    found = make("trades", beta=3).penalised(logits, attacked, torch.tensor([0, 1]))
    natural = -(math.log(0.5) + math.log(0.1)) / 2
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    second = 0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4)
    assert found.item() == pytest.approx(natural + 3 * (first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("as_released", [False, True])
def test_trades_pulls_the_clean_answer_unless_as_released(as_released):
    """The gradient in the clean logits: of KL(p || q) it is p * (log p/q - KL) by element, or 0 where p is a constant."""
    g = generator()
    logits, attacked = (torch.randn(6, 4, generator=g, dtype=torch.float64) for _ in range(2))
    y = torch.randint(4, (6,), generator=g)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(
        make("trades", beta=2, as_released=as_released).penalised(logits, attacked, y), logits
    )
    p, q = logits.detach().softmax(1), attacked.softmax(1)
    ratio = (p / q).log()
    pulled = p * (ratio - (p * ratio).sum(1, keepdim=True))
    expected = (p - nn.functional.one_hot(y, 4)) / 6 + (0 if as_released else 2 * pulled / 6)
    torch.testing.assert_close(gradient, expected)


def test_trades_of_a_linear_network_ends_at_a_corner_of_the_ball():
    """Along the weights' difference the divergence grows both ways: each image goes to one of the two corners."""
    network, x = linear(), 0.3 + 0.4 * torch.rand(30, *SHAPE, generator=generator(1))
    found = make("trades", steps=20).attack(network, x, generator())
    way = network[1].weight.diff(dim=0).view(1, *SHAPE).sign()
    side = ((found - x) * way).flatten(1).mean(1).sign().view(-1, 1, 1, 1)
    torch.testing.assert_close(found, x + 0.1 * side * way)
    assert side.abs().min() == 1 and len(side.unique()) == 2


def test_trades_attacks_each_image_as_alone():
    network, x = small().eval().double(), samples(12).x.double()  # in float32, rounding would turn small gradients
    defense = make("trades", steps=3, step_size=0.02)
    found = defense.attack(network, x, generator(5))
    start = x + 1e-3 * torch.randn(x.shape, generator=generator(5))
    for i in range(12):
        image, clean = start[i : i + 1], x[i : i + 1]
        p = network(clean).detach().softmax(1)
        for _ in range(3):
            image = image.detach().requires_grad_()
            (p * (p.log() - network(image).log_softmax(1))).sum().backward()
            image = torch.minimum(torch.maximum(image + 0.02 * image.grad.sign(), clean - 0.1), clean + 0.1).clamp(0, 1)
        torch.testing.assert_close(found[i], image[0].detach())


def test_trades_attacks_in_eval_mode_and_trains_in_training_mode(monkeypatch):
    modes, defense = [], make("trades", steps=1)
    attack, penalised = defense.attack, defense.penalised
    t = task("vgg11", n=12, epochs=1, precision="bfloat16")
    network = t.build()
    monkeypatch.setattr(defense, "network", lambda _: network)
    monkeypatch.setattr(defense, "attack", lambda *a: modes.append(network.training) or attack(*a))
    monkeypatch.setattr(defense, "penalised", lambda *a: modes.append(network.training) or penalised(*a))
    defense.train(t)
    assert modes == [False, True] * 2


# --- WRM --------------------------------------------------------------------------------------------


def test_wrm_of_a_linear_network_in_one_step():
    """From x: the gradient is (p_1 - y) times the weights' difference; g shrinks by its mean size, where it moves."""
    network = linear()
    x, y = 0.3 + 0.4 * torch.rand(20, *SHAPE, generator=generator(1)), torch.arange(20) % 2
    found = make("wrm", steps=1, a=0.5).moved(network, x, y)
    p = network(x).detach().softmax(1)[:, 1]
    g = 0.5 * (p - y).view(-1, 1, 1, 1) * network[1].weight.detach().diff(dim=0).view(1, *SHAPE)
    torch.testing.assert_close(found, (x + g - g.abs().mean() * g.sign()).clamp(0, 1))


def gradient(network: nn.Module, image: Tensor, y: Tensor) -> Tensor:
    image = image.detach().clone().requires_grad_()
    nn.functional.cross_entropy(network(image), y).backward()
    return image.grad


def test_wrm_against_a_loop_over_samples_and_pixels():
    network, s = small(), samples(5)
    found = make("wrm", steps=3, a=2.0).moved(network, s.x, s.y)
    now = s.x.clone()
    for _ in range(3):
        g = torch.cat([2.0 * gradient(network, now[i : i + 1], s.y[i : i + 1]) for i in range(5)])
        mean = sum(abs(v) for v in g.flatten().tolist()) / g.numel()
        then = now.clone()
        for i in range(5):
            for r in range(8):
                for c in range(8):
                    v = float(now[i, 0, r, c] + g[i, 0, r, c])
                    way = math.copysign(1, v - float(s.x[i, 0, r, c])) if v != float(s.x[i, 0, r, c]) else 0
                    then[i, 0, r, c] = min(max(v - mean * way, 0), 1)
        now = then
    torch.testing.assert_close(found, now, rtol=1e-4, atol=1e-5)


def test_wrm_of_l2_against_a_loop_over_samples():
    network, s = small(), samples(5)
    found = make("wrm", transport="l2", steps=4, a=1.3).moved(network, s.x, s.y)
    for i in range(5):
        x, y = s.x[i : i + 1], s.y[i : i + 1]
        image = x + 1.3 * gradient(network, x, y)
        for t in range(4):
            image = image + (1.3 * gradient(network, image, y) - (image - x)) / math.sqrt(t + 2)
        torch.testing.assert_close(found[i : i + 1], image, rtol=1e-4, atol=1e-5)


def test_wrm_of_l2_and_a_linear_network_solves_the_inner_problem():
    """Where the penalised loss is highest, x' - x = a * gradient at x': along the weights, by a root in one unknown."""
    network, x, y = linear(), samples(8, 2).x, samples(8, 2).y
    found = make("wrm", transport="l2", steps=200, a=0.5).moved(network, x, y)
    torch.testing.assert_close(found - x, 0.5 * 8 * gradient(network, found, y), rtol=1e-3, atol=1e-5)
    way = network[1].weight.detach().diff(dim=0).view(1, -1)
    (solution,) = torch.linalg.lstsq(way.T.double(), (found - x).flatten(1).T.double())[:1]
    margin = network(x).detach().diff(dim=1).squeeze(1)
    for s, m, label in zip(solution.squeeze(0).tolist(), margin.tolist(), y.tolist(), strict=True):
        low, high = -1.0, 1.0  # bisection of s = a * (sigmoid(m + s |w|^2) - y)
        size = float(way.square().sum())
        for _ in range(60):
            middle = (low + high) / 2
            rises = middle - 0.5 * (1 / (1 + math.exp(-(m + middle * size))) - label) < 0
            low, high = (middle, high) if rises else (low, middle)
        assert s == pytest.approx(low, abs=1e-3)


def test_wrm_depends_on_the_batch():
    """The trap that the file speaks of: alone, an image is moved otherwise."""
    network, s, defense = small(), samples(8), make("wrm", steps=2)
    together = defense.moved(network, s.x, s.y)
    assert not torch.allclose(defense.moved(network, s.x[:1], s.y[:1]), together[:1], atol=1e-4)
    alike = make("wrm", steps=2, transport="l2")
    torch.testing.assert_close(alike.moved(network, s.x[:1], s.y[:1]), alike.moved(network, s.x, s.y)[:1])


# --- Certified training -----------------------------------------------------------------------------


def by_hand() -> tuple[nn.Module, Tensor, Tensor]:
    """Two pixels, two hidden units, two logits: at x = (0.5, 0.2) in a ball of 0.1 the pixels are in [.4, .6], [.1, .3]."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, -2.0], [1.0, 1.0]]))
        network[3].weight.copy_(torch.tensor([[2.0, 1.0], [-1.0, 1.0]]))
    return network, torch.tensor([0.5, 0.2]).view(1, 1, 1, 2), torch.tensor([0])


def test_ibp_by_hand():
    network, x, y = by_hand()
    # Hidden: [.4 - .6, .6 - .2] = [-.2, .4] -> [0, .4]; [.5, .9]. Logits: [.5, 1.7]; [.5 - .4, .9] = [.1, .9].
    verified = math.log(1 + math.exp(0.9 - 0.5))
    natural = nn.functional.cross_entropy(network(x), y)
    assert natural.item() == pytest.approx(math.log(1 + math.exp(0.6 - 0.9)), rel=1e-6)  # hidden (.1, .7)
    found = make("ibp", verified=0.25).mixed(natural, network, x, y, 1.0)
    assert found.item() == pytest.approx(0.75 * natural.item() + 0.25 * verified, rel=1e-5)
    # Halfway the radius is .05 and the weight .125. Hidden: [-.05, .25] -> [0, .25]; [.6, .8]. Logits: [.6, ..]; [.., .8].
    half = make("ibp", verified=0.25).mixed(natural, network, x, y, 0.5)
    assert half.item() == pytest.approx(0.875 * natural.item() + 0.125 * math.log(1 + math.exp(0.8 - 0.6)), rel=1e-5)


def test_ibp_rises_between_its_shares_of_the_training():
    rise = make("ibp", warm_up=0.1, ramp=0.4).rise
    assert [rise(d) for d in (0.0, 0.05, 0.0999)] == [0.0, 0.0, 0.0]
    assert [rise(d) for d in (0.1, 0.2, 0.3, 0.5, 0.9)] == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.0])
    assert make("ibp", warm_up=0, ramp=0).rise(0.0) == 1.0


def test_ibp_counts_the_steps_of_the_whole_training(monkeypatch):
    seen: list[float] = []
    defense, t = make("ibp"), task(n=42, epochs=3)  # 5 batches an epoch, the last one of 2
    rise = defense.rise
    monkeypatch.setattr(defense, "rise", lambda done: seen.append(done) or rise(done))
    defense.train(t)
    assert seen == pytest.approx([i / 15 for i in range(15)])


def test_ibp_certifies_what_plain_training_does_not():
    from benchmark.judge.robustness import certified

    s = samples(200)
    t = task(train=s, epochs=25)
    proven = [
        float(certified(n, s.x, s.y, 0.05).double().mean())
        for n in (t.fit(t.build()), make("ibp", epsilon=0.05).train(t))
    ]
    assert proven[1] > proven[0] + 0.2


# --- I_V --------------------------------------------------------------------------------------------


class Open(Target):
    def __init__(self, network: nn.Module):
        self.network = network.eval()

    def white_box(self) -> nn.Module:
        return copy.deepcopy(self.network)


def verified(network: nn.Module, s: Samples, radius: float, **params: Any) -> Tensor:
    attack = song_verified.SongVerified(song_verified.SongVerified.Params(**params))
    attack.fit(Knowledge(4, SHAPE, 0, CPU, certificate=radius))
    return attack.score(Open(network), Candidates(s.x, s.y, torch.arange(len(s))), None)


def embedding(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 16)), 16, 4)


def test_verified_confidence_by_hand():
    network, x, y = by_hand()
    found = verified(network, Samples(x, y), 0.1)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(-math.log(1 + math.exp(0.9 - 0.5)), rel=1e-5)


@pytest.mark.parametrize("margins", [False, True])
def test_no_image_of_the_ball_has_less_confidence(margins):
    network, s = embedding(), samples(20)
    bound = verified(network, s, 0.05, margins=margins)
    g, y = generator(), s.y.unsqueeze(1)
    for _ in range(200):
        images = (s.x + 0.05 * (2 * torch.rand(s.x.shape, generator=g) - 1).sign()).clamp(0, 1)
        confidence = network(images).double().log_softmax(1).gather(1, y).squeeze(1)
        assert bool((confidence >= bound - 1e-6).all())


def test_margins_are_tighter_and_at_radius_nought_both_are_the_confidence():
    network, s = embedding(), samples(20)
    apart, at_once = (verified(network, s, 0.05, margins=m) for m in (False, True))
    assert bool((at_once >= apart - 1e-6).all()) and float((at_once - apart).max()) > 1e-3
    plain = network(s.x).double().log_softmax(1).gather(1, s.y.unsqueeze(1)).squeeze(1)
    for margins in (False, True):
        torch.testing.assert_close(verified(network, s, 1e-9, margins=margins), plain, rtol=1e-4, atol=1e-5)


def test_margins_of_a_linear_network_are_exact():
    """Without hidden layers z_y - z_j is least at the corner that the weights' difference names."""
    torch.manual_seed(0)
    network, s = Network(nn.Flatten(), 64, 4), samples(10)
    inner = Samples(0.3 + 0.4 * s.x, s.y)
    found = verified(network, inner, 0.1, margins=True)
    w = network.head.weight.detach().double()
    for i, y in enumerate(s.y.tolist()):
        logits = network(inner.x[i : i + 1]).detach().double()[0]
        worst = logits - logits[y] + 0.2 * (w - w[y]).abs().sum(1)  # 0.1 of a pixel is 0.2 after normalisation
        assert found[i].item() == pytest.approx(float(worst.log_softmax(0)[y]), rel=1e-4)


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_scores_of_degenerate_networks_are_finite(scale, margins):
    network = embedding()
    with torch.no_grad():
        network.head.weight *= scale
    assert verified(network, samples(20), 0.1, margins=margins).isfinite().all()


def test_a_network_without_bounds_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"interval bounds: .* given Sigmoid"):
        verified(nn.Sequential(nn.Flatten(), nn.Sigmoid(), nn.Linear(64, 4)), samples(4), 0.1)
