"""Compute a default by a comprehension that writes a file."""

import pathlib

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Hyper, References, Target

STOPPED_BY = "defaults are literals"
STATUS = ("refused",)
REASON = "expected a literal"


class Hostile(Attack):
    """See above."""

    card = Card(title="Computes a default", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    class Params(Hyper):
        """One hyperparameter."""

        power: int = len([pathlib.Path("/host").joinpath("redteam-was-here").touch() for _ in (1,)])

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
