"""Attacks that learn from posteriors, and ML-DOCTOR's on the network: closed forms, brute force, degenerate worlds."""

from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark.api import Candidates, References, Samples, Target, World
from tests.submissions.test_attacks import (
    CLASSES,
    Fixed,
    Linear,
    candidates,
    fitted,
    images,
    knowledge,
    module,
    references,
)

QUICK: dict[str, dict[str, Any]] = {
    "nn_augmented": {"epochs": 30, "views": 3},
    "nn_top3": {"epochs": 30},
    "nn_normal": {"epochs": 30},
    "nn_normal_label": {"epochs": 30},
    "ml_doctor_shadow": {},
    "ml_doctor_white_box_shadow": {"epochs": 30},
    "ml_doctor_white_box_partial": {"epochs": 30},
    "nn_three_branch": {"epochs": 6},
}
NEURAL = list(QUICK)
LABELLED = [n for n in NEURAL if n not in ("nn_top3", "nn_normal", "nn_augmented")]
METRIC = ["metric_conf", "metric_ent"]
WITH_REFERENCES = ["attack_r", "calibrated_loss", "rmia", "rmia_offline"]
NAMES = [*NEURAL, *METRIC, *WITH_REFERENCES, "attack_p", "quantile_regression"]


class Net(nn.Module):
    """Pixels -> five hidden units -> logits times `scale`, in the two parts that the contract promises."""

    def __init__(self, seed: int = 0, scale: float = 1.0):
        super().__init__()
        torch.manual_seed(seed)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, CLASSES)
        with torch.no_grad():
            self.head.weight.mul_(scale)
            self.head.bias.mul_(scale)

    def embed(self, x: Tensor) -> Tensor:
        return self.hidden(x.flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


def served(seed: int, scale: float = 1.0) -> Linear:
    return Linear(network=Net(seed, scale))


def only(c: Candidates, rows: Tensor) -> Candidates:
    return Candidates(c.x[rows], c.y[rows], c.id[rows])


# --- What holds for all of them ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scores_depend_on_the_candidate_alone(name: str) -> None:
    attack, target, c = fitted(name, knowledge(served(1)), **QUICK.get(name, {})), served(2, 3), candidates(50)
    b = references(50, 8, online="references-online" in attack.needs)
    scores = attack.score(target, c, b)
    assert scores.dtype == torch.float64
    assert scores.shape == ((3, 50) if name in NEURAL or name == "quantile_regression" else (50,))
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(3))[:11]
    again = attack.score(target, only(c, rows), References(b.members[:, rows], b.log_posteriors[:, rows]))
    torch.testing.assert_close(again, scores[..., rows], rtol=1e-4, atol=1e-6)
    assert torch.equal(attack.score(target, c, b), scores)
    assert len(scores.flatten().unique()) > 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "case", ["constant", "saturated", "one-hot", "one class", "class missing", "all wrong", "one-sided class"]
)
def test_scores_are_finite(name: str, case: str) -> None:
    scale = {"constant": 0.0, "saturated": 1e3, "one-hot": 1e6}.get(case, 1.0)
    target, x = served(2, scale), candidates(30)
    members, nonmembers = images(60, 1), images(50, 2)
    if case == "all wrong":
        x = Candidates(x.x, (target.labels(x.x) + 1) % CLASSES, x.id)
    if case in ("class missing", "one-sided class"):
        members = images(60, 1, 3)
    if case == "class missing":
        nonmembers = images(50, 2, 3)
    if case == "one class":
        members, nonmembers = images(60, 1, 1), images(50, 2, 1)
    known = knowledge(shadow=World(served(1, scale), members, nonmembers))
    attack = fitted(name, known, **QUICK.get(name, {}))
    b = references(30, 8, online="references-online" in attack.needs)
    one_hot = b.log_posteriors.mul(1e6).log_softmax(2)
    for answers in (b.log_posteriors, b.log_posteriors[:1].expand(8, -1, -1), one_hot):
        scores = attack.score(target, x, References(b.members, answers))
        assert scores.isfinite().all()
        if not set(attack.needs) & {"references-online", "references-offline"}:
            break


# --- Thresholds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRIC)
def test_thresholds_are_those_of_each_class_or_of_all(name: str) -> None:
    """Class 0 decides by its own samples; class 3 has no members and decides as all do."""
    members, nonmembers = images(300, 1, 3), images(300, 2)
    known = knowledge(shadow=World(Linear(1), members, nonmembers))
    class_wise, single = fitted(name, known), fitted(name, known, thresholds="global")
    assert single.thresholds.unique().numel() == 1 and class_wise.thresholds.unique().numel() >= 3
    assert class_wise.thresholds[3] == single.thresholds[3]
    alone = World(Linear(1), *(Samples(p.x[p.y == 0], p.y[p.y == 0]) for p in (members, nonmembers)))
    torch.testing.assert_close(
        class_wise.thresholds[0], fitted(name, knowledge(shadow=alone), thresholds="global").thresholds[0]
    )
    c, target = candidates(40), Linear(2)
    gap = class_wise.score(target, c, None) - single.score(target, c, None)
    torch.testing.assert_close(gap, (single.thresholds - class_wise.thresholds)[c.y])


@pytest.mark.parametrize("of", ["label", "prediction"])
def test_confidence_decides_as_the_posterior_does(of: str) -> None:
    attack, target, c = fitted("metric_conf", thresholds="global", of=of), Linear(2, scale=4), candidates(60)
    posteriors = target.log_posteriors(c.x).exp()
    confidence = posteriors[torch.arange(60), c.y] if of == "label" else posteriors.amax(1)
    scores = attack.score(target, c, None)
    torch.testing.assert_close((scores + attack.thresholds[0]).sigmoid(), confidence)
    called = confidence > attack.thresholds[0].sigmoid()
    assert torch.equal(scores > 0, called) and 0 < called.sum() < 60


@pytest.mark.parametrize("scale", [1.0, 30.0, 200.0])
def test_entropy_against_decimals(scale: float) -> None:
    g = torch.Generator().manual_seed(5)
    logits = scale * torch.randn(12, CLASSES, generator=g, dtype=torch.float64)
    found = module("metric_ent").log_entropy(logits.log_softmax(1))
    with localcontext(prec=600):
        for row, got in zip(logits.tolist(), found, strict=True):
            weights = [Decimal(v).exp() for v in row]
            entropy = -sum((w / sum(weights) * (w / sum(weights)).ln() for w in weights), Decimal(0))
            assert got.item() == pytest.approx(max(float(entropy.ln()), -1e3), rel=1e-9, abs=1e-9)


def test_entropy_of_all_and_of_nothing() -> None:
    flat, sure = torch.zeros(1, 4).double().log_softmax(1), torch.tensor([[0.0, *[-np.inf] * 3]]).double()
    most, least = module("metric_ent").log_entropy(torch.cat([flat, sure])).tolist()
    assert most == pytest.approx(np.log(np.log(4))) and -np.inf < least < -900


# --- Neural attacks ---------------------------------------------------------------------------------


class Leaky(Target):
    """Images whose first pixel is dark are answered confidently, whatever the label."""

    def log_posteriors(self, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), CLASSES, generator=torch.Generator().manual_seed(len(x)), dtype=torch.float64)
        return (noise * torch.where(x.flatten(1)[:, 0] < 0.5, 3.0, 1.0).unsqueeze(1)).log_softmax(1)


def auc(scores: Tensor, truth: Tensor) -> float:
    return float(stats.mannwhitneyu(scores[truth], scores[~truth]).statistic / (truth.sum() * (~truth).sum()).item())


@pytest.mark.parametrize("name", [n for n in NEURAL if "white_box" not in n])
def test_neural_attacks_find_confident_members(name: str) -> None:
    data = images(400, 1)
    member = data.x.flatten(1)[:, 0] < 0.5
    world = World(Leaky(), Samples(data.x[member], data.y[member]), Samples(data.x[~member], data.y[~member]))
    c = candidates(500, 9)
    scores, truth = fitted(name, knowledge(shadow=world)).score(Leaky(), c, None), c.x.flatten(1)[:, 0] < 0.5
    assert not torch.equal(scores[0], scores[1])
    for row in scores:
        assert auc(row, truth) > 0.75
        assert ((row > 0) == truth).double().mean() > 0.65


@pytest.mark.parametrize("name", LABELLED)
def test_attacks_with_the_label_find_members_that_are_classified_right(name: str) -> None:
    target, data, c = served(1), images(300, 1), candidates(200, 9)
    right, wrong = target.labels(data.x), (target.labels(data.x) + 1) % CLASSES
    world = World(target, Samples(data.x[:150], right[:150]), Samples(data.x[150:], wrong[150:]))
    truth = torch.arange(200) < 100
    c = Candidates(c.x, (target.labels(c.x) + ~truth) % CLASSES, c.id)
    for row in fitted(name, knowledge(shadow=world), **QUICK[name] | {"epochs": 60}).score(target, c, None):
        assert auc(row, truth) > 0.9


@pytest.mark.parametrize("name", ["nn_normal_label", "ml_doctor_shadow"])
def test_the_label_enters_by_one_bit(name: str) -> None:
    attack, c, target = fitted(name, **QUICK[name]), candidates(30), Linear(2)
    right = Candidates(c.x, target.labels(c.x), c.id)
    wrong, worse = (Candidates(c.x, (right.y + i) % CLASSES, c.id) for i in (1, 2))
    scores = [attack.score(target, x, None) for x in (right, wrong, worse)]
    assert not torch.equal(scores[0], scores[1]) and torch.equal(scores[1], scores[2])


@pytest.mark.parametrize(
    ("name", "by_order", "by_label"),
    [
        ("nn_top3", False, False),
        ("nn_augmented", False, False),
        ("nn_normal", True, False),
        ("nn_normal_label", True, True),
        ("ml_doctor_shadow", False, True),
        ("nn_three_branch", True, True),
    ],
)
def test_what_a_neural_attack_reads(name: str, by_order: bool, by_label: bool) -> None:
    """Whether the order of the classes and the label move a score."""
    attack, c = fitted(name, **QUICK[name]), candidates(30)
    answers = (3 * torch.randn(30, CLASSES, generator=torch.Generator().manual_seed(1)).double()).log_softmax(1)
    c = Candidates(c.x, answers.argmax(1), c.id)
    scores = attack.score(Fixed(answers), c, None)
    turned = attack.score(Fixed(answers.roll(1, 1)), Candidates(c.x, (c.y + 1) % CLASSES, c.id), None)
    labelled = attack.score(Fixed(answers), Candidates(c.x, (c.y + 1) % CLASSES, c.id), None)
    assert torch.equal(scores, turned) != by_order and torch.equal(scores, labelled) != by_label


def test_the_augmented_attack_orders_its_views_by_their_largest_posterior() -> None:
    known = replace(knowledge(), simple={"pad": 1, "flip": True})
    attack, c, target = fitted("nn_augmented", known, views=4, epochs=1), candidates(20), Linear(2, scale=3)
    for x, got in zip(c.x, attack._features(target, c.x), strict=True):
        answers = [target.log_posteriors(known.views(x[None], 4)[k]).exp()[0].tolist() for k in range(4)]
        triples = [sorted(a, reverse=True)[:3] for a in answers]
        expected = [p for triple in sorted(triples, key=lambda t: -t[0]) for p in triple]
        assert got.tolist() == pytest.approx(expected, rel=1e-6)


def test_top_3_reads_three_posteriors_and_all_of_two() -> None:
    feature = module("nn_top3").NNTop3._features
    answers = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15], [0.1, 0.4, 0.0, 0.3, 0.2]]).double().log()
    expected = torch.tensor([[0.4, 0.3, 0.15], [0.4, 0.3, 0.2]]).double()
    torch.testing.assert_close(feature(Fixed(answers), torch.zeros(2)), expected)
    two = torch.tensor([[0.2, 0.8]]).double().log()
    torch.testing.assert_close(feature(Fixed(two), torch.zeros(1)).exp().log(), torch.tensor([[0.8, 0.2]]).double())


def test_three_branches_stop_at_the_best_epoch_on_what_was_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance labels: what is learnt does not carry over, so that the held-out loss soon rises."""
    attack = fitted("nn_three_branch", epochs=1)
    sides = [attack._features(Linear(1), part.x, part.y) for part in (images(60, 1), images(60, 2))]
    losses, plain = [], type(attack)._loss

    def counted(self: Any, network: nn.Module, sides: Any, rows: Any) -> Tensor:
        found = plain(self, network, sides, rows)
        if not torch.is_grad_enabled():
            losses.append((found.item(), rows))
        return found

    monkeypatch.setattr(type(attack), "_loss", counted)
    attack.params = type(attack).Params(epochs=200, patience=3, learning_rate=5e-3)
    network = attack._train(CLASSES, sides, torch.Generator().manual_seed(1))
    values = [value for value, _ in losses]
    assert len(values) < 200 and values.index(min(values)) == len(values) - 4
    held = losses[0][1]
    assert plain(attack, network, sides, held).item() == pytest.approx(min(values)) and [len(h) for h in held] == [
        12,
        12,
    ]


# --- The network itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["norms", "full"])
def test_last_layer_gradient_against_autograd(gradient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = fitted("ml_doctor_white_box_partial", knowledge(served(1)), epochs=1, gradient=gradient)
    network, data = Net(3, 4), images(9)
    monkeypatch.setitem(type(attack)._features.__globals__, "CHUNK", 4)
    found = torch.cat(list(attack._features(network, data.x, data.y)))
    for x, y, row in zip(data.x.split(1), data.y.split(1), found, strict=True):
        logits = network(x)
        loss = nn.functional.cross_entropy(logits, y)
        (full,) = torch.autograd.grad(loss, network.head.weight)
        label, log_loss = nn.functional.one_hot(y, CLASSES)[0], loss.log().view(1)
        entries = full.flatten() if gradient == "full" else full.norm(dim=1).log()
        torch.testing.assert_close(
            row, torch.cat([logits.softmax(1)[0], label, log_loss, entries]), rtol=1e-4, atol=1e-5
        )


def test_white_box_features_keep_the_digits_of_a_saturated_network() -> None:
    attack, data = fitted("ml_doctor_white_box_partial", knowledge(served(1)), epochs=1), images(20)
    network = Net(3, 300)
    right = network(data.x).argmax(1)
    posterior, _, loss, norms = torch.cat(list(attack._features(network, data.x, right))).split([4, 4, 1, 4], 1)
    sure = posterior.amax(1) == 1
    assert 1 < sure.sum() and loss[sure].unique().numel() == sure.sum() and norms.isfinite().all()


def test_the_order_of_hidden_units_means_nothing_to_a_shadow_model() -> None:
    network, order = Net(2), torch.tensor([3, 0, 4, 1, 2])
    turned = Net(2)
    with torch.no_grad():
        turned.hidden.weight.copy_(network.hidden.weight[order])
        turned.hidden.bias.copy_(network.hidden.bias[order])
        turned.head.weight.copy_(network.head.weight[:, order])
    c = candidates(30)
    same = {}
    for gradient in ("norms", "full"):
        attack = fitted("ml_doctor_white_box_shadow", knowledge(served(1)), epochs=10, gradient=gradient)
        pair = [attack.score(Linear(network=n), c, None) for n in (network, turned)]
        same[gradient] = torch.allclose(*pair, rtol=1e-4, atol=1e-4)
    assert same == {"norms": True, "full": False}
