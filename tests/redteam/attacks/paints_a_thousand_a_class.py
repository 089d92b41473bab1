"""Return so many pictures that the judge is busy with their distances."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.api import Card, InversionAttack, Target

STOPPED_BY = "a class has 20 images at most"
STATUS = ("failed",)
DEFENSE = "undefended"
REASON = "expected 1 to 20 images of each class, given 1000"


class Hostile(InversionAttack):
    """See above."""

    card = Card(title="Paints a thousand a class", authors=(), reference="tests/redteam", year=None)
    access = "label"
    needs = frozenset()

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        return torch.rand(len(classes), 1000, 1, 8, 8)
