import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.dataset import Data
from benchmark.data.splits import SCHEMES, draw, indices_digest, split
from benchmark.protocol import Split


@settings(deadline=None)
@given(st.sampled_from(sorted(SCHEMES)), st.integers(6, 500), st.integers(0, 2**64), st.booleans())
def test_parts_are_equal_and_disjoint(scheme, n, seed, secret):
    parts = split(scheme, n, seed, secret=b"key" if secret else None)
    together = np.concatenate(list(parts.values()))
    assert {len(part) for part in parts.values()} == {n // len(parts)}
    assert len(np.unique(together)) == len(together)
    assert together.min() >= 0
    assert together.max() < n
    assert all(part.dtype == np.int64 for part in parts.values())


def test_names():
    assert set(split("four-way", 40, 0)) == {"target-train", "target-test", "shadow-train", "shadow-test"}
    assert set(split("six-way", 60, 0)) - set(split("four-way", 40, 0)) == {"target-reference", "shadow-reference"}


def test_splits_are_what_they_always_were():
    assert split("six-way", 1797, 0)["target-train"][:4].tolist() == [855, 921, 269, 1185]
    assert (
        indices_digest(split("six-way", 1797, 0)) == "59d24da780a19c40ac9806238df6e356776e0b0c4a6aad35cb865589221fd3c3"
    )
    assert (
        indices_digest(split("four-way", 70_000, 1, 2_000, b"secret"))
        == "97720880abbb6e24ff017140e363aed96857907ff0b66627bb2bff0aedf4b50f"
    )


def test_seed_and_secret_change_the_split():
    cases = [(0, None), (1, None), (0, b""), (0, b"a"), (0, b"b"), (1, b"a")]
    assert len({indices_digest(split("six-way", 600, seed, secret=key)) for seed, key in cases}) == len(cases)


def test_a_smaller_size_takes_the_first_of_the_same_parts():
    whole, small = split("six-way", 600, 3), split("six-way", 600, 3, 20)
    assert all(np.array_equal(whole[name][:20], small[name]) for name in whole)


def test_every_sample_is_as_likely_in_every_part():
    """Counts of target-train over 600 seeds: a chi-square statistic over 60 samples, 59 degrees of freedom."""
    counts = sum(np.bincount(split("four-way", 60, seed)["target-train"], minlength=60) for seed in range(600))
    statistic = ((counts - 150) ** 2 / (600 * 0.25 * 0.75)).sum()
    assert 25 < statistic < 110


def test_the_digest_sees_names_and_order():
    parts = split("four-way", 40, 0)
    renamed = {**parts, "target-train": parts["target-test"], "target-test": parts["target-train"]}
    reversed_part = {**parts, "target-train": parts["target-train"][::-1]}
    shuffled_names = dict(reversed(parts.items()))
    assert len({indices_digest(case) for case in (parts, renamed, reversed_part)}) == 3
    assert indices_digest(shuffled_names) == indices_digest(parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("five-way", 60, 0), "unknown split 'five-way'"),
        (("six-way", 60, 0, 11), "1 to 10 samples, not 11"),
        (("six-way", 60, 0, 0), "not 0"),
        (("six-way", 5, 0), "1 to 0 samples"),
    ],
)
def test_what_does_not_fit_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        split(*arguments)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("secret", [None, b"key"])
def test_a_mirrored_split_has_the_two_sides_swapped(scheme, secret):
    parts, other = split(scheme, 600, 7, 20, secret), split(scheme, 600, -7, 20, secret)
    assert set(parts) == set(other)
    for world in ("target", "shadow"):
        assert np.array_equal(parts[f"{world}-train"], other[f"{world}-test"])
        assert np.array_equal(parts[f"{world}-test"], other[f"{world}-train"])
        if scheme == "six-way":
            assert np.array_equal(parts[f"{world}-reference"], other[f"{world}-reference"])


class Published(Data):
    """Samples of which the first 60 are the publisher's train part, 30 its test part, and 10 neither."""

    @property
    def published(self):
        return {"train": np.arange(60), "test": np.arange(60, 90), "extra": np.arange(90, 100)}


def published(kind=Published):
    empty = torch.zeros(100, dtype=torch.int64)
    return kind("mine", torch.zeros(100, 1, 2, 2, dtype=torch.uint8), empty, empty, 2, {"pad": 1, "flip": False}, 0)


def test_the_schemes_with_a_shadow_world_are_those_of_split():
    for scheme in SCHEMES:
        parts = draw(Split(scheme=scheme, size=12), published(), 3, b"key")
        assert indices_digest(parts) == indices_digest(split(scheme, 100, 3, 12, b"key"))
        assert set(parts) == set(Split(scheme=scheme).parts)


@pytest.mark.parametrize("secret", [None, b"key"])
def test_sizes_are_members_nonmembers_and_what_is_left(secret):
    parts = draw(Split(scheme="sizes", size=40), published(), 3, secret)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "target-train": 40,
        "target-test": 40,
        "target-reference": 20,
    }
    assert sorted(np.concatenate(list(parts.values()))) == list(range(100))
    assert len(draw(Split(scheme="sizes", size=20), published(), 3)["target-reference"]) == 20
    assert "target-reference" not in draw(Split(scheme="sizes", size=50), published(), 3)
    assert indices_digest(draw(Split(scheme="sizes", size=40), published(), 4)) != indices_digest(parts)


def test_official_members_are_the_train_part():
    parts = draw(Split(scheme="official"), published(), 3)
    assert set(parts) == {"target-train", "target-test"}
    assert set(parts["target-train"]) == set(range(60)) and set(parts["target-test"]) == set(range(60, 90))
    few = draw(Split(scheme="official", size=25), published(), 3)
    assert np.array_equal(few["target-train"], parts["target-train"][:25])
    assert np.array_equal(few["target-reference"], parts["target-train"][25:50])
    assert len(few["target-test"]) == 25 and set(few["target-test"]) <= set(range(60, 90))
    mirror = draw(Split(scheme="official", size=25), published(), -3)
    assert np.array_equal(mirror["target-train"], few["target-test"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Split(scheme="sizes", size=51), "sizes parts of 100 samples have 1 to 50 samples, not 51"),
        (Split(scheme="official", size=31), "1 to 30 samples, not 31"),
    ],
)
def test_a_size_that_does_not_fit_is_an_error(given, message):
    with pytest.raises(ValueError, match=message):
        draw(given, published(), 0)


def test_official_needs_published_parts():
    with pytest.raises(ValueError, match="expected data with the published parts train and test, given none"):
        draw(Split(scheme="official"), published(Data), 0)
