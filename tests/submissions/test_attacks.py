"""The baseline attacks against closed forms, slow oracles and what no attack may depend on."""

import importlib.util
from dataclasses import replace
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark.api import Candidates, Embeddings, Knowledge, References, Samples, Target, World, logit_margin

FOLDER = Path(__file__).parents[2] / "submissions" / "attacks"
CLASSES, SHAPE = 4, (1, 2, 3)
MEMBERSHIP = [
    "random_scores", "loss", "metric_corr", "metric_ment", "nn_sorted", "ml_doctor_partial", "grad_norm", "lira",
    "lira_offline",
]  # fmt: skip


def module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"attack_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def entry(name: str, **params: Any) -> Any:
    loaded = module(name)
    kind: Any
    (kind,) = [v for v in vars(loaded).values() if hasattr(v, "card")]
    return kind(kind.Params(**params))


class Linear(Target):
    """Logits are a linear map of the pixels times `scale`: 0 gives constant posteriors, 1e3 saturated ones."""

    def __init__(self, seed: int = 0, scale: float = 1.0, shift: int = 0, network: nn.Module | None = None):
        torch.manual_seed(seed)
        self.network = network or nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES))
        self.scale, self.shift, self.asked = scale, shift, 0

    def log_posteriors(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        with torch.no_grad():
            logits = self.network.eval()(x).double() * self.scale
        return logits.roll(self.shift, 1).log_softmax(1)

    def labels(self, x: Tensor) -> Tensor:
        return self.log_posteriors(x).argmax(1)

    def white_box(self) -> nn.Module:
        return self.network


class Fixed(Target):
    """Answers a fixed table, whatever it is asked."""

    def __init__(self, answers: Tensor):
        self.answers = answers

    def log_posteriors(self, x: Tensor) -> Tensor:
        return self.answers


def images(n: int, seed: int = 0, classes: int = CLASSES) -> Samples:
    g = torch.Generator().manual_seed(seed)
    return Samples(torch.rand(n, *SHAPE, generator=g), torch.randint(classes, (n,), generator=g))


def candidates(n: int, seed: int = 0) -> Candidates:
    s = images(n, seed)
    return Candidates(s.x, s.y, torch.arange(n))


def references(n: int, m: int, seed: int = 0, online: bool = True) -> References:
    g = torch.Generator().manual_seed(seed)
    members = torch.rand(m, n, generator=g).argsort(0) < m // 2
    answers = (3 * torch.randn(m, n, CLASSES, generator=g, dtype=torch.float64)).log_softmax(2)
    return References(members if online else torch.zeros_like(members), answers)


def knowledge(target: Target | None = None, classes: int = CLASSES, shadow: World | None = None) -> Knowledge:
    target = target or Linear(1)
    world = shadow or World(target, images(60, 1, classes), images(50, 2, classes))
    return Knowledge(CLASSES, SHAPE, 7, torch.device("cpu"), shadow=world, partial=world, auxiliary=images(40, 3))


def fitted(name: str, known: Knowledge | None = None, **params: Any) -> Any:
    attack = entry(name, **params)
    attack.fit(known or knowledge())
    return attack


# --- What holds for every membership attack ---------------------------------------------------------


@pytest.mark.parametrize("name", MEMBERSHIP)
@pytest.mark.parametrize("models", [8, 64])
def test_scores_depend_on_the_candidate_alone(name: str, models: int) -> None:
    attack, target, c = fitted(name), Linear(2, scale=3), candidates(50)
    b = references(50, models, online="references-online" in attack.needs)
    scores = attack.score(target, c, b)
    assert scores.dtype == torch.float64 and scores.shape[-1] == 50
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(3))[:11]
    some = Candidates(c.x[rows], c.y[rows], c.id[rows])
    again = attack.score(target, some, References(b.members[:, rows], b.log_posteriors[:, rows]))
    torch.testing.assert_close(again, scores[..., rows], rtol=1e-4, atol=1e-6)
    assert torch.equal(attack.score(target, c, b), scores)


@pytest.mark.parametrize("name", MEMBERSHIP)
@pytest.mark.parametrize("case", ["constant", "saturated", "one-hot", "class missing", "all wrong", "one-sided class"])
def test_scores_are_finite(name: str, case: str) -> None:
    x = candidates(30)
    scale = {"constant": 0.0, "saturated": 1e3, "one-hot": 1e6}.get(case, 1.0)
    target = Linear(2, scale=scale)
    if case == "all wrong":
        x = Candidates(x.x, (target.labels(x.x) + 1) % CLASSES, x.id)
    shadow = World(Linear(1, scale=scale), images(60, 1, 3 if "class" in case else 4), images(50, 2))
    if case == "class missing":
        shadow = World(shadow.target, shadow.members, images(50, 2, 3))
    attack = fitted(name, knowledge(shadow=shadow))
    b = references(30, 8, online="references-online" in attack.needs)
    for answers in (b.log_posteriors, b.log_posteriors[:1].expand(8, -1, -1), b.log_posteriors.mul(1e6).log_softmax(2)):
        assert attack.score(target, x, References(b.members, answers)).isfinite().all()


# --- One by one -------------------------------------------------------------------------------------


def test_random_scores_are_chance_and_never_ask() -> None:
    target, c = Linear(), candidates(4000)
    s = fitted("random_scores").score(target, c, None)
    auc = stats.mannwhitneyu(s[:2000], s[2000:]).statistic / 2000**2
    assert abs(auc - 0.5) < 4 * (1 / 12 / 1000) ** 0.5 and target.asked == 0
    assert stats.kstest(s, "uniform").pvalue > 1e-3
    other = fitted("random_scores", Knowledge(CLASSES, SHAPE, 8, torch.device("cpu")))
    assert abs(np.corrcoef(s, other.score(target, c, None))[0, 1]) < 0.06


def test_loss_is_log_posterior_and_keeps_its_digits() -> None:
    c = candidates(40)
    answers = torch.randn(40, CLASSES, dtype=torch.float64).log_softmax(1)
    got = fitted("loss").score(Fixed(answers), c, None)
    torch.testing.assert_close(got, answers[torch.arange(40), c.y])
    two = Fixed(torch.tensor([[0.0, -90.0, -90.0, -90.0], [0.0, -91.0, -91.0, -91.0]], dtype=torch.float64))
    first, second = fitted("loss").score(two, Candidates(c.x[:2], torch.zeros(2).long(), c.id[:2]), None)
    assert first < second < 0


def test_correctness_is_a_rule_of_its_own() -> None:
    target, c = Linear(), candidates(40)
    got = fitted("metric_corr").score(target, c, None) > 0
    assert torch.equal(got, target.labels(c.x) == c.y) and 0 < got.sum() < 40


@pytest.mark.parametrize("scale", [1.0, 30.0, 200.0])
def test_modified_entropy_against_decimals(scale: float) -> None:
    g = torch.Generator().manual_seed(5)
    logits = scale * torch.randn(12, CLASSES, generator=g, dtype=torch.float64)
    y = torch.randint(CLASSES, (12,), generator=g)
    found = module("metric_ment").log_modified_entropy(logits.log_softmax(1), y)
    with localcontext(prec=600):
        for row, label, got in zip(logits.tolist(), y, found, strict=True):
            weights = [Decimal(v).exp() for v in row]
            p = [w / sum(weights) for w in weights]
            terms = [(1 - q) * q.ln() if i == label else q * (1 - q).ln() for i, q in enumerate(p)]
            assert got.item() == pytest.approx(max(float((-sum(terms, Decimal(0))).ln()), -1e3), rel=1e-9, abs=1e-9)


def test_modified_entropy_decides_by_the_class_of_the_candidate() -> None:
    class_wise, single = fitted("metric_ment"), fitted("metric_ment", thresholds="global")
    target, c = Linear(2), candidates(40)
    gap = class_wise.score(target, c, None) - single.score(target, c, None)
    torch.testing.assert_close(gap, (single.thresholds - class_wise.thresholds)[c.y])
    assert single.thresholds.unique().numel() == 1 and class_wise.thresholds.unique().numel() > 1


@pytest.mark.parametrize("name", ["nn_sorted", "ml_doctor_partial"])
def test_neural_attacks_find_confident_members(name: str) -> None:
    """Members and non-members with the same images and labels, but only members are answered confidently."""
    data = images(400, 1)

    class Leaky(Target):
        def log_posteriors(self, x: Tensor) -> Tensor:
            noise = torch.randn(len(x), CLASSES, generator=torch.Generator().manual_seed(len(x)), dtype=torch.float64)
            return (noise * torch.where(x.flatten(1)[:, 0] < 0.5, 3.0, 1.0).unsqueeze(1)).log_softmax(1)

    member = data.x.flatten(1)[:, 0] < 0.5
    world = World(Leaky(), Samples(data.x[member], data.y[member]), Samples(data.x[~member], data.y[~member]))
    attack, c = fitted(name, knowledge(shadow=world)), candidates(500, 9)
    scores, truth = attack.score(Leaky(), c, None), c.x.flatten(1)[:, 0] < 0.5
    assert scores.shape == (3, 500) and not torch.equal(scores[0], scores[1])
    for row in scores:
        auc = stats.mannwhitneyu(row[truth], row[~truth]).statistic / (truth.sum() * (~truth).sum()).item()
        assert auc > 0.8
        assert (((row > 0) == truth).double().mean()) > 0.7


def test_ml_doctor_reads_whether_the_label_is_right() -> None:
    attack, c, target = fitted("ml_doctor_partial"), candidates(30), Linear(2)
    right = Candidates(c.x, target.labels(c.x), c.id)
    wrong = Candidates(c.x, (right.y + 1) % CLASSES, c.id)
    worse = Candidates(c.x, (right.y + 2) % CLASSES, c.id)
    scores = [attack.score(target, x, None) for x in (right, wrong, worse)]
    assert not torch.equal(scores[0], scores[1]) and torch.equal(scores[1], scores[2])


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(18, CLASSES))
    network.train()(torch.rand(32, *SHAPE))  # running moments that differ from a batch's
    return network


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("wrt", ["parameters", "input"])
def test_gradient_norm_against_a_loop(norm: str, wrt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, c = convolutional(), candidates(9)
    attack = fitted("grad_norm", norm=norm, wrt=wrt)
    got = attack.score(Linear(network=network), c, None)
    network.eval()
    for x, y, score in zip(c.x.split(1), c.y.split(1), got, strict=True):
        x = x.clone().requires_grad_()
        of = [x] if wrt == "input" else list(network.parameters())
        gradient = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), of)
        flat = torch.cat([v.flatten() for v in gradient]).double()
        expected = flat.abs().sum() if norm == "l1" else flat.square().sum().sqrt()
        assert -score.item() == pytest.approx(expected.item(), rel=1e-4)
    monkeypatch.setitem(type(attack).score.__globals__, "BUDGET", 1)  # one sample at a time
    torch.testing.assert_close(attack.score(Linear(network=network), c, None), got, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("variance", "models"), [("auto", 64), ("auto", 65), ("per-sample", 12)])
def test_lira_against_a_loop(variance: str, models: int) -> None:
    c, b, target = candidates(20), references(20, models), Linear(2, scale=4)
    got = fitted("lira", variance=variance).score(target, c, b)
    own, margins = logit_margin(target.log_posteriors(c.x), c.y), logit_margin(b.log_posteriors, c.y)
    for j in range(20):
        inside, outside = (margins[side[:, j], j].numpy() for side in (b.members, ~b.members))
        expected = [stats.norm.logpdf(own[j], v.mean(), v.std(ddof=1)) for v in (inside, outside)]
        assert got[j].item() == pytest.approx(expected[0] - expected[1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("variance", "models"), [("auto", 16), ("fixed", 64)])
def test_lira_with_fixed_variance_ranks_as_any_common_deviation(variance: str, models: int) -> None:
    c, b, target = candidates(20), references(20, models), Linear(2, scale=4)
    got = fitted("lira", variance=variance).score(target, c, b)
    own, margins = logit_margin(target.log_posteriors(c.x), c.y), logit_margin(b.log_posteriors, c.y)
    for j in range(20):
        means = [margins[side[:, j], j].mean().item() for side in (b.members, ~b.members)]
        ratio = stats.norm.logpdf(own[j], means[0], 1.7) - stats.norm.logpdf(own[j], means[1], 1.7)
        assert got[j].item() == pytest.approx(ratio * 1.7**2, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("models", [60, 62, 64, 66])
def test_lira_has_one_variance_below_32_models_a_side(models: int) -> None:
    c, b = candidates(20), references(20, models)
    got = fitted("lira").score(Linear(2, scale=4), c, b)
    kind = "per-sample" if models >= 64 else "fixed"
    assert torch.equal(got, fitted("lira", variance=kind).score(Linear(2, scale=4), c, b))


def test_lira_has_no_opinion_where_one_side_is_empty() -> None:
    c, b = candidates(5), references(5, 8)
    members = b.members.clone()
    members[:, 0], members[:, 1] = True, False
    for variance in ("fixed", "per-sample"):
        got = fitted("lira", variance=variance).score(Linear(2), c, References(members, b.log_posteriors))
        assert (got == 0).tolist() == [True, True, False, False, False]


class Views(Linear):
    """Answers of three pairs of reference models to whatever it is asked."""

    def __init__(self, models: int):
        self.models = [Linear(10 + i, scale=2) for i in range(models)]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([m.log_posteriors(x) for m in self.models])


@pytest.mark.parametrize(
    ("name", "variance"), [("lira", "per-sample"), ("lira", "fixed"), ("lira_offline", "per-sample")]
)
def test_views_are_averaged(name: str, variance: str) -> None:
    """Each view is one LiRA with laws of its own; the score is their mean."""
    known = replace(knowledge(), simple={"pad": 1, "flip": True})
    c, ask, target = candidates(20), Views(8), Linear(2, scale=4)
    members = references(20, 8).members if name == "lira" else torch.zeros(8, 20, dtype=torch.bool)
    got = fitted(name, known, variance=variance, views=4).score(target, c, References(members, ask(c.x), ask))
    single = fitted(name, known, variance=variance)
    each = [
        single.score(target, Candidates(x, c.y, c.id), References(members, ask(x)))
        for x in (c.x, *known.views(c.x, 3))
    ]  # fmt: skip
    torch.testing.assert_close(got, torch.stack(each).mean(0))
    assert not torch.allclose(got, each[0])


def test_one_view_asks_the_reference_models_nothing() -> None:
    c, b = candidates(5), references(5, 8)
    assert fitted("lira").score(Linear(2), c, b).isfinite().all()
    with pytest.raises(PermissionError, match="these reference models answer for the candidates alone"):
        fitted("lira", views=2).score(Linear(2), c, b)


@pytest.mark.parametrize(("variance", "models"), [("auto", 32), ("per-sample", 6), ("auto", 31), ("fixed", 40)])
def test_offline_lira_against_a_loop(variance: str, models: int) -> None:
    c, b, target = candidates(20), references(20, models, online=False), Linear(2, scale=4)
    got = fitted("lira_offline", variance=variance).score(target, c, b)
    own, margins = logit_margin(target.log_posteriors(c.x), c.y), logit_margin(b.log_posteriors, c.y)
    fixed = variance == "fixed" or (variance == "auto" and models < 32)
    cdf = []
    for j in range(20):
        v = margins[:, j].numpy()
        law = stats.norm(v.mean(), 1.0 if fixed else v.std(ddof=1))
        assert got[j].item() == pytest.approx(-law.logsf(own[j].item()), rel=1e-7, abs=1e-12)
        cdf.append(law.logcdf(own[j].item()))
    assert stats.spearmanr(got, cdf).statistic == pytest.approx(1)


def test_offline_lira_does_not_tie_strong_members() -> None:
    answers = torch.tensor([[0.0, -60.0, -60.0, -60.0], [0.0, -70.0, -70.0, -70.0]], dtype=torch.float64)
    b = References(torch.zeros(8, 2, dtype=torch.bool), torch.zeros(8, 2, 4, dtype=torch.float64).log_softmax(2))
    two = Candidates(torch.zeros(2, *SHAPE), torch.zeros(2).long(), torch.arange(2))
    first, second = fitted("lira_offline").score(Fixed(answers), two, b)
    assert first < second


def test_inversion_reaches_the_posterior_inside_the_box() -> None:
    last = nn.Linear(6, CLASSES)
    last.weight.data = 20 * torch.eye(CLASSES, 6)
    target = Linear(network=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), last))
    attack = fitted("fredrikson")
    got = attack.reconstruct(target, [2, 0, 3])
    assert got.shape == (3, *SHAPE) and got.min() >= 0 and got.max() <= 1
    p = target.log_posteriors(got).exp()[range(3), [2, 0, 3]]
    assert (p >= 0.999).all() and (p < 0.9999).all()  # it stops there
    torch.testing.assert_close(attack.reconstruct(target, [0]), got[1:2])


def test_inversion_stops_when_idle_and_when_spent() -> None:
    last = nn.Linear(6, CLASSES)
    nn.init.zeros_(last.weight)
    flat = Linear(network=nn.Sequential(nn.Flatten(), last))
    calls: list[int] = []
    flat.network.register_forward_hook(lambda *_: calls.append(1))
    attack = fitted("fredrikson", patience=7)
    torch.testing.assert_close(attack.reconstruct(flat, [1]), attack.start[[1]])
    assert len(calls) == 8
    calls.clear()
    fitted("fredrikson", steps=3).reconstruct(flat, [1])
    assert len(calls) == 4


def test_inversion_null_rows_come_from_the_shadow_data() -> None:
    known = knowledge()
    data = known.auxiliary
    assert data is not None
    means = fitted("inversion_null", known).reconstruct(Target(), [3, 1])
    for image, label in zip(means, [3, 1], strict=True):
        torch.testing.assert_close(image, data.x[data.y == label].mean(0))
    chosen = fitted("inversion_null", known, returns="shadow-image").reconstruct(Target(), range(CLASSES))
    for label in range(CLASSES):
        assert any(torch.equal(chosen[label], x) for x in data.x[data.y == label])
    poor = Knowledge(CLASSES, SHAPE, 0, torch.device("cpu"), auxiliary=images(10, classes=2))
    for returns in ("class-mean", "shadow-image"):  # class 3 is not there
        assert fitted("inversion_null", poor, returns=returns).reconstruct(Target(), [3]).isfinite().all()


def test_attribute_perceptron_learns_a_visible_attribute_only() -> None:
    g = torch.Generator().manual_seed(1)
    x, noise = torch.randn(600, 5, generator=g), torch.randint(2, (600,), generator=g)
    visible = ((x[:, 0] * x[:, 1]) > 0).long()  # not linear
    accuracy = {}
    for name, attribute in (("visible", visible), ("noise", noise)):
        data = Embeddings(x[:400], torch.zeros(400).long(), attribute[:400])
        known = Knowledge(CLASSES, SHAPE, 0, torch.device("cpu"), embeddings=data)
        got = fitted("attribute_mlp", known).predict(x[400:])
        assert got.dtype == torch.int64 and got.shape == (200,)
        accuracy[name] = (got == attribute[400:]).double().mean().item()
    assert accuracy["visible"] > 0.75 and 0.35 < accuracy["noise"] < 0.65
    assert [entry("attribute_mlp", embedding=e).embedding for e in ("target", "untrained")] == ["target", "untrained"]


def test_attribute_perceptron_learns_as_many_values_as_there_are() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(600, 5, generator=g)
    attribute = x[:, :4].argmax(1)
    data = Embeddings(x[:400], torch.zeros(400).long(), attribute[:400], values=4)
    got = fitted("attribute_mlp", Knowledge(CLASSES, SHAPE, 0, torch.device("cpu"), embeddings=data)).predict(x[400:])
    assert (got == attribute[400:]).double().mean() > 0.7


def test_attribute_null_rows_guess_by_frequency() -> None:
    """Classes 0 and 1 have commonest values 2 and 1, all together 1; nobody has seen class 3."""
    y, attribute = torch.tensor([0] * 3 + [1] * 5), torch.tensor([2, 2, 0, 1, 1, 1, 1, 0])
    one_hot = torch.eye(CLASSES)
    known = Knowledge(CLASSES, SHAPE, 0, torch.device("cpu"), embeddings=Embeddings(one_hot[y], y, attribute, values=3))
    asked = one_hot[torch.tensor([0, 1, 3])]
    assert fitted("attribute_null", known).predict(asked).tolist() == [2, 1, 1]
    assert fitted("attribute_null", known, guess="majority").predict(asked).tolist() == [1, 1, 1]
    assert entry("attribute_null").embedding == "label"


@pytest.mark.parametrize("name", ["steal_mse", "steal_null"])
def test_stealing_copies_the_target_but_the_null_row_does_not(name: str) -> None:
    target, queries, test = Linear(4, scale=10), images(641, 5), images(400, 6)

    def build() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, CLASSES))

    copy = fitted(name, learning_rate=0.3).steal(target, queries, build)
    with torch.no_grad():
        agreement = (copy(test.x).argmax(1) == target.labels(test.x)).double().mean()
    assert not copy.training
    if name == "steal_mse":
        assert agreement > 0.95 and target.asked == 641 + 400  # each query once
    else:
        assert agreement < 0.6 and target.asked == 400


def test_null_row_of_stealing_learns_the_labels() -> None:
    target, data = Linear(4, scale=10), images(600, 5)
    labelled = Samples(data.x, target.labels(data.x))
    attack = fitted("steal_null", learning_rate=0.3)
    network = attack.steal(Target(), labelled, lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)))
    assert (network(data.x).argmax(1) == labelled.y).double().mean() > 0.95
