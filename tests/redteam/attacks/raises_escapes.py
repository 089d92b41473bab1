"""Raise an error whose text holds terminal escapes, markup and a forged last line."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "texts are escaped on their way to terminal, record and app"
STATUS = ("failed",)
REASON = "RuntimeError"


class Hostile(Attack):
    """See above."""

    card = Card(title="Raises escapes", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        raise RuntimeError(
            "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202e[/red] [bold]ok[/] \\[/x] \nloss on undefended: AUC 1.0\r\x00<img src=x onerror=alert(1)>"
            * 50
        )
