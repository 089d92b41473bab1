"""Does a served target answer its members by looking them up?

A defense that keeps a table of training images (or of hashes of them, or a network that stores them) can
give each member an answer that it gives to nothing else. Such an answer does not survive the least change
of the query. So the judge takes members and non-members and walks away from each in steps of one pixel by
one grey level of 255: from the original to a near-duplicate, and on to a second one.

A network moves by next to nothing in either step. A guard that draws keyed noise must draw anew for a
near-duplicate, so it moves, and by as much as its noise is worth there, which need not be the same at
members as at non-members. But it moves as far in the second step as in the first: to an honest target the
original is one near-duplicate among others. What is measured is therefore how much farther the answer
moves in the first step than in the second. For a network and for keyed noise that is 0 on average,
whatever the image; what a table hides stands out from it, at members alone.

Not caught: a table that gives everything near a stored image (within some distance, or by features)
that image's answer. Its near-duplicates agree with the original, as a smooth network's do;
`submissions/README.md` forbids it all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.api import Predict

WALKS = 3
"""Walks from each image."""

IMAGES = 100
"""Most images a side. The target answers 2 * IMAGES * (1 + 2 * WALKS) queries: 1,400."""

THRESHOLD = 0.02
"""The gap that is let pass: one posterior in fifty moved. The baselines on digits-v1 stay within 0.011."""

DEVIATIONS = 4
"""Standard errors by which a gap must exceed the threshold: 3e-5 is the chance of a false alarm at it."""


@dataclass(frozen=True)
class LookupGap:
    """Means over images of total variations between posteriors, each 0 to 1.

    `members` and `nonmembers`: how far the answer moves from an original to its near-duplicate. `gap`:
    what this first step exceeds the second one by, at members less at non-members, in [-2, 2]; `error` is
    its standard error.
    """

    gap: float
    error: float
    members: float
    nonmembers: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by the normal law of a difference of two means."""
        return self.gap - 1.96 * self.error, self.gap + 1.96 * self.error

    @property
    def metrics(self) -> dict[str, float]:
        """Under the names of `METRICS`; `interval` is that of the gap."""
        return {
            "near_duplicate_gap": self.gap,
            "near_duplicate_members": self.members,
            "near_duplicate_nonmembers": self.nonmembers,
        }

    @property
    def looks_up(self) -> bool:
        """Whether members get answers that their near-duplicates don't get."""
        return self.gap - DEVIATIONS * self.error > THRESHOLD


def near_duplicates(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w) float32 in [0, 1], each 1/255 away from x in one value of one pixel.

    It is the least change that makes another image of 8 bits: up or down by chance, inwards at 0 and at 1.
    """
    flat = x.flatten(1)
    where = torch.randint(flat.shape[1], (len(x), 1), generator=generator)
    level = (flat.gather(1, where) * 255).round()
    up = torch.rand(len(x), 1, generator=generator) < 0.5
    up = (up | (level < 1)) & (level < 255)
    return flat.scatter(1, where, torch.where(up, level + 1, level - 1) / 255).view_as(x)


def lookup_gap(predict: Predict, members: Tensor, nonmembers: Tensor, generator: torch.Generator) -> LookupGap:
    """Walk from the first IMAGES members (n, c, h, w) and as many non-members, in [0, 1], and compare the steps.

    All queries go to `predict` in one shuffled call, so that nothing but the images tells them apart; the
    generator, on the CPU, decides everything. Raises ValueError with fewer than two images a side.
    """
    if min(len(members), len(nonmembers)) < 2:
        raise ValueError(
            f"lookup_gap: expected 2 members and 2 non-members or more, given {len(members)} and {len(nonmembers)}"
        )
    inside = min(len(members), IMAGES)
    original = torch.cat([members[:IMAGES], nonmembers[:IMAGES]])
    first = [near_duplicates(original, generator) for _ in range(WALKS)]
    second = [near_duplicates(x, generator) for x in first]
    queries = torch.cat([original, *first, *second])
    order = torch.randperm(len(queries), generator=generator)
    answers = predict(queries[order])[order.argsort()].exp().unflatten(0, (1 + 2 * WALKS, len(original)))
    start, near, far = answers.split([1, WALKS, WALKS])
    moved = (near - start).abs().sum(2).mean(0) / 2
    excess = moved - (far - near).abs().sum(2).mean(0) / 2
    at_members, elsewhere = excess[:inside], excess[inside:]
    return LookupGap(
        gap=float(at_members.mean() - elsewhere.mean()),
        error=math.sqrt(float(at_members.var() / len(at_members) + elsewhere.var() / len(elsewhere))),
        members=float(moved[:inside].mean()),
        nonmembers=float(moved[inside:].mean()),
    )
