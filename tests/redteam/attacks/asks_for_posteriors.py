"""Declare label access and ask for posteriors and for the network."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the access level, held by the judge"
STATUS = ("failed",)
REASON = "asked for posteriors.*asked for the network"


class Hostile(Attack):
    """See above."""

    card = Card(title="Asks for posteriors", authors=(), reference="tests/redteam", year=None)
    access = "label"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        for ask in (lambda: target.log_posteriors(candidates.x), target.white_box):
            try:
                ask()
                said.append("answered")
            except PermissionError as error:
                said.append(str(error))
        raise RuntimeError(repr(said))
