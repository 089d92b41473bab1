"""Have answers of one target stored as what was made of auxiliary data, for the next target's attack to read."""

from collections.abc import Sequence

from torch import Tensor

from benchmark.api import Card, InversionAttack, Knowledge, Target

STOPPED_BY = "nothing is stored once the target was asked anything, also while it is made"
STATUS = ("failed",)
DEFENSE = "undefended"
REASON = "carries nothing.*artifact: expected to be called in fit, before the target is asked anything"


class Hostile(InversionAttack):
    """See above."""

    card = Card(title="Stores what it asked", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset({"shadow"})

    def fit(self, knowledge: Knowledge) -> None:
        self.keep, self.x = knowledge.artifact, knowledge.auxiliary.x

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        refusals = []
        for name, first in (("while", False), ("after", True)):
            if first:
                target.log_posteriors(self.x)
            try:
                self.keep(name, lambda generator: {"answers": target.log_posteriors(self.x)})
            except PermissionError as refusal:
                refusals.append(str(refusal))
        raise RuntimeError(f"carries {'nothing' if len(refusals) == 2 else 'answers'}: {refusals}")
