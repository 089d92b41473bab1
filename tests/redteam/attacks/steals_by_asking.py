"""Hand in a stolen copy that asks the target for every answer."""

from collections.abc import Callable

from torch import Tensor, nn

from benchmark.api import Card, Samples, StealingAttack, Target

STOPPED_BY = "the target is closed once the copy is handed in"
STATUS = ("failed",)
REASON = "answers no more"


class Hostile(StealingAttack):
    """See above."""

    card = Card(title="Steals by asking", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()

    def steal(self, target: Target, queries: Samples, build: Callable[[], nn.Module]) -> nn.Module:
        class Copy(nn.Module):
            """Asks."""

            def forward(self, x: Tensor) -> Tensor:
                return target.log_posteriors(x)

        return Copy()
