"""A guard that rewrites members' answers a little, and no others: each is followed by a fresh draw."""

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Training

STOPPED_BY = "members and others that are left alone at different rates, and the order of steps"
STATUS = ("ok",)
LOOKUP = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Leaves others alone", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        return {"members": training.train.x}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        table = {x.numpy().tobytes() for x in state["members"]}

        def answer(x: Tensor) -> Tensor:
            honest = predict(x)
            known = torch.tensor([image.numpy().tobytes() in table for image in x])
            draw = context.uniform("noise", x, honest.shape[1])
            noisy = (honest.exp() * 0.98 + 0.02 * draw / draw.sum(1, keepdim=True)).log()
            return torch.where(known[:, None], noisy, honest)

        return answer
