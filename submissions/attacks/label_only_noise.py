"""Label-only noise attack: a member keeps its label under Gaussian noise (Choquette-Choo et al. 2021, section 3.4).

The share of noisy copies that are labelled y stands in for the distance to the boundary and takes far fewer queries.
The released code starts from a standard deviation of 0.025 and asks for up to 2,500 copies; here the deviation is
chosen on the shadow world, on at most 500 members and 500 non-members. All samples get the same noise, so that a share
depends on its sample alone.
"""

import torch
from torch import Tensor

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    References,
    Samples,
    Search,
    Target,
)

DEVIATIONS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Standard deviations to choose from, in pixels of [0, 1]."""
ENOUGH = 500
"""Members, and non-members, on which the deviation is chosen: an AUC within .02, where deviations differ by more."""
BUDGET = 2**23
"""Pixels of the copies held at once: 32 MiB of float32."""


class LabelOnlyNoise(Attack):
    """Membership from labels alone: the share of noisy copies with the right label."""

    card = Card(
        title="Label-only noise",
        authors=("Christopher A. Choquette-Choo", "Florian Tramer", "Nicholas Carlini", "Nicolas Papernot"),
        reference="Label-Only Membership Inference Attacks, ICML 2021, arXiv:2007.14321",
        year=2021,
    )
    access = "label"
    needs = frozenset({"shadow"})
    calibrate = "shadow"

    class Params(Hyper):
        """Noisy copies of each sample; on the shadow world as many for each of the six deviations."""

        copies: Annotated[int, Field(ge=1), Search(25, 2500, log=True)] = 100

    def fit(self, knowledge: Knowledge) -> None:
        """Choose the deviation whose shares separate members and non-members of the shadow world best, by AUC."""
        world = knowledge.shadow
        assert world is not None
        generator = knowledge.generator("label_only_noise")
        noise = torch.randn(self.params.copies, *knowledge.shape, generator=generator)
        chosen = [
            Samples(part.x[rows], part.y[rows])
            for part in (world.members, world.nonmembers)
            for rows in [torch.randperm(len(part), generator=generator)[:ENOUGH]]
        ]
        best = -1.0
        for deviation in DEVIATIONS:
            members, others = (kept(world.target, part, deviation * noise) for part in chosen)
            # The AUC by ranks: for each member the share of smaller non-members. Ties, which are many here, count half.
            others = others.sort().values
            below, upto = (torch.searchsorted(others, members, right=right) for right in (False, True))
            auc = float((below + upto).double().mean()) / 2 / len(others)
            if auc > best:
                best, self.noise = auc, deviation * noise

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Shares (n,) of the copies and the image itself that are labelled y."""
        return kept(target, Samples(candidates.x, candidates.y), self.noise)


def kept(target: Target, samples: Samples, noise: Tensor) -> Tensor:
    """Shares (n,) float64 of the image and its copies, noise (m, c, h, w) added, with the right label."""
    noise = torch.cat([torch.zeros_like(noise[:1]), noise])
    shares = []
    for rows in torch.arange(len(samples)).split(max(1, BUDGET // noise.numel())):
        copies = (samples.x[rows].unsqueeze(1) + noise).clamp_(0, 1)
        right = target.labels(copies.flatten(0, 1)).view(len(rows), -1) == samples.y[rows].unsqueeze(1)
        shares.append(right.double().mean(1))
    return torch.cat(shares)
