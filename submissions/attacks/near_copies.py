"""The loss attack on near-copies of each sample, whose answers are averaged: it asks a noisy guard again and again.

A guard that draws its noise from the query answers equal queries alike, but a query that differs by one step of one
pixel draws anew, while the network hardly notices: averaging takes the noise away. What is left is the loss attack.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.api import Annotated, Attack, Candidates, Card, Field, Hyper, References, Search, Target, logit_margin


class NearCopies(Attack):
    """Membership, no auxiliary knowledge: log of the mean posterior of y over copies one 8-bit step apart."""

    card = Card(
        title="Near-copies",
        authors=("Leakboard",),
        reference="the averaging attack that every randomised guard must meet; after Yeom et al. 2018",
        year=None,
    )
    access = "posterior"
    calibrate = "shadow"

    class Params(Hyper):
        """How many copies are asked about, the sample itself among them."""

        copies: Annotated[int, Field(ge=1, le=256), Search(4, 64, log=True)] = 16

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log p_y (n,) of the mean posteriors."""
        answers = torch.stack([target.log_posteriors(x) for x in self._copies(candidates.x)])
        return functional.logsigmoid(logit_margin(answers.logsumexp(0) - math.log(len(answers)), candidates.y))

    def _copies(self, x: Tensor) -> list[Tensor]:
        """x (n, c, h, w) itself, and copies in each of which another pixel is one step nearer to the middle grey."""
        pixels = x[0].numel()
        apart = max(1, pixels // self.params.copies)
        copies = [x]
        for k in range(1, self.params.copies):
            rounds, place = divmod(k * apart, pixels)
            copy = x.flatten(1).clone()
            pixel = copy[:, place]
            pixel += torch.where(pixel > 0.5, -1, 1) * (1 + rounds) / 255  # farther where an image has few pixels
            copies.append(copy.view_as(x))
        return copies
