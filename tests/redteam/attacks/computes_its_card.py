"""Compute the card, so that reading it would run code."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the card is a literal, read from the syntax tree"
STATUS = ("refused",)
REASON = "expected a literal"

HOST = "/host"


class Hostile(Attack):
    """See above."""

    card = Card(title=str(os.system(f"touch {HOST}/redteam-was-here")), authors=(), reference="", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
