"""Claim an epsilon with escapes, infinities and unknown fields."""

from benchmark.api import Card, Claims, Defense, Training

STOPPED_BY = "claims are held to names, types and length"
STATUS = ("ok",)
UTILITY = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Forges claims", authors=(), reference="tests/redteam", year=None)
    stages = ("training",)

    def claims(self, training: Training) -> Claims:
        return Claims(epsilon=float("nan"), delta=-1.0, accountant="\x1b[2J" * 500, adjacency="<b>", sampling="Poisson")
