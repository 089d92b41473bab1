"""Defenses against closed forms, slow oracles and independent computations, on a tiny task."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from benchmark.api import Context, Defense, Predict, Samples, Training
from benchmark.entries.registry import Registry
from benchmark.networks import pretrained
from submissions.defenses import constant_output, diffence, dp_sgd, label_smoothing, memguard, undefended

CPU = torch.device("cpu")
NAMES = ("constant_output", "diffence", "dp_sgd", "label_smoothing", "memguard", "undefended")


class TinyTask(Training):
    """Four classes of 8 x 8 images: a bright quadrant under noise."""

    def __init__(self, n: int = 40, seed: int = 0, **recipe: object) -> None:
        g = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 4, (3 * n,), generator=g)
        x = torch.rand(3 * n, 1, 8, 8, generator=g) * 0.6
        for i, label in enumerate(y.tolist()):
            r, c = 4 * (label // 2), 4 * (label % 2)
            x[i, :, r : r + 4, c : c + 4] += 0.3
        x = (x * 255).round() / 255
        parts = [Samples(a, b) for a, b in zip(x.split(n), y.split(n), strict=True)]
        self.train, self.reference, self.validation = parts
        self.classes, self.shape, self.seed, self.device = 4, (1, 8, 8), seed, CPU
        settings = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
        settings |= {"schedule": "constant", "milestones": (), "epochs": 20, "batch_size": 8}
        self.recipe = SimpleNamespace(**(settings | recipe))
        self.made: list[str] = []

    def build(self, architecture=None) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(128, 4)
            )

    def epochs(self, network):
        return iter(range(self.recipe.epochs))

    def fit(self, network, *, loss=None, cost=None, targets=None, optimizer=None):
        update = torch.optim.SGD(network.parameters(), self.recipe.learning_rate)
        order = self.generator("order")
        for _ in range(self.recipe.epochs):
            for i in torch.randperm(len(self.train), generator=order).split(self.recipe.batch_size):
                update.zero_grad()
                loss(network(self.train.x[i]), self.train.y[i]).mean().backward()
                update.step()
        return network.eval()

    def augment(self, x, generator):
        return x

    def schedule(self, optimizer):
        return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    def artifact(self, name, make):
        self.made.append(name)
        return make()


class Memory:
    """A `remember` that counts what it makes and what it is asked for."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, bytes], Tensor] = {}
        self.made: list[str] = []

    def __call__(self, name, x, make):
        key = (name, x.numpy().tobytes())
        if key not in self.stored:
            self.made.append(name)
            self.stored[key] = make()
        return self.stored[key]


def context(memory: Memory | None = None, key: bytes = b"secret") -> Context:
    return Context(key=key, device=CPU, remember=memory or Memory())


def predictor(network: nn.Module) -> Predict:
    @torch.no_grad()
    def predict(x: Tensor) -> Tensor:
        return network.eval()(x).double().log_softmax(1)

    return predict


def make(module, **params) -> Defense:
    cls = next(c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Defense) and c is not Defense)
    return cls(cls.Params(**params))


@pytest.fixture(scope="module")
def task() -> TinyTask:
    return TinyTask(n=120)


@pytest.fixture(scope="module")
def predict(task: TinyTask) -> Predict:
    return predictor(make(undefended).train(task))


@pytest.fixture(scope="module")
def queries(task: TinyTask) -> Tensor:
    return torch.cat([task.train.x, task.reference.x])


def test_every_file_is_read_without_importing_it():
    registry = Registry(Path(__file__).parents[2] / "submissions")
    for name in NAMES:
        entry = registry.entry("defense", name)
        assert entry.card.title
        assert entry.stages
        assert entry.doc
        assert entry.params().model_dump() == entry.load().Params().model_dump()


# --- undefended, label smoothing, constant output ---------------------------------------------------


def test_undefended_learns_the_training_set(task, predict):
    assert (predict(task.train.x).argmax(1) == task.train.y).float().mean() > 0.95


def test_label_smoothing_by_hand():
    logits = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.2)]])
    loss = make(label_smoothing, epsilon=0.4).loss(logits, torch.tensor([1]))
    expected = -0.6 * math.log(0.3) - 0.2 * math.log(0.5) - 0.2 * math.log(0.2)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_agrees_with_pytorch_at_the_matching_epsilon():
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(50, 10, generator=g, dtype=torch.float64), torch.randint(0, 10, (50,), generator=g)
    ours = make(label_smoothing, epsilon=0.36).loss(logits, y)
    theirs = nn.functional.cross_entropy(logits, y, reduction="none", label_smoothing=0.4)  # 0.36 * 10 / 9
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.5), (4, 0.75), (4, 0.8)])
def test_label_smoothing_names_what_it_expected(classes, epsilon):
    with pytest.raises(ValueError, match=rf"{(classes - 1) / classes:.4g}.*given {epsilon}"):
        make(label_smoothing, epsilon=epsilon).loss(torch.zeros(1, classes), torch.tensor([0]))


def test_label_smoothing_bounds_the_confidence():
    task = TinyTask(epochs=150)
    confidence = predictor(make(label_smoothing, epsilon=0.4).train(task))(task.train.x).exp().amax(1).mean()
    assert confidence == pytest.approx(0.6, abs=0.03)


def test_constant_output_is_uniform_whatever_the_query(task, predict, queries):
    defense = make(constant_output)
    answer = defense.guard(predict, defense.prepare(predict, task), context())(queries)
    assert answer.shape == (240, 4)
    assert answer.dtype == torch.float64
    assert torch.equal(answer, torch.full_like(answer, math.log(0.25)))


# --- DP-SGD -----------------------------------------------------------------------------------------


def slow_dp_sgd(task: TinyTask, network: nn.Module, defense: Defense, steps_an_epoch: int) -> nn.Module:
    """Algorithm 1 of Abadi et al. without noise, one sample at a time."""
    rate, poisson = defense.params.batch_size / len(task.train), task.generator("poisson")
    for _ in range(task.recipe.epochs * steps_an_epoch):
        drawn = torch.rand(len(task.train), generator=poisson, dtype=torch.float64) < rate
        total = [torch.zeros_like(p) for p in network.parameters()]
        for i in drawn.nonzero().flatten():
            loss = nn.functional.cross_entropy(network(task.train.x[i : i + 1]), task.train.y[i : i + 1])
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            for t, g in zip(total, gradients, strict=True):
                t += g * min(1.0, defense.params.max_grad_norm / norm)
        with torch.no_grad():
            for p, t in zip(network.parameters(), total, strict=True):
                p -= defense.params.learning_rate * t / defense.params.batch_size
    return network


@pytest.mark.parametrize("elements", [2**27, 3000])
def test_dp_sgd_clips_each_sample_like_a_slow_loop(monkeypatch, elements):
    monkeypatch.setattr(dp_sgd, "GRADIENT_ELEMENTS", elements)  # 3000: parts of five samples
    task = TinyTask(epochs=3)
    defense = make(dp_sgd, noise_multiplier=1e-9, max_grad_norm=0.5, learning_rate=0.3, batch_size=10)
    fast = defense.train(task).state_dict()
    slow = slow_dp_sgd(task, defense.network(task), defense, 4).state_dict()
    assert fast.keys() == slow.keys()
    for name, value in fast.items():
        torch.testing.assert_close(value, slow[name], rtol=1e-4, atol=1e-5)
    start = defense.network(task).state_dict()
    assert (fast["0.weight"] - start["0.weight"]).norm() > 0.01


def test_dp_sgd_survives_empty_batches_and_adds_the_noise_it_claims():
    """Nearly every batch is empty at rate 1 / 40, so that the weights are a random walk of known width."""
    task = TinyTask(epochs=1)
    params = {"noise_multiplier": 2.0, "max_grad_norm": 1e-4, "learning_rate": 1.0, "batch_size": 1}
    defense = make(dp_sgd, **params)
    before, after = defense.network(task).state_dict(), defense.train(task).state_dict()
    moved = torch.cat([(after[n] - before[n]).flatten() for n in after])
    assert moved.std() == pytest.approx(2e-4 * math.sqrt(40), rel=0.15)  # 40 steps of noise * clip / batch


def test_dp_sgd_is_reproducible_and_reads_its_seed():
    runs = [make(dp_sgd).train(TinyTask(epochs=1, seed=s)).state_dict()["0.weight"] for s in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_dp_sgd_replaces_batch_norm_before_the_optimiser_is_built():
    task = TinyTask(epochs=2)
    defense = make(dp_sgd)
    network = defense.network(task)
    assert any(isinstance(m, nn.GroupNorm) for m in network.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    trained = defense.train(task)
    assert not torch.equal(trained[1].weight, network[1].weight)
    network.load_state_dict(trained.state_dict())


def test_dp_sgd_batches_are_poisson(monkeypatch):
    task, sizes = TinyTask(epochs=60), []

    def step(self, network, optimizer, x, y):
        sizes.append(len(y))
        optimizer.original_optimizer.step()

    monkeypatch.setattr(dp_sgd.DPSGD, "_step", step)
    make(dp_sgd, batch_size=8).train(task)
    assert len(sizes) == 60 * 5
    observed = np.bincount(sizes, minlength=41) / len(sizes)
    # Kolmogorov's distance exceeds 1.63 / sqrt(n) in 1 % of samples, and less often for discrete laws.
    assert np.abs(observed.cumsum() - binom.cdf(np.arange(41), 40, 0.2)).max() < 1.63 / math.sqrt(len(sizes))


def test_epsilon_of_full_batches_is_the_gaussian_closed_form():
    """q = 1: RDP alpha / (2 sigma^2) a step, converted by Balle et al. 2020, theorem 21, on a fine grid."""
    task = TinyTask(epochs=30)
    claims = make(dp_sgd, noise_multiplier=8.0, batch_size=40).claims(task)
    alpha = np.linspace(1.01, 63, 100_000)
    by_hand = 30 * alpha / (2 * 64) + np.log1p(-1 / alpha) - (math.log(1e-5) + np.log(alpha)) / (alpha - 1)
    assert by_hand.min() <= claims.epsilon <= by_hand.min() * 1.002
    assert (claims.delta, claims.accountant, claims.sampling) == (1e-5, "RDP", "Poisson")


def test_epsilon_of_poisson_batches_is_the_integral_it_stands_for():
    """RDP of the sampled Gaussian by numerical integration (Mironov et al. 2019, equation 5)."""
    sigma, rate, steps, delta = 1.5, 0.2, 20 * 5, 1e-5
    z = np.linspace(-60, 60, 400_001)
    ratio = np.log1p(rate * np.expm1((2 * z - 1) / (2 * sigma**2)))
    best = math.inf
    for alpha in np.arange(2, 12, 0.1):
        moment = np.trapezoid(np.exp(alpha * ratio - z**2 / (2 * sigma**2)), z) / (sigma * math.sqrt(2 * math.pi))
        rdp = steps * math.log(moment) / (alpha - 1)
        best = min(best, rdp + math.log1p(-1 / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1))
    assert make(dp_sgd, noise_multiplier=sigma, batch_size=8).claims(TinyTask()).epsilon == pytest.approx(
        best, rel=1e-3
    )


def test_delta_stays_below_one_over_n():
    task = TinyTask()
    for n in (99_999, 100_000, 1_000_000):
        task.train = type("Many", (), {"__len__": lambda self, n=n: n})()
        assert make(dp_sgd, noise_multiplier=4.0).claims(task).delta < 1 / n
    assert make(dp_sgd, noise_multiplier=0.001).claims(TinyTask()).epsilon > 1e5


# --- MemGuard ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guard_state(task, predict) -> dict[str, Tensor]:
    return make(memguard).prepare(predict, task)


def slow_phase_one(clean: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Algorithm 1 of Jia et al. for one sample (k,), in its own words; returns log-posteriors."""

    def g(log_posteriors: Tensor) -> Tensor:
        hidden = (log_posteriors - state["mean"]) / state["scale"]
        for i in range(4):
            hidden = state[f"weight{i}"] @ hidden + state[f"bias{i}"]
            hidden = torch.relu(hidden) if i < 3 else hidden
        return hidden[0]

    start, order = clean.sort()
    side, found, weight = g(start), start, 0.1
    while weight < 2e5:
        logits = start.clone()
        for _ in range(300):
            if g(logits.log_softmax(0)) * side <= 0 and logits.argmax() == len(logits) - 1:
                break
            z = logits.clone().requires_grad_()
            cost = g(z.log_softmax(0)).abs() + 10 * torch.relu(z[:-1].max() - z[-1])
            cost = cost + weight * (z.softmax(0) - start.softmax(0)).abs().sum()
            (gradient,) = torch.autograd.grad(cost, z)
            logits = logits - 0.1 * gradient / gradient.norm()
        if g(logits.log_softmax(0)) * side > 0 or logits.argmax() < len(logits) - 1:
            break
        found, weight = logits.log_softmax(0), weight * 10
        if (logits.softmax(0) - start.exp()).abs().sum() <= memguard.NEGLIGIBLE:
            break
    result = clean.clone()
    if abs(g(found)) < abs(side):
        result[order] = found
    return result


def test_memguard_classifier_tells_members_apart(task, predict, guard_state):
    logits = [memguard.membership_logit(predict(p.x).sort(1).values, guard_state) for p in (task.train, task.reference)]
    wins = (logits[0].unsqueeze(1) > logits[1]).double().mean()
    assert wins > 0.6
    assert all(w.dtype == torch.float64 for w in guard_state.values())


def test_memguard_phase_one_equals_the_slow_version(predict, guard_state, queries):
    clean = predict(queries[:40])
    fast = memguard.add_noise(clean, guard_state)
    slow = torch.stack([slow_phase_one(row, guard_state) for row in clean])
    assert (fast != clean).any(1).double().mean() > 0.5
    torch.testing.assert_close(fast.exp(), slow.exp(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("budget", [0.0, 0.02, 1.0])
def test_memguard_keeps_every_label_and_its_budget(monkeypatch, predict, guard_state, queries, budget):
    clean = predict(queries)
    noise = memguard.add_noise(clean, guard_state)
    monkeypatch.setattr(memguard, "add_noise", lambda part, state, as_released: noise)
    full = (noise.exp() - clean.exp()).abs().sum(1)
    expected = full.clamp_max(budget)
    # The expectation over phase II, over 50 keys: each draw returns all of the noise or none.
    distances = []
    for i in range(50):
        noisy = make(memguard, budget=budget).guard(predict, guard_state, context(key=bytes([i])))(queries)
        assert torch.equal(noisy.argmax(1), clean.argmax(1))
        assert noisy.dtype == torch.float64
        assert (noisy <= 0).all()
        torch.testing.assert_close(noisy.exp().sum(1), torch.ones(len(queries), dtype=torch.float64))
        distances.append((noisy.exp() - clean.exp()).abs().sum(1))
    error = 4 * ((full - expected) * expected).clamp_min(0).mean().sqrt() / math.sqrt(50 * len(queries))
    assert torch.stack(distances).mean() == pytest.approx(expected.mean().item(), abs=error.item() + 1e-12)


def test_memguard_answers_the_same_alone_and_in_a_batch(predict, guard_state, queries):
    answer = make(memguard).guard(predict, guard_state, context())
    together = answer(queries[:60])
    # Products of other shapes round otherwise, and up to 300 steps of the search carry it on.
    parts = torch.cat([answer(part) for part in queries[:60].split(7)])
    torch.testing.assert_close(parts, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answer(queries[:60].flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)


def test_memguard_leaves_exact_zeros_and_ties_alone(guard_state):
    clean = torch.tensor([[0.0, -math.inf, -math.inf, -math.inf], [math.log(0.25)] * 4], dtype=torch.float64)
    answer = make(memguard).guard(lambda x: clean, guard_state, context())(torch.rand(2, 1, 8, 8))
    assert torch.equal(answer.argmax(1), clean.argmax(1))
    assert not answer.isnan().any()
    torch.testing.assert_close(answer.exp().sum(1), torch.ones(2, dtype=torch.float64))


# --- DIFFENCE ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ddpm(task) -> dict[str, Tensor]:
    return make(diffence, train_steps=30).prepare(lambda x: x, task)


def test_one_jump_undoes_the_noise_when_the_network_knows_it():
    g = torch.Generator().manual_seed(1)
    x, noise = torch.rand(5, 3, 4, 4, generator=g), torch.randn(5, 3, 4, 4, generator=g)
    back = diffence.reconstruct(lambda noisy, t: noise, x, noise, 160)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_one_jump_by_hand():
    """A network that sees no noise leaves x_T / sqrt(abar): abar_160 is the product of 160 terms."""
    level = math.prod(1 - (1e-4 + (2e-2 - 1e-4) * s / 999) for s in range(160))
    seen = []

    def blind(noisy, t):
        seen.append(t)
        return torch.zeros_like(noisy)

    x, noise = torch.full((1, 1, 1, 1), 0.6), torch.full((1, 1, 1, 1), 0.5)
    expected = (0.2 + math.sqrt((1 - level) / level) * 0.5 + 1) / 2
    assert diffence.reconstruct(blind, x, noise, 160).item() == pytest.approx(expected, rel=1e-5)
    assert seen[0].tolist() == [159]  # training draws steps from 0 to 999
    assert diffence.reconstruct(blind, x, 9 * noise, 160).item() == 1.0


def test_the_signal_level_is_that_of_diffusers():
    from diffusers import DDPMScheduler

    torch.testing.assert_close(diffence.signal_level(CPU), DDPMScheduler(1000).alphas_cumprod, rtol=1e-4, atol=1e-7)


def test_training_lowers_the_error_in_the_noise(task, ddpm):
    g = torch.Generator().manual_seed(2)
    noise, t = torch.randn(120, 1, 8, 8, generator=g), torch.randint(1000, (120,), generator=g)
    level = diffence.signal_level(CPU)[t].view(-1, 1, 1, 1)
    noisy = level.sqrt() * (2 * task.reference.x - 1) + (1 - level).sqrt() * noise
    unet = diffence.build_unet(task.shape)
    unet.load_state_dict(ddpm)
    with torch.no_grad():
        assert (unet(noisy, t) - noise).square().mean() < 0.7  # 1 for a network that answers 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_denoiser_keeps_the_shape(shape):
    unet = diffence.build_unet(shape)
    with torch.no_grad():
        assert unet(torch.zeros(2, *shape), torch.tensor([0, 999])).shape == (2, *shape)
    assert 1.5e5 < sum(p.numel() for p in unet.parameters()) < 1.8e5


def test_the_choice_is_uniform_among_the_reconstructions_that_keep_the_label():
    generator = torch.Generator().manual_seed(3)
    n, rounds = 9000, torch.rand(9000, generator=generator, dtype=torch.float64)
    original = torch.tensor([[0.7, 0.3]]).log().expand(n, 2)
    answers = torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2]]).log().unsqueeze(1).expand(4, n, 2)
    chosen = diffence.choose(original, answers, rounds)[:, 0].exp()
    counts = [(chosen - p).abs().lt(1e-6).sum().item() for p in (0.6, 0.9, 0.8)]
    assert sum(counts) == n  # never the original, never the one with another label
    assert all(abs(c - n / 3) < 4 * math.sqrt(n * 2 / 9) for c in counts)
    assert torch.equal(diffence.choose(original, answers[1:2], rounds), original)


def test_diffence_keeps_every_label_and_answers_for_a_reconstruction(predict, ddpm, queries):
    memory = Memory()
    answer = make(diffence, n=4, timestep=300).guard(predict, ddpm, context(memory))(queries)
    clean = predict(queries)
    assert torch.equal(answer.argmax(1), clean.argmax(1))
    rows = torch.stack([clean, *(predict(r) for r in memory.stored.values())])
    origin = (rows == answer).all(2)
    assert origin.any(0).all()
    empty = ~(rows[1:].argmax(2) == clean.argmax(1)).any(0)
    assert torch.equal(origin[0], empty)


def test_diffence_answers_the_same_twice_and_in_any_batch(predict, ddpm, queries):
    answers = [make(diffence, n=3).guard(predict, ddpm, context()) for _ in range(2)]
    together = answers[0](queries[:30])
    assert torch.equal(answers[0](queries[:30]), together)
    assert torch.equal(answers[1](queries[:30]), together)
    parts = torch.cat([answers[1](part) for part in queries[:30].split(7)])
    torch.testing.assert_close(parts, together, rtol=1e-3, atol=1e-4)
    other = make(diffence, n=3).guard(predict, ddpm, context(key=b"another"))(queries[:30])
    assert not torch.equal(other, together)


def test_a_smaller_n_takes_the_first_reconstructions_of_a_larger_one(predict, ddpm, queries):
    memory = Memory()
    x = queries[:20]
    make(diffence, n=2).guard(predict, ddpm, context(memory))(x)
    assert len(memory.made) == 2
    make(diffence, n=4).guard(predict, ddpm, context(memory))(x)
    assert len(memory.made) == 4
    make(diffence, n=3).guard(predict, ddpm, context(memory))(x)
    assert len(memory.made) == 4 == len(set(memory.made))


def test_a_query_costs_n_passes_of_the_denoiser(monkeypatch, predict, ddpm, queries):
    passes = []
    forward = diffence.Denoiser.forward
    monkeypatch.setattr(
        diffence.Denoiser, "forward", lambda self, x, t: (passes.append(len(x)), forward(self, x, t))[1]
    )
    make(diffence, n=5).guard(predict, ddpm, context())(queries[:30])
    assert sum(passes) == 5 * 30


def test_the_artifact_is_named_by_all_that_makes_it(task):
    task.made.clear()
    states = [make(diffence, n=n, timestep=t, train_steps=1).prepare(lambda x: x, task) for n, t in ((2, 80), (9, 160))]
    assert task.made == ["ddpm-members-1", "ddpm-members-1"]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert all(w.dtype == torch.float32 for w in states[0].values())


# --- DIFFENCE with a model of the user's -------------------------------------------------------------


class Given(TinyTask):
    """A tiny task that hands over one model, and has trained another one already."""

    def __init__(self, config, weights, trained=None, **settings):
        super().__init__(**settings)
        self.model, self.trained = (config, weights), trained

    def artifact(self, name, make):
        return self.trained if name.startswith("ddpm") and self.trained else super().artifact(name, make)

    def pretrained(self, name):
        assert name == "mine"
        return self.model


def saved(ddpm: dict[str, Tensor], folder: Path, shape=(1, 8, 8)):
    """The built-in model, saved by diffusers and read back as the judge reads it."""
    unet = diffence.build_unet(shape)
    unet.load_state_dict(ddpm)
    unet.unet.save_pretrained(folder)
    return pretrained.read(folder.name, shape)


@pytest.fixture(scope="module")
def external(ddpm, tmp_path_factory) -> pretrained.Model:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAKBOARD_MODELS", str(root))
        return saved(ddpm, root / "mine")


@pytest.mark.parametrize("settings", [{}, {"scenario": 1}, {"scenario": 2}, {"average": True}, {"as_released": True}])
def test_the_same_model_from_outside_answers_the_same(predict, ddpm, external, queries, settings):
    """To the last digit but for the size of batches, which moves sums."""
    task = Given(external.config, external.weights, ddpm, n=60)
    few = {"n": 3, "timestep": 200, **settings}
    own, other = make(diffence, **few), make(diffence, external="mine", **few)
    states = own.prepare(predict, task), other.prepare(predict, task)
    assert all(torch.equal(states[1][name], w) for name, w in ddpm.items())
    memories = Memory(), Memory()
    answers = [d.guard(predict, s, context(m))(queries) for d, s, m in zip((own, other), states, memories, strict=True)]
    for mine, theirs in zip(memories[0].stored.values(), memories[1].stored.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    apart = (answers[0].exp() - answers[1].exp()).abs().sum(1) > 1e-3
    assert apart.double().mean() < 0.02, "a rounding may move one reconstruction over an edge"


def test_an_external_model_trains_nothing_and_takes_its_own_schedule(external, queries):
    from diffusers import DDPMScheduler

    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    task = Given(external.config | {"scheduler": cosine}, external.weights)
    defense, memory = make(diffence, external="mine", n=1, timestep=300), Memory()
    state = defense.prepare(lambda x: x, task)
    assert task.made == []
    levels = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert torch.equal(state["levels"], levels)
    assert not any(name.startswith("_") for name in state), "what is remembered depends on all of it"
    defense.guard(lambda x: torch.zeros(len(x), 2, dtype=torch.float64), state, context(memory))(queries[:20])
    unet = diffence.load_unet((1, 8, 8), state, CPU)
    noise = context().normal("diffence-0", queries[:20])
    expected = diffence.reconstruct(unet, queries[:20], noise, 300, levels=levels)
    usual = diffence.reconstruct(unet, queries[:20], noise, 300)
    (found,) = memory.stored.values()
    assert torch.equal(found, expected) and not torch.allclose(found, usual, atol=1e-3)
