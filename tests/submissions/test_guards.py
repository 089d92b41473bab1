"""What stands before and after a network: closed forms, slow oracles, kept labels, one answer a query, cascades."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from benchmark.api import Context, Defense, Predict, Samples
from benchmark.entries.registry import Registry
from benchmark.targets.artifacts import Artifacts
from submissions.defenses import diffence, gaussian_smoothing, memguard, rounding, temperature, top_k, undefended
from tests.conftest import SUBMISSIONS, artifacts_in
from tests.submissions.test_defenses import CPU, Memory, TinyTask, context, make, predictor

TOLERANCE = 1e-4
"""What float32 sums may move a posterior by between batches, as `leakboard check` has it."""

SMALL = {"n": 4, "timestep": 200, "train_steps": 15}
GUARDS = {
    "scenario 1": (diffence, SMALL | {"scenario": 1}),
    "scenario 2": (diffence, SMALL | {"scenario": 2}),
    "scenario 3": (diffence, SMALL),
    "averaging": (diffence, SMALL | {"average": True}),
    "as released": (diffence, SMALL | {"as_released": True}),
    "gaussian smoothing": (gaussian_smoothing, {"n": 4}),
    "memguard": (memguard, {"budget": 0.5}),
    "top-k": (top_k, {"k": 2}),
    "rounding": (rounding, {}),
    "temperature": (temperature, {}),
}
KEEPS_LABELS = [name for name in GUARDS if name not in ("averaging", "gaussian smoothing")]


class Kept(TinyTask):
    """A tiny task that makes each artifact once, as the store does."""

    def __init__(self, **settings: int) -> None:
        super().__init__(**settings)
        self.kept: dict[str, dict[str, Tensor]] = {}

    def artifact(self, name, make):
        if name not in self.kept:
            self.kept[name] = super().artifact(name, make)
        return self.kept[name]


@pytest.fixture(scope="module")
def task() -> TinyTask:
    return Kept(n=120)


@pytest.fixture(scope="module")
def predict(task: TinyTask) -> Predict:
    return predictor(make(undefended).train(task))


@pytest.fixture(scope="module")
def queries(task: TinyTask) -> Tensor:
    return torch.cat([task.train.x, task.reference.x])


@pytest.fixture(scope="module")
def states(task: TinyTask, predict: Predict) -> dict[str, dict[str, Tensor]]:
    """Every guard's state."""
    return {name: make(module, **params).prepare(predict, task) for name, (module, params) in GUARDS.items()}


def guarded(name: str, predict: Predict, states: dict[str, dict[str, Tensor]], key: bytes = b"secret") -> Predict:
    module, params = GUARDS[name]
    return make(module, **params).guard(predict, states[name], context(key=key))


def law(*posteriors: float) -> Tensor:
    return torch.tensor([posteriors], dtype=torch.float64).log()


def random_answers(*size: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*size, generator=g, dtype=torch.float64)).log_softmax(-1)


def near_ties(seed: int) -> Tensor:
    """Posteriors that differ by one rounding, by nothing, or by much; zeros and ones among them."""
    g = torch.Generator().manual_seed(seed)
    x = random_answers(400, 5, seed=seed)
    x[:200] = torch.randint(0, 2, (200, 5), generator=g).double() * 2.0**-52 - math.log(5)
    x[200:300] = (torch.randint(1, 4, (100, 5), generator=g).double() + 1e-13 * x[200:300]).log().log_softmax(1)
    x[300] = torch.tensor([-math.inf, 0, -math.inf, -math.inf, -math.inf])
    x[301] = law(0, 0, 0.5, 0.5, 0)
    return x


# --- All guards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUARDS)
def test_one_query_gets_one_answer_in_any_batch(name, predict, states, queries):
    x = queries[:40]
    answer, again = (guarded(name, predict, states)(x) for _ in range(2))
    assert torch.equal(answer, again)
    guard = guarded(name, predict, states)
    pieces = torch.cat([guard(part) for part in x.split(13)])
    torch.testing.assert_close(pieces.exp(), answer.exp(), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(guard(x.flip(0)).flip(0).exp(), answer.exp(), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(guard(x[7:8]).exp(), answer[7:8].exp(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["scenario 1", "scenario 2", "scenario 3", "averaging", "gaussian smoothing"])
def test_noise_is_that_of_the_8_bit_query_and_of_the_key(name, predict, states, queries):
    """A quarter of a grey level moves few answers, as it moves the network; another key moves most of them."""
    x = queries[:60]
    sign = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
    answer = guarded(name, predict, states)(x).exp()
    same = guarded(name, predict, states)((x + 0.25 / 255 * sign).clamp(0, 1)).exp()
    other = guarded(name, predict, states, key=b"another")(x).exp()
    assert ((same - answer).abs().sum(1) / 2 > 0.01).double().mean() < 0.25
    assert ((other - answer).abs().sum(1) / 2 > 1e-3).double().mean() > 0.5


@pytest.mark.parametrize("name", KEEPS_LABELS)
def test_every_label_is_kept(name, predict, states, queries):
    clean, told = predict(queries), guarded(name, predict, states)(queries)
    assert torch.equal(told.argmax(1), clean.argmax(1))
    assert told.dtype == torch.float64 and (told <= 0).all()
    torch.testing.assert_close(told.exp().sum(1), torch.ones(len(queries), dtype=torch.float64), rtol=0, atol=1e-9)
    assert (told - clean).abs().gt(1e-6).any(1).double().mean() > 0.3, "and something is done"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("module", "params"),
    [
        (top_k, {"k": 1}), (top_k, {"k": 3}), (top_k, {"k": 5}), (rounding, {"digits": 1}), (rounding, {"digits": 12}),
        (temperature, {"temperature": 0.01}), (temperature, {"temperature": 3.7}), (temperature, {"temperature": 1e6}),
    ],
)  # fmt: skip
def test_near_ties_keep_their_labels(module, params, seed):
    clean = near_ties(seed)
    told = make(module, **params).guard(lambda x: clean, {}, context())(torch.zeros(len(clean), 1, 1, 1))
    assert torch.equal(told.argmax(1), clean.argmax(1))
    assert not told.isnan().any() and (told <= 0).all()
    torch.testing.assert_close(told.exp().sum(1), torch.ones(len(clean), dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_cheap_guards_read_no_data_and_say_so():
    registry = Registry(SUBMISSIONS)
    for name in ("gaussian_smoothing", "top_k", "rounding", "temperature"):
        assert registry.entry("defense", name).data_independent
        assert registry.entry("defense", name).load().prepare is Defense.prepare
    for name in ("diffence", "memguard"):
        assert not registry.entry("defense", name).data_independent


# --- After inference --------------------------------------------------------------------------------


def test_top_k_by_hand():
    clean = torch.cat([law(0.1, 0.5, 0.05, 0.3, 0.05), law(0.2, 0.2, 0.2, 0.2, 0.2)])
    expected = torch.tensor([[1 / 15, 0.5, 1 / 15, 0.3, 1 / 15], [0.2] * 5], dtype=torch.float64)
    torch.testing.assert_close(top_k.top_k(clean, 2).exp(), expected)
    assert torch.equal(top_k.top_k(clean, 5), clean)
    assert torch.equal(top_k.top_k(clean, 9), clean)
    assert torch.equal(top_k.top_k(clean, 2)[0, [1, 3]], clean[0, [1, 3]]), "what is told is told as it is"


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_tells_nothing_of_the_others(k):
    """Answers that agree in their k largest posteriors and where they lie are told alike."""
    clean = random_answers(50, 6)
    order = clean.argsort(1, descending=True)
    rest = clean.gather(1, order[:, k:])
    other = clean.scatter(1, order[:, k:], rest.flip(1))
    torch.testing.assert_close(top_k.top_k(other, k), top_k.top_k(clean, k))


def test_rounding_by_hand():
    clean = torch.cat([law(0.62, 0.34, 0.04), law(0.44, 0.4399, 0.1201), law(0.34, 0.33, 0.33), law(0.04, 0.93, 0.03)])
    expected = torch.tensor([[2 / 3, 1 / 3, 0], [4 / 9, 4 / 9, 1 / 9], [1 / 3] * 3, [0, 1, 0]], dtype=torch.float64)
    told = rounding.rounded(clean, 1)
    torch.testing.assert_close(told.exp(), expected)
    assert told.min() == rounding.FLOOR
    many = torch.full((1, 100), -math.log(100), dtype=torch.float64)  # all of them round to 0: the label gets a unit
    assert rounding.rounded(many, 1).exp()[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("digits", [1, 2, 5])
def test_rounded_posteriors_are_whole_units(digits):
    clean = random_answers(300, 10)
    told = rounding.rounded(clean, digits).exp()
    units = torch.from_numpy(np.round(clean.exp().numpy(), digits) * 10**digits).round()  # rounded by NumPy
    assert (units.sum(1) > 0).all()
    torch.testing.assert_close(told * units.sum(1, keepdim=True), units, rtol=0, atol=1e-9 * 10**digits)


def test_temperature_is_a_softmax_of_scaled_logits():
    logits = 9 * torch.randn(200, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    told = temperature.scaled(logits.log_softmax(1), 5.0)
    torch.testing.assert_close(told.exp(), (logits / 5).softmax(1))
    by_hand = temperature.scaled(law(0.64, 0.16, 0.2), 2.0).exp()
    roots = torch.tensor([[0.8, 0.4, math.sqrt(0.2)]], dtype=torch.float64)
    torch.testing.assert_close(by_hand, roots / roots.sum())
    torch.testing.assert_close(temperature.scaled(told, 0.2), logits.log_softmax(1))


class Draw(Context):
    """A context whose uniform numbers are one given number."""

    number = 0.5

    def uniform(self, name: str, x: Tensor, width: int) -> Tensor:
        return torch.full((len(x), width), self.number, dtype=torch.float64)


@pytest.fixture(scope="module")
def distorted() -> tuple[Tensor, Tensor]:
    """Answers, and MemGuard's noisy ones: the classifier tells sure ones from others, which takes much to undo."""
    sure, unsure = random_answers(100, 4, scale=6), random_answers(100, 4, seed=1, scale=0.5)
    state = memguard.train_classifier(sure.sort(1).values, unsure.sort(1).values, torch.Generator().manual_seed(0))
    clean = torch.cat([sure, unsure])
    return clean, memguard.add_noise(clean, state)


@pytest.mark.parametrize("classes", [3, 10, 30])
def test_memguard_crosses_one_half_in_what_it_returns(classes):
    """g sorts the answers that it is given; noise that changed their order used to be judged in the order before."""
    g = torch.Generator().manual_seed(classes)
    sides = [torch.randn(120, classes, generator=g, dtype=torch.float64).mul(s).log_softmax(1) for s in (4.0, 1.5)]
    state = memguard.train_classifier(*(v.sort(1).values for v in sides), g)
    clean = torch.cat(sides)
    before = memguard.membership_logit(clean.sort(1).values, state).sign()

    def crossed(noisy: Tensor) -> float:
        """Share of the changed answers on whose other side of g they are, sorted."""
        assert torch.equal(noisy.argmax(1), clean.argmax(1))
        rows = (noisy != clean).any(1)
        assert rows.double().mean() > 0.8
        return float((memguard.membership_logit(noisy.sort(1).values, state) * before <= 1e-9)[rows].double().mean())

    assert crossed(memguard.add_noise(clean, state)) > 0.97
    released = memguard.add_noise(clean, state, as_released=True)
    assert classes == 3 or crossed(released) < 0.9
    order = clean.sort(1).indices
    unsorted = memguard.membership_logit(released.gather(1, order), state)
    assert (unsorted * before <= 1e-9)[(released != clean).any(1)].double().mean() > 0.97, "judged in the old order"


def test_memguards_slope_is_autograds() -> None:
    g = torch.Generator().manual_seed(3)
    sides = [torch.randn(40, 7, generator=g, dtype=torch.float64).mul(s).log_softmax(1).sort(1).values for s in (1, 3)]
    state = memguard.train_classifier(sides[0], sides[1], g)
    x = torch.cat(sides).requires_grad_()
    expected = memguard.membership_logit(x, state)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    logit, found = memguard.logit_and_slope(x.detach(), state)
    torch.testing.assert_close(logit, expected.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-14)
    assert float(slope.abs().max()) > 0


@pytest.mark.parametrize("budget", [0.0, 0.02, 0.3, 2.0])
def test_memguard_keeps_its_budget_on_every_sample(monkeypatch, distorted, budget):
    """The expected distortion of each sample, over 500 even steps of the number that phase II draws."""
    clean, noise = distorted
    monkeypatch.setattr(memguard, "add_noise", lambda part, state, as_released: noise)
    queries = torch.zeros(len(clean), 1, 1, 1)
    guard = make(memguard, budget=budget).guard(lambda x: clean, {}, Draw(b"", CPU, Memory()))
    total = torch.zeros(len(queries), dtype=torch.float64)
    for i in range(500):
        monkeypatch.setattr(Draw, "number", (i + 0.5) / 500)
        told = guard(queries)
        assert torch.equal(told.argmax(1), clean.argmax(1))
        total += (told.exp() - clean.exp()).abs().sum(1)
    full = (noise.exp() - clean.exp()).abs().sum(1)
    assert full.max() > 0.3
    # A step of the draw more or less is a 500th of the noise.
    assert (total / 500 <= budget + full / 500).all()
    torch.testing.assert_close(total / 500, full.clamp_max(budget), rtol=0, atol=4e-3)


# --- Gaussian smoothing -----------------------------------------------------------------------------


def test_smoothing_a_probit_is_a_probit_with_another_slope():
    """The mean of Phi(w . (x + sigma z)) over normal z is Phi(w . x / sqrt(1 + sigma^2 |w|^2))."""
    sigma, n = 0.05, 1000
    g = torch.Generator().manual_seed(0)
    w = 2 * torch.randn(64, generator=g, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(12, 1, 8, 8, generator=g)  # far from 0 and 1, where noise would be cut

    def probit(x: Tensor) -> Tensor:
        z = (x.flatten(1).double() - 0.5) @ w
        return torch.stack([torch.special.log_ndtr(z), torch.special.log_ndtr(-z)], 1)

    smooth = make(gaussian_smoothing, n=n, sigma=sigma).guard(probit, {}, context())(x).exp()
    slope = math.sqrt(1 + sigma**2 * float(w.square().sum()))
    z = (x.flatten(1).double() - 0.5) @ w
    expected = torch.special.ndtr(z / slope)
    assert (expected - torch.special.ndtr(z)).abs().max() > 0.05, "noise makes a difference"
    torch.testing.assert_close(smooth[:, 0], expected, rtol=0, atol=4 * 0.5 / math.sqrt(n))


def test_smoothing_asks_within_the_pixels_range_with_fresh_noise_each_time():
    asked: list[Tensor] = []

    def predict(x: Tensor) -> Tensor:
        asked.append(x)
        return law(0.5, 0.5).expand(len(x), 2)

    x = torch.full((50, 1, 8, 8), 0.5)
    x[0], x[1] = 0, 1
    told = make(gaussian_smoothing, n=3, sigma=0.1).guard(predict, {}, context())(x)
    assert len(asked) == 3
    assert all(a.dtype == torch.float32 and 0 <= a.min() and a.max() <= 1 for a in asked)
    assert (told <= 0).all()
    noise = torch.stack(asked)[:, 2:3].flatten(1) - 0.5  # the other queries have the same pixels
    assert stats.kstest(noise.flatten().numpy() / 0.1, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.numpy())[np.triu_indices(3, 1)]).max() < 4 / math.sqrt(64)


# --- DIFFENCE ---------------------------------------------------------------------------------------


def logit(posteriors: Tensor) -> float:
    """log p / (1 - p) of the largest of posteriors (k,)."""
    p = float(posteriors.exp().max())
    return math.log(p / (1 - p))


def slow_told(original: Tensor, answers: Tensor, low: float, high: float) -> list[float]:
    """phi of what is answered for each sample: the first candidate inside, else the closest, else itself."""
    told = []
    for row, others in zip(original, answers.transpose(0, 1), strict=True):
        kept = [logit(a) for a in others if a.argmax() == row.argmax()]
        inside = [phi for phi in kept if low <= phi <= high]
        closest = min(kept, key=lambda phi: max(low - phi, phi - high), default=logit(row))
        told.append(inside[0] if inside else closest)
    return told


def slow_interval(members: tuple[Tensor, Tensor], nonmembers: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    """Scenario 1 as the paper tells it, one sample and one interval at a time: the ends and their divergence."""
    pools = []
    for original, answers in (members, nonmembers):
        each = zip(answers.transpose(0, 1), original, strict=True)
        pools.append([logit(a) for others, row in each for a in others if a.argmax() == row.argmax()])
    grid = np.linspace(*sorted((min(pools[0]), max(pools[1]))), 21)
    best = (math.inf, 0.0, 0.0)
    for i, low in enumerate(grid):
        for high in grid[i + 1 :]:
            told = [slow_told(*side, low, high) for side in (members, nonmembers)]
            edges = np.linspace(min(map(min, told)), max(map(max, told)), 101)
            counts = [np.histogram(side, edges)[0] for side in told]
            found = jensenshannon(*counts) ** 2
            if found < best[0] - 1e-12:
                best = (found, low, high)
    return best[1], best[2], best[0]


def known(seed: int, n: int, shift: float, spread: float = 0.8) -> tuple[Tensor, Tensor]:
    """Answers to n samples, surer by `shift`, and to five reconstructions of each, which differ by `spread`."""
    original = random_answers(n, 3, seed=seed, scale=1 + shift)
    return original, (original + random_answers(5, n, 3, seed=seed + 1, scale=spread)).log_softmax(2)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_scenario_1_is_that_of_a_slow_search(seed):
    members, nonmembers = known(seed, 60, 2.0), known(seed + 9, 45, 0.5)
    fast = [diffence.candidates(*side) for side in (members, nonmembers)]
    low, high, least = slow_interval(members, nonmembers)
    found = diffence.best_interval(*fast)
    assert found == pytest.approx((low, high), abs=1e-9)
    assert diffence.divergence(*(diffence.told(side, *found) for side in fast)) == pytest.approx(least, abs=1e-9)
    everywhere = diffence.divergence(*(diffence.told(side, -math.inf, math.inf) for side in fast))
    assert least < everywhere, "scenario 1 does better than no interval"


@pytest.mark.parametrize("seed", range(2))
def test_what_is_told_is_that_of_a_slow_choice(seed):
    original, answers = known(seed, 80, 0.5, spread=4.0)
    side = diffence.candidates(original, answers)
    assert not side.keeps.any(0).all(), "some sample has no candidate"
    for low, high in ((-0.2, 0.1), (1.0, 1.5), (-math.inf, math.inf)):
        told = diffence.told(side, low, high)
        assert told.tolist() == pytest.approx(slow_told(original, answers, low, high), abs=1e-9)


def test_the_interval_of_scenario_2_by_hand():
    """Candidates with posteriors 0.6, 0.8 and 0.9; another label's 0.7 is none."""
    original = torch.cat([law(0.7, 0.3), law(0.4, 0.6)])
    answers = torch.stack([torch.cat([law(0.6, 0.4), law(0.7, 0.3)]), torch.cat([law(0.8, 0.2), law(0.1, 0.9)])])
    logits = [math.log(0.6 / 0.4), math.log(0.8 / 0.2), math.log(0.9 / 0.1)]
    assert diffence.lower_half(diffence.candidates(original, answers)) == pytest.approx((logits[0], sum(logits) / 3))


def test_where_nothing_keeps_its_label_the_samples_give_the_interval():
    original = torch.cat([law(0.7, 0.3), law(0.9, 0.1)])
    side = diffence.candidates(original, torch.stack([law(0.2, 0.8).expand(2, 2)] * 3))
    expected = [math.log(0.7 / 0.3), math.log(0.9 / 0.1)]
    assert diffence.lower_half(side) == pytest.approx((expected[0], sum(expected) / 2))
    low, high = diffence.best_interval(side, side)
    assert expected[0] <= low < high <= expected[1] + 1e-9


def test_posteriors_of_one_leave_a_finite_interval():
    original = torch.tensor([[0.0, -math.inf], [math.log(0.6), math.log(0.4)]], dtype=torch.float64)
    side = diffence.candidates(original, original.expand(2, 2, 2))
    assert all(math.isfinite(end) for end in diffence.best_interval(side, side))


def test_the_choice_is_uniform_inside_the_interval_else_the_closest():
    n = 9000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    original = law(0.7, 0.3).expand(n, 2)
    answers = torch.stack([law(p, 1 - p).expand(n, 2) for p in (0.55, 0.65, 0.2, 0.75, 0.95)])

    def chosen(low: float, high: float) -> dict[float, int]:
        ends = torch.tensor([math.log(p / (1 - p)) for p in (low, high)], dtype=torch.float64)
        found = diffence.choose(original, answers, uniform, ends)[:, 0].exp()
        return {p: int((found - p).abs().lt(1e-9).sum()) for p in (0.55, 0.65, 0.2, 0.75, 0.95, 0.7)}

    inside = chosen(0.6, 0.8)
    assert inside[0.65] + inside[0.75] == n
    assert abs(inside[0.65] - n / 2) < 4 * math.sqrt(n / 4)
    assert chosen(0.8, 0.85)[0.75] == n  # log-odds of 0.75 are nearer to those of 0.8 than those of 0.95 to 0.85's
    assert chosen(0.96, 0.99)[0.95] == n
    assert chosen(0.3, 0.5)[0.55] == n  # 0.2 has another label
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.equal(diffence.choose(original, answers[2:3], uniform, ends), original)


@pytest.mark.parametrize("scenario", [1, 2])
def test_a_guard_with_an_interval_answers_from_inside_it_or_from_closest_to_it(scenario, predict, states, queries):
    name, memory = f"scenario {scenario}", Memory()
    module, params = GUARDS[name]
    told = make(module, **params).guard(predict, states[name], context(memory))(queries)
    clean, answers = predict(queries), torch.stack([predict(r) for r in memory.stored.values()])
    low, high = states[name]["_interval"].tolist()
    assert low < high
    counts = {"inside": 0, "closest": 0, "itself": 0}
    for row, others, answer in zip(clean, answers.transpose(0, 1), told, strict=True):
        kept = [a for a in others if a.argmax() == row.argmax()]
        inside = [a for a in kept if low <= logit(a) <= high]
        away = [max(low - logit(a), logit(a) - high) for a in kept]
        allowed = inside or [a for a, d in zip(kept, away, strict=True) if d <= min(away) + 1e-9] or [row]
        assert any(torch.equal(answer, a) for a in allowed)
        counts["inside" if inside else "closest" if kept else "itself"] += 1
    assert counts["inside"] > 0 and counts["closest"] > 0


def test_averaging_is_the_mean_of_all_answers_and_may_change_labels(predict, states, queries):
    memory, params = Memory(), SMALL | {"timestep": 700, "average": True}
    told = make(diffence, **params).guard(predict, states["averaging"], context(memory))(queries)
    mean = torch.stack([predict(r).exp() for r in memory.stored.values()]).mean(0)
    assert len(memory.made) == SMALL["n"]
    torch.testing.assert_close(told.exp(), mean)
    assert (told.argmax(1) != predict(queries).argmax(1)).any(), "which is why it is not the default"
    assert (told <= 0).all()


def test_the_released_noise_has_the_coefficients_of_the_released_code():
    """1.144 of the image and 0.556 of the noise at step 160, where the formula has 0.874 and 0.486."""
    seen: list[Tensor] = []

    def blind(noisy: Tensor, t: Tensor) -> Tensor:
        seen.append(noisy)
        return torch.zeros_like(noisy)

    for image, noise in ((1.0, 0.0), (0.5, 1.0)):
        for released in (True, False):
            x, z = torch.full((1, 1, 1, 1), image), torch.full((1, 1, 1, 1), noise)
            diffence.reconstruct(blind, x, z, 160, released)
    assert [s.item() for s in seen] == pytest.approx([1.144, 0.874, 0.556, 0.486], abs=6e-4)


def test_the_diffusion_model_is_trained_on_what_it_says(monkeypatch):
    task, seen = TinyTask(), []
    monkeypatch.setattr(diffence, "train_ddpm", lambda task, images, steps: (seen.append(images), {})[1])
    for diffusion in ("members", "reference", "members-and-reference"):
        make(diffence, diffusion=diffusion, train_steps=7).prepare(lambda x: x, task)
    assert torch.equal(seen[0], task.train.x)
    assert torch.equal(seen[1], task.reference.x)
    assert torch.equal(seen[2], torch.cat([task.train.x, task.reference.x]))
    assert task.made == ["ddpm-members-7", "ddpm-reference-7", "ddpm-members-and-reference-7"]


class NoReference(TinyTask):
    """A task that does not let its reference part be read."""

    @property
    def reference(self):
        raise AssertionError("the reference part was read")

    @reference.setter
    def reference(self, value):
        pass


@pytest.mark.parametrize("scenario", [2, 3])
def test_scenarios_2_and_3_read_no_non_members(scenario):
    task = NoReference(n=20)
    predict = predictor(task.build())
    state = make(diffence, n=1, train_steps=1, scenario=scenario).prepare(predict, task)
    assert ("_interval" in state) == (scenario == 2)


def test_a_thousand_members_and_as_many_others_are_known(monkeypatch):
    task = TinyTask()
    monkeypatch.setattr(diffence, "KNOWN", 16)
    asked: list[int] = []
    predict = predictor(task.build())

    def counted(x: Tensor) -> Tensor:
        asked.append(len(x))
        return predict(x)

    make(diffence, n=3, timestep=50, train_steps=1, scenario=1).prepare(counted, task)
    assert asked == [16] * 8  # both sides: the samples and three reconstructions of each
    assert len(set(task.made)) == len(task.made) == 7
    assert task.made[1:3] == ["known-members-members-1-50-0", "known-members-members-1-50-1"]


def test_what_cannot_be_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"^scenario: expected 3 with average=true.*given 1$"):
        make(diffence, scenario=1, average=True).prepare(lambda x: x, TinyTask(n=8))
    task = TinyTask(n=8)
    task.reference = Samples(task.reference.x[:0], task.reference.y[:0])
    for params in ({"scenario": 1}, {"diffusion": "reference"}, {"diffusion": "members-and-reference"}):
        with pytest.raises(ValueError, match=r"^diffence: expected a split with a reference part, given none$"):
            make(diffence, n=1, train_steps=1, **params).prepare(predictor(task.build()), task)


# --- Cascades ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return artifacts_in(tmp_path_factory.mktemp("guards"))


QUICK = "diffence[n=3,timestep=80,train_steps=2]"


def steps(artifacts: Artifacts, spec: str) -> list[Tensor]:
    """Answers behind no guard, behind the first, and so on."""
    target = artifacts.served(artifacts.chain(spec), 0)
    x = target.population.part("target-test").x
    return [target.behind(i).predictor()(x) for i in range(len(target.guards) + 1)]


@pytest.mark.parametrize(
    "spec",
    [
        f"label_smoothing+{QUICK}+memguard",
        f"{QUICK}+top_k",
        f"{QUICK}+memguard+rounding",
        "memguard+top_k",
        "top_k+memguard",
        "temperature[temperature=0.5]+temperature[temperature=0.7]+rounding[digits=3]+top_k",
        "rounding[digits=4]+memguard+temperature",
    ],
)
def test_a_cascade_of_guards_that_keep_labels_keeps_them_in_any_order(artifacts, spec):
    answers = steps(artifacts, spec)
    assert all(torch.equal(a.argmax(1), answers[0].argmax(1)) for a in answers)
    assert all((a - b).abs().max() > 1e-6 for a, b in pairwise(answers)), "every stage does something"


@pytest.mark.parametrize("spec", [f"gaussian_smoothing+{QUICK}", f"{QUICK}+gaussian_smoothing"])
def test_guards_before_inference_go_in_either_order(artifacts, spec):
    plain, first, second = steps(artifacts, spec)
    outer = second if spec.endswith("]") else first
    inner = first if spec.endswith("]") else plain
    assert torch.equal(outer.argmax(1), inner.argmax(1)), "DIFFENCE keeps the labels of what it guards"


def test_a_later_guard_works_on_what_comes_out_of_the_earlier_one(artifacts):
    _, smooth, told = steps(artifacts, "gaussian_smoothing+top_k[k=2]")
    assert torch.equal(told, top_k.top_k(smooth, 2))
    _, flat, told = steps(artifacts, "temperature+rounding")
    assert torch.equal(told, rounding.rounded(flat, 1))


def test_memguards_classifier_is_trained_on_what_comes_out_of_the_stage_before_it(artifacts):
    target, alone = (artifacts.served(artifacts.chain(c), 0) for c in (f"{QUICK}+top_k[k=1]+memguard", "memguard"))
    task, state = target.network.training_of(target.guards[2].part), target.guards[2].state()
    asked: list[Tensor] = []
    before = target.behind(2).predictor()
    again = make(memguard).prepare(lambda x: (asked.append(before(x)), asked[-1])[1], task)
    assert state.keys() == again.keys() and all(torch.equal(state[n], again[n]) for n in state)
    rest = torch.cat(asked).sort(1).values[:, :-1]
    assert (rest == rest[:, :1]).all(), "it saw answers with nothing but the label's posterior in them"
    plain = alone.guards[0].state()
    assert not torch.equal(plain["mean"], state["mean"])


def test_the_shadow_world_prepares_its_own_guard(artifacts):
    chain = artifacts.chain(QUICK.replace("]", ",scenario=1]"))
    target, shadow = (artifacts.served(chain, 0, world).guards[0].state() for world in ("target", "shadow"))
    assert not torch.equal(target["_interval"], shadow["_interval"])
    assert any(not torch.equal(target[name], shadow[name]) for name in target if name != "_interval")


def test_reconstructions_are_made_once_for_all_networks_scenarios_and_smaller_n(artifacts):
    """They lie in the store under a diffusion model, a noise key and the images alone."""
    folder = artifacts.store.root / "derived"

    def count() -> int:
        return sum(1 for p in folder.rglob("*.safetensors"))

    def ask(*specs: str) -> int:
        before = count()
        for spec in specs:
            artifacts.served(artifacts.chain(spec), 0).answers("target-test")
        return count() - before

    base = "n=4,timestep=90,train_steps=2"
    made = ask(f"diffence[{base}]")
    assert made and made % 4 == 0, "n for each call"
    others = [f"diffence[{base},scenario=1]", f"diffence[{base},scenario=2]", f"diffence[{base},average=true]"]
    assert ask(*others, f"label_smoothing+diffence[{base},scenario=2]") == 0
    assert ask(f"label_smoothing+diffence[{base.replace('4', '2')},scenario=1]") == 0
    assert ask(f"diffence[{base},as_released=true]") == made
    assert ask(f"diffence[{base},diffusion=reference]") == made
    intervals = [
        artifacts.served(artifacts.chain(f"{training}diffence[{base},scenario=2]"), 0).guards[0].state()["_interval"]
        for training in ("", "label_smoothing+")
    ]
    assert not torch.equal(*intervals), "though each network has its own interval"


def test_known_reconstructions_are_made_once_for_all_networks_and_smaller_n(artifacts, monkeypatch):
    made: list[int] = []
    # The class that runs is the one that the registry loaded, not the one imported here.
    loaded = artifacts.chain("diffence").guards[0].entry.load()
    denoiser = vars(sys.modules[loaded.__module__])["Denoiser"]
    forward = denoiser.forward
    monkeypatch.setattr(denoiser, "forward", lambda self, x, t: (made.append(len(x)), forward(self, x, t))[1])

    def prepare(spec: str) -> int:
        target = artifacts.served(artifacts.chain(spec), 0)
        target.network.states()
        made.clear()
        target.guards[0].state()
        return sum(made)

    base = "timestep=70,train_steps=1,scenario=1"
    members = len(artifacts.population(0).part("target-train"))
    n = members + len(artifacts.population(0).reference("target")[0])
    assert prepare(f"diffence[n=3,{base}]") == 3 * n + min(diffence.BATCH, members)  # one batch trained it
    assert prepare(f"label_smoothing+diffence[n=3,{base}]") == 0
    assert prepare(f"label_smoothing+diffence[n=2,{base}]") == 0
