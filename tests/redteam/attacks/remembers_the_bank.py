"""Keep all reference models from the first call, to know the members when one of them is the target."""

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "each reference model is scored by an attack of its own, which never saw its row"
STATUS = ("ok",)
METRIC = "auc_references"
DEFENSE = "undefended"


class Hostile(Attack):
    """See above."""

    card = Card(title="Remembers the reference models", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset({"references-online"})
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        self.seen.append((references.log_posteriors, references.members))
        mine = target.log_posteriors(candidates.x)
        for answers, members in self.seen:
            for row, inside in zip(answers, members, strict=True):
                if torch.equal(row, mine):
                    return inside.double()
        return mine[:, 0]
