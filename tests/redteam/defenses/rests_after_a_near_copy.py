"""A table of members that rests once it has seen a near-duplicate of an earlier query."""

import math

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Training

STOPPED_BY = "near-duplicates of members are held against the stored answers, in calls as attacks make them"
STATUS = ("ok",)
LOOKUP = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Rests after a near copy", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        return {"members": training.train.x}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        table = {x.numpy().tobytes() for x in state["members"]}
        seen: list[Tensor] = []
        suspicious: list[bool] = []

        def answer(x: Tensor) -> Tensor:
            honest = predict(x)
            known = torch.tensor([image.numpy().tobytes() in table for image in x])
            flat = x.flatten(1)
            if seen:
                apart = (flat[:, None] != torch.cat(seen)[None]).sum(2)
                suspicious.append(bool(((apart > 0) & (apart <= 2)).any()))
            seen.append(flat)
            known &= not any(suspicious)
            return torch.where(known[:, None], torch.full_like(honest, -math.log(10)), honest)

        return answer
