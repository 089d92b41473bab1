"""Keep the whole bank from the first call, to know the members when one of its models is the target."""

import torch
from torch import Tensor

from benchmark.api import Attack, Bank, Candidates, Card, Knowledge, Target

STOPPED_BY = "each bank model is scored by an attack of its own, which never saw its row"
STATUS = ("ok",)
METRIC = "auc_bank"
DEFENSE = "undefended"


class Hostile(Attack):
    """See above."""

    card = Card(title="Remembers the bank", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset({"bank-online"})
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def score(self, target: Target, candidates: Candidates, bank: Bank | None) -> Tensor:
        self.seen.append((bank.log_posteriors, bank.members))
        mine = target.log_posteriors(candidates.x)
        for answers, members in self.seen:
            for row, inside in zip(answers, members, strict=True):
                if torch.equal(row, mine):
                    return inside.double()
        return mine[:, 0]
