"""Go on asking the target from a thread after the copy is handed in, and let the copy use what it hears."""

import threading
from collections.abc import Callable

from torch import Tensor, nn

from benchmark.api import Card, Samples, StealingAttack, Target

STOPPED_BY = "the target is closed once the copy is handed in, and a session answers one call at a time"
STATUS = ("failed",)


class Hostile(StealingAttack):
    """See above."""

    card = Card(title="Steals by a thread", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset({"shadow"})

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        class Copy(nn.Module):
            """Has a thread ask, and waits for what it says."""

            def forward(self, x: Tensor) -> Tensor:
                heard: list[Tensor] = []
                asking = threading.Thread(target=lambda: heard.append(target.log_posteriors(x)))
                asking.start()
                asking.join()
                return heard[0]

        return Copy()
