"""Return pictures that are not numbers, so that means of metrics are none either."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.api import Card, InversionAttack, Target

STOPPED_BY = "images are held to their shape and to finite values in [0, 1]"
STATUS = ("failed",)
DEFENSE = "undefended"
REASON = "expected finite images, given NaN or infinite values"


class Hostile(InversionAttack):
    """See above."""

    card = Card(title="Paints nothing", authors=(), reference="tests/redteam", year=None)
    access = "label"
    needs = frozenset()

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        return torch.full((len(classes), 1, 8, 8), torch.nan)
