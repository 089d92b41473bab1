"""What an attack is given tells of membership by its images and labels alone.

For all protocols and accesses, on public and secret splits: a classifier that sees everything else of the candidates
(position, id, what reference models hold of them) has an AUC of one half within its interval.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chi2, norm
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from benchmark import protocol
from benchmark.api import Candidates, Knowledge, Samples
from benchmark.data.population import Population, populate
from benchmark.judge import kinds
from tests.conftest import artifacts_in

NAMES = [*protocol.names(), "smoke-2x1", "smoke-100x3", "smoke-noise"]
SECRETS = {"public": None, "secret": b"a secret of the judge's own"}
CHANCE = 1e-5
"""How rare a finding must be to count, for some hundred tests."""


def tells(features: np.ndarray, members: np.ndarray) -> float:
    """How likely chance finds as much of the members in features (n, d): the lesser of two p-values, doubled.

    That of the cross-validated AUC of a tree; and that of the ends of each feature, where the first or the last few
    samples may be of one side.
    """
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    tree = DecisionTreeClassifier(min_samples_leaf=max(5, len(members) // 40), random_state=0)
    scores = cross_val_predict(tree, features, members, cv=folds, method="predict_proba")[:, 1]
    inside, outside = members.sum(), (~members).sum()
    spread = np.sqrt((inside + outside + 1) / (12 * inside * outside))
    found = [2 * norm.sf(abs(roc_auc_score(members, scores) - 0.5) / spread)]
    ordered = members[np.argsort(features, axis=0, kind="stable")]
    sizes = [size for size in (6, 9, 12, 16, 24, 32) if size < len(members) // 4]
    ends = [binomtest(int(e[:size, j].sum()), size, inside / len(members)).pvalue
            for e in (ordered, ordered[::-1]) for j in range(features.shape[1]) for size in sizes]  # fmt: skip
    found.append(min(ends) * len(ends))
    return min(1.0, 2 * min(found))


def together(values: list[float]) -> float:
    """One p-value of several (Fisher)."""
    return float(chi2.sf(-2 * np.log(np.maximum(values, 1e-300)).sum(), 2 * len(values)))


def outward(candidates: Candidates) -> np.ndarray:
    """Everything of each candidate but its pixels and its label."""
    n = len(candidates)
    position, id = np.arange(n), candidates.id.numpy()
    address = candidates.x.data_ptr() + position * candidates.x.stride(0) * candidates.x.element_size()
    neighbours = [np.roll(id, 1) - id, id.argsort()]
    return np.stack(
        [position, id, position % 2, id % 2, position % 125, position % 500, address % 4096, *neighbours], 1
    )


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", NAMES)
def test_candidates_and_references_say_nothing_of_membership(name: str, secret: str) -> None:
    loaded = protocol.load(name)
    found: list[float] = []
    for seed in loaded.seeds[:3]:
        population = populate(loaded, seed, SECRETS[secret])
        for access in ("label", "posterior"):  # by weights an attack gets what it gets by posteriors
            candidates, rows = population.presented(access), population.scored(access)
            assert candidates.id.sort().values.equal(torch.arange(len(rows))), "ids of a selection are numbered anew"
            for part in (candidates.x, candidates.y, candidates.id):
                assert part.is_contiguous() and part.untyped_storage().nbytes() == part.nbytes
            found.append(tells(outward(candidates), population.members[rows]))
            if loaded.label_only is None:
                break
        numbers = range(loaded.references.online + loaded.pair)
        held = np.stack([population.members_of("target", k) for k in numbers])
        for k in numbers[::5]:  # each network is a target in its turn
            others = held[population.references_of(k, numbers)]
            found.append(tells(np.c_[others.T, others.sum(0)], held[k]))
    assert together(found) > CHANCE and min(found) > CHANCE


def test_the_test_sees_what_it_is_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is kept stays in its old order, its tail is of one side; and an attack that leaves no pair out counts."""
    cut = protocol.load("fashion-attacks-v2")
    as_drawn, found, shuffled = Population.scored, [], []
    for i in range(6):
        population = populate(cut, 0, b"a secret of many %d" % i)
        for scored, values in ((as_drawn, shuffled), (lambda p, access: np.sort(as_drawn(p, access)), found)):
            monkeypatch.setattr(Population, "scored", scored)
            rows = population.scored("label")
            values.append(tells(outward(population.presented("label")), population.members[rows]))
    assert together(found) < CHANCE < together(shuffled)
    held = np.stack([population.members_of("target", k) for k in range(2, 18)])
    assert tells(held[1:].sum(0)[:, None], held[0]) < CHANCE


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    loaded = protocol.load("smoke").model_copy(update={"label_only": 40})
    return artifacts_in(tmp_path_factory.mktemp("store"), loaded)


@pytest.mark.parametrize("attack", ["loss", "nn_sorted", "lira", "ml_doctor_partial", "label_only_noise", "grad_norm"])
def test_that_is_what_crosses_to_an_attack(artifacts, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    """The very tensors: whole, in one order, and on the shadow world too the sides are mixed."""
    part = artifacts.registry.attack(attack)
    scenario = kinds.scenario(artifacts, part, artifacts.chain("undefended"), 0)
    given: list[Candidates | Knowledge] = []

    class Recorder:
        def fit(self, knowledge: Knowledge) -> None:
            given.append(knowledge)

        def answer(self, target: object, candidates: Candidates, references: object) -> torch.Tensor:
            given.append(candidates)
            return candidates.id.double()

    monkeypatch.setattr(type(artifacts), "attacker", lambda *_: Recorder())
    scenario.score()
    knowledge, first, *more = given
    expected = scenario.population.presented(part.entry.access)
    assert all(torch.equal(getattr(first, n), getattr(expected, n)) for n in ("x", "y", "id"))
    for world in filter(None, (knowledge.shadow, knowledge.partial)):
        for side in (world.members, world.nonmembers):
            assert isinstance(side, Samples) and side.x.is_contiguous() and side.y.dtype == torch.int64
        assert len(world.members) == len(world.nonmembers)
    shadow = [c for c in more if isinstance(c, Candidates) and not torch.equal(c.x, first.x)]
    if part.entry.calibrate == "shadow":
        known = {x.numpy().tobytes() for x in artifacts.population(0).part("shadow-train").x}
        (candidates,) = shadow
        inside = np.array([x.numpy().tobytes() in known for x in candidates.x])
        assert 0.25 < np.flatnonzero(inside).mean() / len(inside) < 0.75
        assert not torch.equal(candidates.id, torch.arange(len(candidates)))
