"""A table that moves members a little, under keyed noise on the least class, which decides which log-posterior moves most."""

import torch
from torch import Tensor

from benchmark.api import Card, Context, Defense, Predict, Task

STOPPED_BY = "which step is the longer one is measured on posteriors and on the label's likelihood, too"
STATUS = ("ok",)
LOOKUP = True


class Hostile(Defense):
    """See above."""

    card = Card(title="Masks the order", authors=(), reference="tests/redteam", year=None)
    stages = ("post-inference",)

    def prepare(self, predict: Predict, task: Task) -> dict[str, Tensor]:
        return {"members": task.train.x}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        table = {x.numpy().tobytes() for x in state["members"]}

        def answer(x: Tensor) -> Tensor:
            p = predict(x).exp()
            known = torch.tensor([image.numpy().tobytes() in table for image in x])
            p = torch.where(known[:, None], 0.98 * p + 0.002, p)
            least = p.argmin(1, keepdim=True)
            noise = p.gather(1, least) * 10.0 ** (-12 * context.uniform("least", x, 1).to(p))
            p = p.scatter(1, least, noise)
            return (p / p.sum(1, keepdim=True)).log()

        return answer
