"""The population: nobody is on two sides, reference models are exact halves, and the pins hold the data in place."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmark import data as datasets
from benchmark import protocol
from benchmark.data.population import Population, digest_of, populate, seed_of
from benchmark.data.splits import indices_digest, split
from benchmark.errors import UserError
from benchmark.protocol import Adversary, Canaries

DIGITS = protocol.load("digits-v2")


def draw(seed: int = 0, size: int | None = None, known: float = 0.33, scheme: str = "six-way") -> Population:
    data = datasets.load("digits")
    cut = DIGITS.split.model_copy(update={"known_fraction": known, "size": size, "scheme": scheme})
    changed = DIGITS.model_copy(update={"split": cut})
    return Population(changed, seed, data, split(scheme, len(data), seed, size), len(data))


@given(seed=st.integers(0, 10**6), size=st.integers(10, 299), known=st.floats(0.05, 0.95))
@settings(max_examples=25, deadline=None)
def test_nobody_is_on_two_sides(seed: int, size: int, known: float) -> None:
    population = draw(seed, size, known)
    known_members, known_nonmembers = population.known()
    groups = (known_members, known_nonmembers, population.candidates)
    for one, other in itertools.combinations(groups, 2):
        assert not set(one) & set(other)
    train, test = (set(population.parts[p]) for p in ("target-train", "target-test"))
    assert set(np.concatenate(groups)) == train | test
    assert sum(map(len, groups)) == 2 * size, "nobody is there twice"
    assert set(known_members) <= train
    assert set(known_nonmembers) <= test
    assert len(known_members) == len(known_nonmembers) == round(known * size)
    for k in range(1, 4):  # every target has members and non-members of its own among the same samples
        inside, outside = map(set, population.known(k))
        assert inside | outside <= set(known_members) | set(known_nonmembers) and len(inside) == len(outside)
        assert inside <= set(population.indices("target", k)) and not outside & set(population.indices("target", k))
    assert population.members.sum() * 2 == len(population.candidates), "as many members as non-members"
    assert set(population.candidates[population.members]) <= train
    assert set(population.candidates[~population.members]) <= test


def test_what_an_attack_is_given_says_nothing_of_membership() -> None:
    """The ranks of members among the candidates are those of a shuffle (z-score of the Wilcoxon statistic)."""
    for seed in range(5):
        members = draw(seed).members
        n = len(members) // 2
        ranks = np.flatnonzero(members).sum() + n
        z = (ranks - n * (2 * n + 1) / 2) / np.sqrt(n * n * (2 * n + 1) / 12)
        assert abs(z) < 4


@pytest.mark.parametrize(("role", "world"), [("target", "target"), ("offline", "shadow")])
def test_networks_of_a_pool_are_exact_halves(role: str, world: str) -> None:
    population = draw(1)
    m = 8
    pool = set(population.parts[f"{world}-train"]) | set(population.parts[f"{world}-test"])
    models = [set(population.indices(role, k)) for k in range(m)]
    assert all(
        len(s) == len(population.indices(role, k)) == len(population.parts["target-train"])
        for k, s in enumerate(models)
    )
    for one, other in zip(models[::2], models[1::2], strict=True):
        assert not one & other
        assert one | other == pool
    assert all(sum(i in s for s in models) == m // 2 for i in pool)
    assert len({frozenset(s) for s in models}) == m, "every pair is another draw"
    told = np.stack([population.members_of(role, k) for k in range(m)])
    assert told.shape == (m, len(population.candidates))
    assert all(told[k, j] == (i in models[k]) for k in range(m) for j, i in enumerate(population.candidates))
    assert (told.sum(0) == (m // 2 if role == "target" else 0)).all()


def test_the_first_pair_is_the_splits_own_and_no_target_is_among_its_references() -> None:
    population = draw(2)
    target = set(population.indices("target", 0))
    assert target == set(population.parts["target-train"])
    assert set(population.indices("target", 1)) == set(population.parts["target-test"])
    assert all(set(population.indices("target", k)) != target for k in range(1, 16))
    assert population.references_of(0, range(6)) == population.references_of(1, range(6)) == [2, 3, 4, 5]
    assert population.references_of(3, [0, *range(2, 6)]) == [0, 4, 5]
    assert all(
        not target & set(population.indices(*model)) for model in (("shadow", 0), ("offline", 3), ("evaluator", 0))
    )


def test_reference_data() -> None:
    population = draw(0)
    for world in ("target", "shadow"):
        reference, validation = population.reference(world)
        assert len(validation) == len(population.parts[f"{world}-reference"]) // 5
        assert set(reference) | set(validation) == set(population.parts[f"{world}-reference"])
        assert not set(reference) & set(validation)
    assert [len(p) for p in draw(0, scheme="four-way").reference("target")] == [0, 0]


def test_draws_are_the_same_twice_and_others_for_another_seed() -> None:
    one, again, other = draw(0), draw(0), draw(1)
    for drawn in (lambda p: p.candidates, lambda p: p.known()[0], lambda p: p.indices("target", 3)):
        assert np.array_equal(drawn(one), drawn(again))
        assert not np.array_equal(drawn(one), drawn(other))
    assert digest_of(one.candidates) == digest_of(again.candidates) != digest_of(one.candidates[::-1])


def test_mirrors_score_the_same_samples_on_the_other_side() -> None:
    """So that a score of the image alone, blind to membership, has an AUC of one half over the pair."""
    one, other = draw(7), draw(-7)
    assert set(one.candidates) == set(other.candidates) and set(one.known()[0]) == set(other.known()[1])
    sides = [dict(zip(p.candidates.tolist(), p.members.tolist(), strict=True)) for p in (one, other)]
    assert all(sides[0][i] != sides[1][i] for i in sides[0])
    blind = torch.rand(len(one.data.x), generator=torch.Generator().manual_seed(0))
    areas = [roc_auc_score(p.members, blind[p.candidates]) for p in (one, other)]
    assert sum(areas) / 2 == pytest.approx(0.5)
    assert areas[0] != pytest.approx(0.5, abs=1e-3)


def test_mirrors_of_canaries_and_of_fewer_candidates() -> None:
    for change in ({"canaries": Canaries(count=200)}, {"label_only": 100}):
        pair = []
        for seed in (7, -7):
            cut = DIGITS.split.model_copy(update={"size": 250})
            protocol_ = DIGITS.model_copy(update={"split": cut} | change)
            data = datasets.load("digits")
            pair.append(Population(protocol_, seed, data, split("six-way", len(data), seed, 250), len(data)))
        one, other = pair
        assert np.array_equal(one.candidates, other.candidates)
        assert np.array_equal(one.members, ~other.members)
        assert np.array_equal(one.scored("label"), other.scored("label"))


def test_class_counts_alone_tell_members_of_digits() -> None:
    """As digits-v2 says of itself: how often a candidate's class is in the training set, and nothing of the network."""
    found = []
    for seed in DIGITS.seeds:
        population = populate(DIGITS, seed)
        y = population.data.y.numpy()
        counts = np.bincount(y[population.indices("target", 0)], minlength=10)
        found.append(roc_auc_score(population.members, counts[y[population.candidates]]))
    assert "AUC of 0.54 to 0.55" in " ".join(DIGITS.leaves_out.split())
    assert (round(min(found), 2), round(max(found), 2)) == (0.54, 0.55)


def test_samples_are_the_data() -> None:
    population = draw(0)
    samples = population.samples(population.candidates)
    assert samples.x.dtype == torch.float32 and samples.y.dtype == torch.int64
    assert torch.equal((samples.x * 255).round().byte(), population.data.x[population.candidates])
    assert 0 <= samples.x.min() and samples.x.max() == 1
    assert torch.equal(samples.y, population.data.y[population.candidates])


def test_seeds_of_purposes() -> None:
    seeds = [seed_of("network", "digits", 0, role, k) for role in ("target", "online") for k in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= s < 2**63 for s in seeds)
    assert seed_of("a", 1) == seed_of("a", 1) != seed_of("a/1/")


def test_pins() -> None:
    population = populate(DIGITS, 1)
    assert indices_digest(population.parts) == DIGITS.split.digests[1]
    with pytest.raises(UserError, match=r"digits-v2: data_digest: expected 0000.*, given data with 4762"):
        populate(DIGITS.model_copy(update={"data_digest": "0" * 64}), 0)
    swapped = DIGITS.split.model_copy(update={"digests": {0: DIGITS.split.digests[1]}})
    with pytest.raises(UserError, match=r"digits-v2: split\.digests\.0: expected 4ee5.*, given data with 59d2"):
        populate(DIGITS.model_copy(update={"split": swapped}), 0)
    with pytest.raises(UserError, match=r"seed: expected one of \[0, 1, 2, 3, 4\], given 7"):
        populate(DIGITS, 7)
    large = DIGITS.split.model_copy(update={"size": 300})
    with pytest.raises(UserError, match="split: six-way parts of 1797 samples have 1 to 299 samples, not 300"):
        populate(DIGITS.model_copy(update={"split": large}), 0)
    with pytest.raises(UserError, match="digit"):
        populate(DIGITS.model_copy(update={"dataset": "digit"}), 0)


# --- Canaries, another adversary, fewer candidates --------------------------------------------------


def with_canaries(seed: int = 0, count: int = 200) -> Population:
    data = datasets.load("digits")
    changed = DIGITS.model_copy(update={"canaries": Canaries(count=count)})
    return Population(changed, seed, data, split("six-way", len(data), seed, 250), len(data))


def test_canaries_are_outsiders_under_a_wrong_label() -> None:
    population = with_canaries()
    canaries = population.candidates
    assert len(set(canaries)) == 200 and not set(canaries) & set(np.concatenate(list(population.parts.values())))
    rows = torch.from_numpy(canaries)
    seen, true = population.samples(canaries).y, population.data.y[rows]
    assert (seen != true).all() and set(((seen - true) % 10).tolist()) == set(range(1, 10))
    others = np.setdiff1d(np.arange(len(population.data)), canaries)
    assert torch.equal(population.samples(others).y, population.data.y[torch.from_numpy(others)])


def test_each_canary_is_planted_by_a_coin_of_its_own() -> None:
    """Over 60 models a canary is in about half of them, and no two models share their draws."""
    population = with_canaries()
    inside = np.stack([population.members_of("target", k) for k in range(1, 61)])
    assert not inside.all(0).any() and inside.any(0).all()
    assert abs(inside.mean() - 0.5) < 4 * 0.5 / np.sqrt(inside.size)
    agree = (inside[:, None] == inside[None]).mean(2)[np.triu_indices(60, 1)]
    assert np.abs(agree - 0.5).max() < 5 * 0.5 / np.sqrt(200), "complementary pairs would agree nowhere"
    assert not np.array_equal(population.members, inside[0])
    assert np.array_equal(population.members, np.isin(population.candidates, population.indices("target", 0)))
    for k in (0, 3):
        train = population.indices("target", k)
        assert np.array_equal(train[:250], population.parts["target-train"]) and set(train[250:]) <= set(
            population.candidates
        )
    assert not set(population.indices("shadow", 0)) & set(population.candidates)
    assert population.references_of(3, range(6)) == [0, 1, 2, 4, 5], "each was drawn by itself"


def test_more_canaries_than_there_are_outsiders() -> None:
    cut = DIGITS.split.model_copy(update={"size": 250, "digests": {0: "?"}})
    data = datasets.load("digits")
    cut = cut.model_copy(update={"digests": {0: indices_digest(split("six-way", len(data), 0, 250))}})
    changed = DIGITS.model_copy(update={"split": cut, "canaries": Canaries(count=5000)})
    with pytest.raises(UserError, match=r"canaries.count: expected at most 29\d, .* given 5000"):
        populate(changed, 0)


@pytest.mark.parametrize("label_only", [100, None])
def test_label_only_attacks_may_be_scored_on_fewer(label_only: int | None) -> None:
    population = replace(draw(), protocol=DIGITS.model_copy(update={"label_only": label_only}))
    rows = population.scored("label")
    assert len(population.scored("posterior")) == len(population.candidates)
    assert len(rows) == (label_only or len(population.candidates))
    assert population.members[rows].sum() * 2 == len(rows) and len(set(rows.tolist())) == len(rows)
    assert (np.diff(rows) > 0).all() == (label_only is None), "what was chosen by membership is shuffled"


def test_the_shadow_world_may_come_from_other_data() -> None:
    """Its parts lie behind the target's data, in the target's shape, and no reference model of theirs holds a candidate."""
    other = datasets.load("synthetic-2x1")
    changed = DIGITS.model_copy(
        update={"adversary": Adversary(dataset="synthetic-2x1", data_digest=other.digest), "recipe": DIGITS.recipe}
    )
    population = populate(changed, 0)
    own = populate(DIGITS, 0)
    assert np.array_equal(population.candidates, own.candidates) and population.target_samples == len(own.data)
    shadow = population.samples(population.indices("shadow", 0))
    assert shadow.x.shape[1:] == (1, 8, 8) and set(shadow.y.tolist()) <= {0, 1}
    assert population.indices("shadow", 0).min() >= population.target_samples
    assert population.indices("offline", 1).min() >= population.target_samples
    assert not any(population.members_of("offline", k).any() for k in range(4))
    assert torch.equal(population.samples(own.candidates).x, own.samples(own.candidates).x)


def test_other_data_is_pinned_and_has_no_more_classes() -> None:
    def loaded(name: str, digest: str) -> Population:
        return populate(DIGITS.model_copy(update={"adversary": Adversary(dataset=name, data_digest=digest)}), 0)

    with pytest.raises(UserError, match=r"adversary.data_digest: expected 0000"):
        loaded("synthetic-2x1", "0" * 64)
    with pytest.raises(UserError, match=r"adversary.dataset: expected at most 10 classes, given 100"):
        loaded("synthetic-100x3", datasets.load("synthetic-100x3").digest)
