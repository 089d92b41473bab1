"""The loss attack on the mean answer to near-copies of each sample: averaging removes a guard's noise (RULES 8).

A guard that draws its noise from the query gives equal queries equal answers. A query that differs by one grey level of
one pixel gets new noise, while the network's own answer hardly changes. What is left after averaging is the loss
attack.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.api import Annotated, Attack, Candidates, Card, Field, Hyper, References, Search, Target, logit_margin


class NearCopies(Attack):
    """Membership, no auxiliary knowledge: log of the mean posterior of y over copies that differ by one grey level."""

    card = Card(
        title="Near-copies",
        authors=("Leakboard",),
        reference="the averaging attack that every randomised guard must meet; after Yeom et al. 2018",
        year=None,
    )
    access = "posterior"
    calibrate = "shadow"

    class Params(Hyper):
        """Queries for each sample, the sample itself among them."""

        copies: Annotated[int, Field(ge=1, le=256), Search(4, 64, log=True)] = 16

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log p_y (n,) of the mean posteriors."""
        answers = torch.stack([target.log_posteriors(x) for x in self._copies(candidates.x)])
        return functional.logsigmoid(logit_margin(answers.logsumexp(0) - math.log(len(answers)), candidates.y))

    def _copies(self, x: Tensor) -> list[Tensor]:
        """x (n, c, h, w) itself, and copies in each of which another pixel is one grey level closer to 0.5."""
        pixels = x[0].numel()
        apart = max(1, pixels // self.params.copies)
        copies = [x]
        for k in range(1, self.params.copies):
            rounds, place = divmod(k * apart, pixels)
            copy = x.flatten(1).clone()
            pixel = copy[:, place]
            pixel += torch.where(pixel > 0.5, -1, 1) * (1 + rounds) / 255  # a second round over the pixels goes farther
            copies.append(copy.view_as(x))
        return copies
