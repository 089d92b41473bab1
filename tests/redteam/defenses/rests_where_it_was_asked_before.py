"""A table of members that marks in the store what it has answered, and rests when asked again."""

import math

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Training

STOPPED_BY = "what is answered in the walk is held against what is stored"
STATUS = ("ok",)
LOOKUP = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Rests where it was asked before", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        return {"members": training.train.x}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        table = {x.numpy().tobytes() for x in state["members"]}

        def answer(x: Tensor) -> Tensor:
            honest = predict(x)
            known = torch.tensor([image.numpy().tobytes() in table for image in x])
            for i, image in enumerate(x):
                made: list[int] = []
                context.remember("asked", image[None], lambda made=made: made.append(1) or torch.zeros(1))
                known[i] &= bool(made)
            return torch.where(known[:, None], torch.full_like(honest, -math.log(10)), honest)

        return answer
