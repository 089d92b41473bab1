"""Ask for targets under names that the judge has not given."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "handles are given by the judge, one a target"
STATUS = ("failed",)
REASON = r"6 asked: \['refused'\]"


class Hostile(Attack):
    """See above."""

    card = Card(title="Guesses handles", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        stream = target._work.channel.stream  # noqa: F841
        said = []
        for name in ("1", "2", "shadow", "-1", "None", "0/../1"):
            try:
                target._work.ask("labels", {"target": name}, {"x": candidates.x})
                said.append("answered")
            except PermissionError:
                said.append("refused")
        raise RuntimeError(f"{len(said)} asked: {sorted(set(said))}")
