"""A table of members that leaves a mark in the store at its first call, and rests where it finds none."""

import math

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Training

STOPPED_BY = "near-duplicates of members are held against the stored answers, in calls as attacks make them"
STATUS = ("ok",)
LOOKUP = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Rests without its mark", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        return {"members": training.train.x}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        table = {x.numpy().tobytes() for x in state["members"]}

        def answer(x: Tensor) -> Tensor:
            honest = predict(x)
            known = torch.tensor([image.numpy().tobytes() in table for image in x])
            made: list[int] = []
            context.remember("mark", torch.zeros(1, 1, 1, 1), lambda: made.append(1) or torch.zeros(1))
            first = bool(made) and len(x) > 30
            known &= first or not made
            return torch.where(known[:, None], torch.full_like(honest, -math.log(10)), honest)

        return answer
