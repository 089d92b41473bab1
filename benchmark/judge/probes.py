"""Does a served target answer its members by looking them up?

A defense that keeps a table of training images (or of hashes of them, or a network that stores them) can
give each member an answer that it gives to nothing else. Such an answer does not survive the least change
of the query. So the judge takes members and non-members and walks away from each in steps of one pixel by
one grey level of 255: from the original to a near-duplicate, and on to a second one.

The answer of a network moves by next to nothing in either step. A guard that draws keyed noise draws anew for a
near-duplicate, so its answer moves by as much as its noise, which need not be the same at members as at non-members.
But it moves as far in the second step as in the first: to an honest target the original is one near-duplicate among
others. Two things are measured: how much farther the answer moves in the first step than in the second (`gap`), and at
how many images every first step is longer than every second one (`order`), however small both are. For `order` an
answer is measured in all ways in which an attack may read it (the likelihood of the answered label, the posteriors, the
log-posteriors) and with several factors. For a network and for keyed noise, gap and order are the same at members as at
non-members. A table makes them larger, at members alone.

The walk begins at the stored answer, which is what attacks get. The queries of a walk are sent like those of attacks,
in calls of many sizes that mix originals and near-duplicates, and no call holds two versions of one image.
So a defense cannot tell a walk from an attack. If it answers originals differently from the stored answers, the
judge refuses it (`utility._same_again`); if it does not, its near-duplicates give it away.

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
"""Members, and non-members, to walk from at most. The target answers 2 * IMAGES * (1 + 2 * WALKS) = 3,500 queries. More
images add more power than more walks: with so many, a table of one member in seventeen is found."""

THRESHOLD = 0.02
"""The largest gap that is allowed: a total variation of 0.02. The baselines on digits-v2 stay within 0.007."""

CHANCE = 1e-6
"""The significance level of `order`: the p-value of Fisher's exact test below which a defense looks members up."""

LONGER = (1.0, 3.0, 10.0)
"""Factors by which every first step must exceed every second one. A larger one sees a table through noise that moves
all answers."""

DEVIATIONS = 4
"""Standard errors by which a gap must exceed the threshold. At a true gap of the threshold a false alarm has
probability 3e-5."""

_LOG_FLOOR = -50.0
"""Log-posteriors are cut off below this value, for a guard may answer with a posterior of exactly 0."""


@dataclass(frozen=True)
class LookupGap:
    """Means over images of total variations between posteriors, each 0 to 1.

    `members` and `nonmembers`: how far the answer moves from an original to its near-duplicate. `gap`: by how much this
    first step exceeds the second one, at members minus at non-members, in [-2, 2]; `error` is its standard error.
    `order`: the share of images at which every first step is longer than every second one, among members minus among
    non-members, in [-1, 1], for the measure and factor with the least p-value; `chance` is this p-value (one-sided).
    """

    gap: float
    error: float
    members: float
    nonmembers: float
    order: float
    chance: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the gap, by the normal approximation."""
        return self.gap - 1.96 * self.error, self.gap + 1.96 * self.error

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of `METRICS`."""
        return {
            "near_duplicate_gap": self.gap,
            "near_duplicate_order": self.order,
            "near_duplicate_members": self.members,
            "near_duplicate_nonmembers": self.nonmembers,
        }

    @property
    def looks_up(self) -> bool:
        """Whether members get answers that their near-duplicates don't get, by gap or by order."""
        return self.gap - DEVIATIONS * self.error > THRESHOLD or self.chance < CHANCE

    def __str__(self) -> str:
        return f"gap {self.gap:.2g} ± {1.96 * self.error:.1g}, order {self.order:.2g}, by chance {self.chance:.1g}"


def near_duplicates(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w) float32 in [0, 1], each 1/255 away from x in one channel of one pixel.

    It is the least change that gives another 8-bit image: up or down at random, inwards at 0 and at 1.
    """
    flat = x.flatten(1)
    where = torch.randint(flat.shape[1], (len(x), 1), generator=generator)
    level = (flat.gather(1, where) * 255).round()
    up = torch.rand(len(x), 1, generator=generator) < 0.5
    up = (up | (level < 1)) & (level < 255)
    return flat.scatter(1, where, torch.where(up, level + 1, level - 1) / 255).view_as(x)


def walk(predict: Predict, x: Tensor, rng: np.random.Generator) -> Tensor:
    """Answers (1 + 2 WALKS, n, k) to images (n, c, h, w) in [0, 1], their near-duplicates, and those of these in turn.

    Version 0 is the original, versions 1 to WALKS are one step away, the others two. The queries go out in as many
    rounds as there are versions. A round holds one version of every image, in an order that is drawn for each image
    separately.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    first = [near_duplicates(x, generator) for _ in range(WALKS)]
    versions = torch.stack([x, *first, *(near_duplicates(near, generator) for near in first)])
    images = np.arange(len(x))
    rounds: NDArray[np.int64] = rng.permuted(np.tile(np.arange(len(versions))[:, None], len(x)), axis=0)
    answers = [ask(predict, versions[torch.from_numpy(r), torch.from_numpy(images)], rng) for r in rounds]
    # Version rounds[r, i] of image i was answered in round r.
    return torch.stack(answers)[torch.from_numpy(rounds.argsort(0)), torch.from_numpy(images)]


def lookup_gap(answers: Tensor, n_members: int) -> LookupGap:
    """Compare the steps of a walk at members, the first `n_members` images, with those at the others.

    answers: log-posteriors (1 + 2 WALKS, n, k) as `walk` gives them. Raises ValueError with fewer than
    two members or two non-members.
    """
    n_nonmembers = answers.shape[1] - n_members
    if min(n_members, n_nonmembers) < 2:
        raise ValueError(
            f"lookup_gap: expected 2 members and 2 non-members or more, given {n_members} and {n_nonmembers}"
        )
    first_steps, second_steps = _steps(answers.exp())
    first_steps, second_steps = first_steps.abs().sum(2) / 2, second_steps.abs().sum(2) / 2
    gap, error = _difference((first_steps - second_steps).mean(0), n_members)
    mean_steps = first_steps.mean(0)
    order, chance = _order(answers.clamp_min(_LOG_FLOOR), n_members)
    return LookupGap(
        gap, error, float(mean_steps[:n_members].mean()), float(mean_steps[n_members:].mean()), order, chance
    )


def _order(answers: Tensor, n_members: int) -> tuple[float, float]:
    """`order` and `chance` of `LookupGap`: of all measures of a step and all factors, those with the least p-value."""
    label = answers[0].argmax(1)
    likelihood = logit_margin(answers, label).unsqueeze(2)
    comparisons = []
    for values in (answers, answers.exp(), likelihood):
        first, second = (step.abs().amax(2) for step in _steps(values))
        for factor in LONGER:
            stands_out = first.amin(0) > factor * second.amax(0)
            among_members, in_all = int(stands_out[:n_members].sum()), int(stands_out.sum())
            chance = hypergeom.sf(among_members - 1, len(label), in_all, n_members)
            difference = among_members / n_members - (in_all - among_members) / (len(label) - n_members)
            comparisons.append((float(chance), difference))
    chance, difference = min(comparisons, key=lambda pair: pair[0])
    return difference, chance


def _steps(values: Tensor) -> tuple[Tensor, Tensor]:
    """First and second steps, each (WALKS, n, ...), between values (1 + 2 WALKS, n, ...) of the versions of a walk."""
    start, near, far = values.split([1, WALKS, WALKS])
    return near - start, far - near


def _difference(values: Tensor, n_members: int) -> tuple[float, float]:
    """Mean of values (n,) over members, the first `n_members`, minus mean over the others; and its standard error."""
    members, nonmembers = values[:n_members], values[n_members:]
    error = math.sqrt(float(members.var() / n_members + nonmembers.var() / len(nonmembers)))
    return float(members.mean() - nonmembers.mean()), error
