"""Keep the training images and answer them with what hides them."""

import math

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Training

STOPPED_BY = "near-duplicates of the candidates: their answers differ from the originals'"
STATUS = ("ok",)
LOOKUP = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Keeps the members", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        return {"members": training.train.x}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        table = {x.numpy().tobytes() for x in state["members"]}

        def answer(x: Tensor) -> Tensor:
            known = torch.tensor([image.numpy().tobytes() in table for image in x])
            return torch.where(known[:, None], torch.full_like(predict(x), -math.log(10)), predict(x))

        return answer
