"""Robust accuracy against the Adversarial Robustness Toolbox and closed forms; certified accuracy against both."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentNumpy
from art.estimators.classification import PyTorchClassifier
from torch import nn

from benchmark.api import Claims
from benchmark.judge import kinds, robustness
from benchmark.judge.scenario import Skip
from benchmark.judge.utility import utility
from benchmark.sandbox.local import Defender
from benchmark.targets.network import Network
from tests.conftest import artifacts_in

SHAPE, CLASSES = (1, 8, 8), 4


@pytest.fixture(scope="module")
def trained():
    """A small network that is right on most of 400 images of four bright quadrants under noise, and those."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (400,), generator=g)
    x = torch.rand(400, *SHAPE, generator=g) * 0.7
    for quadrant in range(CLASSES):
        r, c = 4 * (quadrant // 2), 4 * (quadrant % 2)
        x[y == quadrant, :, r : r + 4, c : c + 4] += 0.3
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, CLASSES))
    update = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        update.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        update.step()
    assert float((network(x).argmax(1) == y).double().mean()) > 0.95
    return network.eval(), x, y


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("radius", [0.01, 0.1, 0.7])
def test_images_stay_in_the_ball_and_the_box(trained, radius):
    network, x, y = trained
    found = robustness.pgd(network, x, y, radius, generator())
    change = float((found - x).abs().max())
    assert 0.9 * radius < change <= radius + 1e-6 and float(found.min()) >= 0 and float(found.max()) <= 1
    assert not found.requires_grad


@pytest.mark.parametrize("radius", [0.08, 0.15])
def test_the_attack_is_not_weaker_than_the_toolbox(trained, radius):
    network, x, y = trained
    peer = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=(0.0, 1.0), device_type="cpu")
    attack = ProjectedGradientDescentNumpy(
        peer, eps=radius, eps_step=radius / 8, max_iter=20, num_random_init=1, verbose=False
    )
    # One draw of starts moves a count by two of 400, on either side: eight each, and their means.
    theirs, ours = [], []
    for seed in range(8):
        attacked = torch.tensor(attack.generate(x.numpy(), y=y.numpy()))
        theirs.append(float((network(attacked).argmax(1) == y).double().mean()))
        ours.append(float(robustness.robust(network, x, y, radius, generator(seed)).double().mean()))
    assert 0 < min(theirs) and max(theirs) < 0.95
    assert mean(ours) <= mean(theirs) + 0.005


def test_of_a_linear_network_robust_and_certified_are_both_exact(trained):
    """Two classes, no pixel near 0 or 1: right in the whole ball where the margin exceeds radius * |w|_1."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    x = 0.3 + 0.4 * torch.rand(600, *SHAPE, generator=generator(1))
    y = torch.randint(2, (600,), generator=generator(2))
    weight, bias = network[1].weight.diff(dim=0).squeeze(0), network[1].bias.diff()
    margin = ((x.flatten(1) @ weight + bias) * (2 * y - 1)).detach()
    radius = 0.02
    exact = margin > radius * weight.abs().sum()
    clear = (margin - radius * weight.abs().sum()).abs() > 1e-4
    assert 0.1 < exact.double().mean() < 0.9
    assert torch.equal(robustness.robust(network, x, y, radius, generator())[clear], exact[clear])
    # One by one, the bounds of two logits are looser than those of their difference.
    loose = margin > radius * network[1].weight.abs().sum()
    found = robustness.certified(network, x, y, radius)
    assert torch.equal(found[clear], loose[clear]) and found.any() and bool((exact >= found).all())


def test_what_is_certified_is_robust_and_both_fall_with_the_radius(trained):
    network, x, y = trained
    before = (1.0, 1.0)
    for radius in (0.001, 0.005, 0.02, 0.06):
        proven = robustness.certified(network, x, y, radius)
        kept = robustness.robust(network, x, y, radius, generator())
        assert bool((kept >= proven).all())
        now = (float(kept.double().mean()), float(proven.double().mean()))
        assert now[0] <= before[0] and now[1] <= before[1]
        before = now
    assert robustness.certified(network, x, y, 1e-6).double().mean() > 0.9 > now[1]


def test_a_network_that_is_sure_is_attacked_all_the_same(trained):
    """Where the posteriors round to 1, the cross-entropy has no gradient."""
    network, x, y = trained
    sure = nn.Sequential(network, Times()).eval()
    kept = [float(robustness.robust(n, x, y, 0.1, generator()).double().mean()) for n in (network, sure)]
    assert kept[0] < 0.8 and kept[1] == pytest.approx(kept[0], abs=0.03)


class Times(nn.Module):
    def forward(self, x):
        return 1e3 * x


def test_the_generator_alone_decides(trained):
    network, x, y = trained
    first, again, other = (robustness.pgd(network, x, y, 0.1, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_sample_that_is_wrong_without_attack_is_not_robust(trained):
    network, x, _ = trained
    wrong = (network(x).argmax(1) + 1) % CLASSES
    assert not robustness.robust(network, x, wrong, 1e-3, generator()).any()
    assert not robustness.certified(network, x, wrong, 1e-3).any()


# --- What the judge makes of it ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return artifacts_in(tmp_path_factory.mktemp("store"))


FITTED = "undefended[epochs=30]"
MEASURED = {"robust_accuracy": "target-test", "robust_train_accuracy": "target-train"}


def test_what_a_certified_defense_is_worth(artifacts):
    chain = artifacts.chain("ibp[epsilon=0.02]")
    found = utility(artifacts, chain, 0)
    network = artifacts.network(chain.training, 0).judge_copy()
    test = artifacts.population(0).part("target-test")
    proven = robustness.certified(network, test.x, test.y, 0.02).double().mean()
    assert found.metrics["certified_accuracy"] == pytest.approx(float(proven))
    for name, part in MEASURED.items():
        samples = artifacts.population(0).part(part)
        kept = robustness.robust(network, samples.x, samples.y, 0.02, generator()).double().mean()
        assert found.metrics[name] == pytest.approx(float(kept), abs=0.05)  # another random start
        assert found.metrics[name] <= found.metrics["test_accuracy" if part == "target-test" else "train_accuracy"]
    assert found.metrics["certified_accuracy"] <= found.metrics["robust_accuracy"]
    assert found.intervals.keys() >= {*MEASURED, "certified_accuracy"}
    assert found.claims == {"robust": "0.02", "certificate": "0.02"}
    assert found.cost["ms_per_query_alone"] > 0
    again = utility(artifacts, chain, 0)
    assert (again.metrics, again.intervals) == (found.metrics, found.intervals)


@pytest.mark.parametrize(
    ("defense", "claims"),
    [
        ("undefended", {}),
        ("undefended[early_stopping=true]", {"extra_data": "12 validation images"}),
        ("memguard", {"extra_data": "48 reference images"}),
        ("undefended[early_stopping=true]+memguard", {"extra_data": "48 reference images, 12 validation images"}),
        ("pgd_training[steps=1]", {"robust": "0.1"}),
        ("hamp", {"attacked_by": "standard attacks only: no label-only features (Aerni et al. 2024)"}),
    ],
)
def test_what_is_claimed_is_printed_and_measured(artifacts, defense, claims):
    found = utility(artifacts, artifacts.chain(defense), 0)
    assert found.claims == claims
    assert (found.metrics.keys() & {*MEASURED, "certified_accuracy"}) == (
        MEASURED.keys() if "robust" in claims else set()
    )


def test_how_often_a_guard_leaves_answers_alone_is_on_its_row(artifacts):
    """One reconstruction, and what the network says of it: where that is another label, the query is answered itself."""
    made = "n=1,timestep=400,train_steps=20"
    found = utility(artifacts, artifacts.chain(f"{FITTED}+diffence[{made}]"), 0).metrics
    assert not any(
        name.startswith("left_alone") for name in utility(artifacts, artifacts.chain("undefended"), 0).metrics
    )
    for side, part in (("members", "target-train"), ("nonmembers", "target-test")):
        own, of_reconstruction = (
            artifacts.served(artifacts.chain(c), 0).answers(part).argmax(1)
            for c in (FITTED, f"{FITTED}+diffence[{made},average=true]")
        )
        share = float((own != of_reconstruction).double().mean())
        assert found[f"left_alone_{side}"] == share and 0.05 < share < 0.95


def test_robust_accuracy_is_measured_on_so_many_samples_at_most(artifacts, monkeypatch):
    seen = []
    monkeypatch.setattr("benchmark.judge.utility._ATTACKED", 10)
    monkeypatch.setattr(robustness, "robust", lambda network, x, y, radius, g: seen.append(x) or torch.ones(len(y)) > 0)
    utility(artifacts, artifacts.chain("ibp"), 0)
    assert [len(x) for x in seen] == [10, 10]
    known = [{image.numpy().tobytes() for image in artifacts.population(0).part(p).x} for p in MEASURED.values()]
    assert all(image.numpy().tobytes() in part for x, part in zip(seen, known, strict=True) for image in x)


def test_a_network_that_the_judge_cannot_build_has_no_robust_accuracy(artifacts, monkeypatch):
    monkeypatch.setattr(Network, "judge_copy", lambda _: None)
    found = utility(artifacts, artifacts.chain("ibp"), 0)
    assert not found.metrics.keys() & {*MEASURED, "certified_accuracy"}


@pytest.mark.parametrize("claims", [Claims(robust=float("nan")), Claims(certificate=0.0), Claims(certificate=1.5)])
def test_a_radius_that_is_none_is_refused(artifacts, monkeypatch, claims):
    monkeypatch.setattr(Defender, "claims", lambda self, task: claims)
    with pytest.raises(
        ValueError, match=r"claims: (robust|certificate): expected a radius above 0 and at most 1, given"
    ):
        artifacts.network(artifacts.chain("undefended").training, 0).claims()


def test_where_there_is_no_certificate_its_attack_does_not_apply(artifacts):
    attack = artifacts.registry.attack("song_verified")
    with pytest.raises(Skip, match="the target carries no certificate"):
        kinds.scenario(artifacts, attack, artifacts.chain("pgd_training[steps=1]"), 0).score()
    assert 0 <= kinds.scenario(artifacts, attack, artifacts.chain("ibp"), 0).score().metrics["balanced_accuracy"] <= 1
