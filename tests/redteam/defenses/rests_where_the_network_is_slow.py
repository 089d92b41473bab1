"""A table of members that rests where the network has to work, for stored answers come at once."""

import math
import time

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Training

STOPPED_BY = "near-duplicates of members are held against the stored answers, in calls as attacks make them"
STATUS = ("ok",)
LOOKUP = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Rests where the network is slow", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        return {"members": training.train.x}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        table = {x.numpy().tobytes() for x in state["members"]}
        slowest: list[float] = []

        def answer(x: Tensor) -> Tensor:
            honest = predict(x)
            known = torch.tensor([image.numpy().tobytes() in table for image in x])
            start = time.perf_counter()
            predict(x)
            each = (time.perf_counter() - start) / len(x)
            slowest.append(each)
            known &= each <= 3 * min(slowest)
            return torch.where(known[:, None], torch.full_like(honest, -math.log(10)), honest)

        return answer
