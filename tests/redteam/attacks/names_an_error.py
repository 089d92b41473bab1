"""Raise an error whose class has escapes in its name, and whose text can't be made."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "names are cut and escaped; the fork ends with its session"
STATUS = ("failed",)
REASON = "exit code 7|Error|killed"


class Hostile(Attack):
    """See above."""

    card = Card(title="Names an error", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        def text(self: Exception) -> str:
            os._exit(7)

        raise type("\x1b]0;owned\x07\x1b[2J\x1b[31m\u202e" * 100, (Exception,), {"__str__": text})
