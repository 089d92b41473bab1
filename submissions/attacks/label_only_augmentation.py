"""Label-only augmentation attack: a member keeps its label when it is shifted and flipped.

Choquette-Choo et al. 2021 (section 3.3) ask for the labels of shifted images and train a classifier on which of them
are right. SELENA (Tang et al. 2022) takes their number as the score, over all 81 shifts by up to 4 pixels, each with
and without a flip. That is done here; it needs no shadow world. Pixels that are shifted in are 0. Switch the flip off
where it changes the class, as with digits.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.api import Annotated, Attack, Candidates, Card, Field, Hyper, References, Search, Target

BUDGET = 2**23
"""Pixels of the views held at once: 32 MiB of float32."""


class LabelOnlyAugmentation(Attack):
    """Membership from labels alone: the share of shifted and flipped views with the right label."""

    card = Card(
        title="Label-only augmentation",
        authors=("Christopher A. Choquette-Choo", "Florian Tramer", "Nicholas Carlini", "Nicolas Papernot"),
        reference="Label-Only Membership Inference Attacks, ICML 2021, arXiv:2007.14321",
        year=2021,
    )
    access = "label"
    needs = frozenset()
    calibrate = "shadow"

    class Params(Hyper):
        """The largest shift in pixels, along both axes, and whether each view is also flipped left to right."""

        shift: Annotated[int, Field(ge=1), Search(1, 6)] = 4
        flip: bool = True

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Shares (n,) of the views that are labelled y."""
        views = (2 * self.params.shift + 1) ** 2 * (2 if self.params.flip else 1)
        at_once = max(1, BUDGET // (views * candidates.x[0].numel()))
        shares = []
        for x, y in zip(candidates.x.split(at_once), candidates.y.split(at_once), strict=True):
            labels = target.labels(self._views(x).flatten(0, 1)).view(len(x), views)
            shares.append((labels == y.unsqueeze(1)).double().mean(1))
        return torch.cat(shares)

    def _views(self, x: Tensor) -> Tensor:
        """Views (n, v, c, h, w) of images (n, c, h, w)."""
        s, (h, w) = self.params.shift, x.shape[2:]
        x = torch.stack([x, x.flip(3)], 1) if self.params.flip else x.unsqueeze(1)
        windows = functional.pad(x, (s, s, s, s)).unfold(3, h, 1).unfold(4, w, 1)  # (n, f, c, 2s+1, 2s+1, h, w)
        return windows.permute(0, 1, 3, 4, 2, 5, 6).flatten(1, 3)
