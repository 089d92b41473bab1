"""Does a served target answer its members by looking them up?

A defense that keeps a table of training images (or of hashes of them, or a network that stores them) can
give each member an answer that it gives to nothing else. Such an answer does not survive the least change
of the query. So the judge takes members and non-members and walks away from each in steps of one pixel by
one grey level of 255: from the original to a near-duplicate, and on to a second one.

A network moves by next to nothing in either step. A guard that draws keyed noise must draw anew for a
near-duplicate, so it moves, and by as much as its noise is worth there, which need not be the same at
members as at non-members. But it moves as far in the second step as in the first: to an honest target the
original is one near-duplicate among others. What is measured is therefore how much farther the answer
moves in the first step than in the second (`gap`), and at how many images each first step is longer than each
second one (`order`), however small they are: by whatever an attack may read (the likelihood of the answered
label, the posteriors, the least of them), and by how much longer. For a network and for keyed noise both are the
same at members as at non-members; what a table hides stands out from it, at members alone.

The walk begins at what attacks are given: the stored answer. The queries of a walk go out as attacks' do,
in calls of many sizes that mix originals and near-duplicates, and no call holds two versions of one image.
A defense may take them for what it likes: if it answers originals otherwise than it did when answers were
stored, that is a fault of its own (`judge`); if it does not, its near-duplicates give it away.

Not caught: a table that gives everything near a stored image (within some distance, or by features)
that image's answer. Its near-duplicates agree with the original, as a smooth network's do;
`submissions/README.md` forbids it all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import hypergeom
from torch import Tensor

from benchmark.api import Predict
from benchmark.api.signals import logit_margin
from benchmark.networks.access import ask

WALKS = 2
"""Walks from each image."""

IMAGES = 350
"""Most images a side. The target answers 2 * IMAGES * (1 + 2 * WALKS) queries: 3,500. Images tell more than walks do: a
table of one member in seventeen stands out."""

THRESHOLD = 0.02
"""The gap that is let pass: one posterior in fifty moved. The baselines on digits-v1 stay within 0.011."""

CHANCE = 1e-6
"""How likely chance must be, by Fisher's exact test, to find as many more members whose order stands out."""

LONGER = (1.0, 3.0, 10.0)
"""By how much each first step must exceed each second one: what moves anyway hides less of a larger excess."""

DEVIATIONS = 4
"""Standard errors by which a gap must exceed the threshold: 3e-5 is the chance of a false alarm at it."""

_LEAST = -50.0
"""Log-posteriors below this one are alike: guards may answer an exact zero."""


@dataclass(frozen=True)
class LookupGap:
    """Means over images of total variations between posteriors, each 0 to 1.

    `members` and `nonmembers`: how far the answer moves from an original to its near-duplicate. `gap`:
    what this first step exceeds the second one by, at members less at non-members, in [-2, 2]; `error` is
    its standard error. `order`: the share of images at which every first step is longer than every second one, of members
    less of non-members, in [-1, 1], in the way of measuring that tells most; `chance` is that of finding as much (one-sided).
    """

    gap: float
    error: float
    members: float
    nonmembers: float
    order: float
    chance: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by the normal law of a difference of two means."""
        return self.gap - 1.96 * self.error, self.gap + 1.96 * self.error

    @property
    def metrics(self) -> dict[str, float]:
        """Under the names of `METRICS`; `interval` is that of the gap."""
        return {
            "near_duplicate_gap": self.gap,
            "near_duplicate_order": self.order,
            "near_duplicate_members": self.members,
            "near_duplicate_nonmembers": self.nonmembers,
        }

    @property
    def looks_up(self) -> bool:
        """Whether members get answers that their near-duplicates don't get."""
        return self.gap - DEVIATIONS * self.error > THRESHOLD or self.chance < CHANCE

    def __str__(self) -> str:
        return f"gap {self.gap:.2g} ± {1.96 * self.error:.1g}, order {self.order:.2g}, by chance {self.chance:.1g}"


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


def walk(predict: Predict, x: Tensor, rng: np.random.Generator) -> Tensor:
    """Answers (1 + 2 WALKS, n, k) to images (n, c, h, w) in [0, 1], their near-duplicates, and those of these in turn.

    Version 0 is the original, versions 1 to WALKS are one step away, the others two. All go out in as many rounds as
    there are versions, each with one version of every image, drawn for each apart.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    first = [near_duplicates(x, generator) for _ in range(WALKS)]
    versions = torch.stack([x, *first, *(near_duplicates(near, generator) for near in first)])
    images = np.arange(len(x))
    rounds: NDArray[np.int64] = rng.permuted(np.tile(np.arange(len(versions))[:, None], len(x)), axis=0)
    answers = [ask(predict, versions[torch.from_numpy(r), torch.from_numpy(images)], rng) for r in rounds]
    # Version rounds[r, i] of image i was answered in round r.
    return torch.stack(answers)[torch.from_numpy(rounds.argsort(0)), torch.from_numpy(images)]


def lookup_gap(answers: Tensor, inside: int) -> LookupGap:
    """Compare the steps of a walk's answers (1 + 2 WALKS, n, k), of which the first `inside` images are members.

    Raises ValueError with fewer than two images a side.
    """
    outside = answers.shape[1] - inside
    if min(inside, outside) < 2:
        raise ValueError(f"lookup_gap: expected 2 members and 2 non-members or more, given {inside} and {outside}")
    moved, again = _steps(answers.exp())
    moved, again = moved.abs().sum(2) / 2, again.abs().sum(2) / 2
    gap, error = _difference((moved - again).mean(0), inside)
    steps = moved.mean(0)
    order, chance = _order(answers.clamp_min(_LEAST), inside)
    return LookupGap(gap, error, float(steps[:inside].mean()), float(steps[inside:].mean()), order, chance)


def _order(answers: Tensor, inside: int) -> tuple[float, float]:
    """The difference of shares that chance explains least, over ways to measure a step and factors, and that chance."""
    label = answers[0].argmax(1)
    likelihood = logit_margin(answers, label).unsqueeze(2)
    found = []
    for values in (answers, answers.exp(), likelihood):
        first, second = (step.abs().amax(2) for step in _steps(values))
        for factor in LONGER:
            stands_out = first.amin(0) > factor * second.amax(0)
            members, both = int(stands_out[:inside].sum()), int(stands_out.sum())
            chance = hypergeom.sf(members - 1, len(label), both, inside)
            share = members / inside - (both - members) / (len(label) - inside)
            found.append((float(chance), share))
    chance, share = min(found, key=lambda each: each[0])
    return share, chance


def _steps(values: Tensor) -> tuple[Tensor, Tensor]:
    """First and second steps (WALKS, n, ...) of the versions (1 + 2 WALKS, n, ...)."""
    start, near, far = values.split([1, WALKS, WALKS])
    return near - start, far - near


def _difference(values: Tensor, inside: int) -> tuple[float, float]:
    """The mean of the first `inside` values (n,) less that of the others, and its standard error."""
    first, others = values[:inside], values[inside:]
    return float(first.mean() - others.mean()), math.sqrt(float(first.var() / inside + others.var() / len(others)))
