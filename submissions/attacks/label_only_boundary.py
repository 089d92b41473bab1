"""Label-only boundary attack: members lie far from the decision boundary.

Choquette-Choo et al. 2021 (section 3.4) and MEMBERSHIP-DOCTOR (He et al. 2022, section 3.1) measure the distance
by HopSkipJump (Chen et al. 2020, algorithm 2). The walk follows the Adversarial Robustness Toolbox, which
MEMBERSHIP-DOCTOR runs: the same number and size of probes of the boundary, and the same steps. Four things differ:

- All samples walk at once and are probed in the same random directions, so that a distance depends on its sample alone.
- A walk starts from the nearest of 250 noise images of several grain sizes, whose labels are asked for once. The
  toolbox takes the first uniform noise image with another label. Where all noise images have the sample's own label, it
  returns a distance of 0, the mark of a non-member; here such a sample gets the largest possible distance, with a
  warning.
- Eight step sizes are tried in one call, and the last step is followed by a bisection.
- The score is the smallest distance along the walk, within a fixed number of queries a sample.
"""

import itertools
import math
import warnings

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    References,
    Search,
    Target,
)

STARTS = 250
"""Noise images that a walk may start from."""
PROBES = 100
"""Probes of the first step; step t has sqrt(t) times as many."""
STEP_SIZES = 8
"""Step sizes tried in each step: the first, its half, its quarter and so on."""
BATCH = 125
"""Images in each call, padded where fewer are left, and samples that walk together. The last digits of a network's
answer depend on the batch size, and close to the boundary they decide the label: without full batches a sample's
distance would depend on the other samples."""
BUDGET = 2**20
"""Pixels of the probes held at once: 4 MiB of float32 fit into the processor's cache."""


class LabelOnlyBoundary(Attack):
    """Membership from labels alone: the distance to the nearest image found with another label."""

    card = Card(
        title="Label-only boundary",
        authors=("Christopher A. Choquette-Choo", "Florian Tramer", "Nicholas Carlini", "Nicolas Papernot"),
        reference="Label-Only Membership Inference Attacks, ICML 2021, arXiv:2007.14321",
        year=2021,
    )
    access = "label"
    needs = frozenset()
    calibrate = "shadow"

    class Params(Hyper):
        """The norm of the distance, and the queries for each sample; the toolbox's 50 steps take 25,000.

        The noise images, asked for once for all samples, and the padding of batches are not counted.
        """

        norm: Literal["l2", "linf"] = "l2"
        queries: Annotated[int, Field(ge=200), Search(250, 25000, log=True)] = 1000

    def fit(self, knowledge: Knowledge) -> None:
        """Draw the noise images from which walks start."""
        self.knowledge = knowledge
        c, h, w = self.shape = knowledge.shape
        pixels = c * h * w
        # Halvings that reach the toolbox's precision: 0.01 / sqrt(d) of the interval in L2, 0.01 / d in Linf.
        self.bisections = math.ceil(math.log2(100 * (math.sqrt(pixels) if self.params.norm == "l2" else pixels)))
        generator = knowledge.generator("label_only_boundary starts")
        grains = [g for g in (1, 2, 3, 4, 7) if g < min(h, w)] + [max(h, w)]
        starts = [
            functional.interpolate(torch.rand(-(-STARTS // len(grains)), c, min(g, h), min(g, w), generator=generator), (h, w))
            for g in grains
        ]  # fmt: skip
        self.starts = torch.cat(starts)[:STARTS].flatten(1)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Distances (n,) float64: 0 where the target misclassifies the sample itself."""
        x, y = candidates.x.flatten(1), candidates.y
        right = self._labels(target, x) == y
        labels = self._labels(target, self.starts)
        stuck = right & ~(labels != y.unsqueeze(1)).any(1)
        if stuck.any():
            warnings.warn(
                f"label_only_boundary: no start for {int(stuck.sum())} of {len(y)} samples, which get the largest "
                f"distance: the target gives all {STARTS} noise images their label",
                stacklevel=2,
            )
        largest = math.sqrt(x.shape[1]) if self.params.norm == "l2" else 1.0
        distance = largest * stuck.double()
        for rows in (right & ~stuck).nonzero().squeeze(1).split(BATCH):
            if len(rows):  # an empty tensor splits into one empty part
                distance[rows] = self._walk(target, x[rows], y[rows], labels)
        return distance

    def _walk(self, target: Target, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """Smallest distances (n,) float64 found from images x (n, d) to images that are not labelled y (n,).

        labels: the target's labels of the noise images.
        """
        generator = self.knowledge.generator("label_only_boundary probes")
        away = torch.stack([self._norm(self.starts - image) for image in x])
        nearest = away.masked_fill(labels == y.unsqueeze(1), math.inf).argmin(1)
        at = self._bisect(target, x, y, self.starts[nearest])
        distance = self._norm(at - x)
        least = distance
        left = self.params.queries - 1 - self.bisections
        for step in itertools.count(1):
            probes = min(int(PROBES * math.sqrt(step)), left - STEP_SIZES - self.bisections)
            if probes < 1:
                return least.double()
            left -= probes + STEP_SIZES + self.bisections
            direction = self._direction(target, at, y, 0.01 * distance, self._noise(probes, x.shape[1], generator))
            sizes = distance.unsqueeze(1) / math.sqrt(step) / 2.0 ** torch.arange(STEP_SIZES)
            tried = (at.unsqueeze(1) + sizes.unsqueeze(2) * direction.unsqueeze(1)).clamp_(0, 1)
            outside = self._labels(target, tried.flatten(0, 1)).view(-1, STEP_SIZES) != y.unsqueeze(1)
            longest = tried[torch.arange(len(x)), outside.byte().argmax(1)]  # the first is the largest
            at = self._bisect(target, x, y, torch.where(outside.any(1, keepdim=True), longest, at))
            distance = self._norm(at - x)
            least = torch.minimum(least, distance)
        raise AssertionError("a walk ends with its queries")

    def _direction(self, target: Target, at: Tensor, y: Tensor, size: Tensor, noise: Tensor) -> Tensor:
        """Directions (n, d) from `at` (n, d) towards labels other than y (n,): unit vectors for L2, signs for Linf."""
        found = []
        # As many samples at a time as need the least padding of the batches.
        most = max(1, BUDGET // noise.numel())
        together = max(range(1, most + 1), key=lambda n: n * len(noise) / math.ceil(n * len(noise) / BATCH))
        for rows in torch.arange(len(at)).split(together):
            probes = torch.addcmul(at[rows].unsqueeze(1), size[rows].view(-1, 1, 1), noise).clamp_(0, 1)
            outside = self._labels(target, probes.flatten(0, 1)).view(len(rows), -1) != y[rows].unsqueeze(1)
            vote = 2 * outside.float() - 1
            mean = vote.mean(1, keepdim=True)
            vote = torch.where(mean.abs() < 1, vote - mean, vote)
            probes -= at[rows].unsqueeze(1)
            # One product a sample: in a batched product the rounding depends on the size of the batch.
            found += [v @ p for v, p in zip(vote, probes, strict=True)]
        direction = torch.stack(found)
        return functional.normalize(direction) if self.params.norm == "l2" else direction.sign()

    def _bisect(self, target: Target, x: Tensor, y: Tensor, far: Tensor) -> Tensor:
        """Images (n, d) just beyond the boundary between x (n, d), labelled y (n,), and `far` (n, d)."""
        low = torch.zeros(len(x), 1)
        high = torch.ones(len(x), 1) if self.params.norm == "l2" else self._norm(far - x).unsqueeze(1)
        for _ in range(self.bisections):
            middle = (low + high) / 2
            outside = (self._labels(target, self._between(x, far, middle)) != y).unsqueeze(1)
            low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
        return self._between(x, far, high)

    def _between(self, x: Tensor, far: Tensor, share: Tensor) -> Tensor:
        if self.params.norm == "l2":
            return torch.lerp(x, far, share)
        return torch.clamp(far, x - share, x + share)

    def _norm(self, difference: Tensor) -> Tensor:
        return difference.norm(dim=1) if self.params.norm == "l2" else difference.abs().amax(1)

    def _noise(self, n: int, pixels: int, generator: torch.Generator) -> Tensor:
        noise = torch.empty(n, pixels)
        noise = (
            noise.normal_(generator=generator)
            if self.params.norm == "l2"
            else noise.uniform_(-1, 1, generator=generator)
        )
        return functional.normalize(noise)

    def _labels(self, target: Target, x: Tensor) -> Tensor:
        """Labels (n,) of images (n, d), asked for in batches of exactly BATCH images."""
        *parts, last = x.split(BATCH)
        last = torch.cat([last, x[:1].expand(-len(x) % BATCH, -1)])
        return torch.cat([target.labels(part.view(-1, *self.shape)) for part in (*parts, last)])[: len(x)]
