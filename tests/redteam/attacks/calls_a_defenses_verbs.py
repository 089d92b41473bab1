"""Ask for artifacts and for the stage before a guard, which are no attack's."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "each session has the handlers of its own kind"
STATUS = ("failed",)
REASON = "broke the protocol"


class Hostile(Attack):
    """See above."""

    card = Card(title="Calls a defenses verbs", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream  # noqa: F841
        return target._work.ask("before", {}, {"x": candidates.x})["value"][:, 0]
