"""Training by the protocol's recipe and nothing else: what every defense is compared with."""

from __future__ import annotations

from benchmark.api import Card, Defense


class Undefended(Defense):
    """The recipe alone: `Defense` already builds, trains and answers without any protection."""

    card = Card(title="Undefended", authors=(), reference="The recipe of the protocol", year=None)
    stages = ("training",)
