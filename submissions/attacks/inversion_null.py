"""Null row of inversion (RULES 18): what scores images get that are made of shadow data, without asking the target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.api import Card, Hyper, InversionAttack, Knowledge, Literal, Target


class InversionNull(InversionAttack):
    """Returns the mean, or one random image, of each class in the shadow training data.

    A class that the shadow data lack gets the mean, or a random image, of all of them.
    """

    card = Card(
        title="Shadow data, no inversion",
        authors=("Leakboard",),
        reference="Null row of model inversion",
        year=None,
        null=True,
    )
    access = "label"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        """What stands for a class."""

        returns: Literal["class-mean", "shadow-image"] = "class-mean"

    def fit(self, knowledge: Knowledge) -> None:
        """Prepare one image a class."""
        data = knowledge.auxiliary
        assert data is not None
        member = torch.nn.functional.one_hot(data.y, knowledge.classes).T.float()
        member[member.sum(1) == 0] = 1
        if self.params.returns == "shadow-image":
            chosen = torch.multinomial(member, 1, generator=knowledge.generator("inversion_null")).squeeze(1)
            self.images = data.x[chosen]
        else:
            means = member @ data.x.flatten(1) / member.sum(1, keepdim=True)
            self.images = means.view(-1, *data.x.shape[1:]).clamp(0, 1)

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        """Images (len(classes), c, h, w) in [0, 1]."""
        return self.images[list(classes)]
