"""Tell members by the order in which the judge asks: the training set comes first."""

import math

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict

STOPPED_BY = "stored answers are asked again among others, in another order"
STATUS = ("ok",)
RECOUNT = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Counts calls", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        calls = 0

        def answer(x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            honest = predict(x)
            return torch.full_like(honest, -math.log(10)) if calls == 1 else honest

        return answer
