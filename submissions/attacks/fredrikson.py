"""Model inversion by gradient descent on the input (Fredrikson et al. 2015; settings of ML-DOCTOR, section 5.2).

From a noise image, x <- x - rate * gradient of (1 - p_class), kept in [0, 1]. A class stops when its posterior is
reached, when it has not improved for `patience` steps, or when the steps are spent. The best image is returned.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.api import Annotated, Card, Field, Hyper, InversionAttack, Knowledge, Search, Target


class Fredrikson(InversionAttack):
    """One image a class, all classes in one batch."""

    card = Card(
        title="Fredrikson inversion",
        authors=("Matt Fredrikson", "Somesh Jha", "Thomas Ristenpart"),
        reference="Model Inversion Attacks that Exploit Confidence Information, ACM CCS 2015",
        year=2015,
    )
    access = "white-box"
    needs = frozenset()

    class Params(Hyper):
        """Step size, most steps, steps without improvement before a class stops, posterior at which it stops."""

        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1.0, log=True)] = 1e-2
        steps: Annotated[int, Field(ge=1), Search(100, 5000, log=True)] = 3000
        patience: Annotated[int, Field(ge=1), Search(20, 500, log=True)] = 100
        posterior: Annotated[float, Field(gt=0, lt=1), Search(0.9, 0.9999)] = 0.999

    def fit(self, knowledge: Knowledge) -> None:
        """Draw the noise that each class starts from."""
        generator = knowledge.generator("fredrikson")
        self.start = torch.rand(knowledge.classes, *knowledge.shape, generator=generator).to(knowledge.device)

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        """Images (len(classes), c, h, w) in [0, 1]."""
        x = self.start[list(classes)]
        y = torch.tensor(list(classes), device=x.device).unsqueeze(1)
        network = target.white_box().to(x.device).eval().requires_grad_(False)
        best, best_x = torch.zeros_like(y[:, 0], dtype=torch.float64), x.clone()
        idle = torch.zeros_like(y[:, 0])
        active = torch.arange(len(y), device=x.device)
        for step in range(self.params.steps + 1):
            now = x[active].requires_grad_()
            p = network(now).double().softmax(1).gather(1, y[active]).squeeze(1)
            better = p.detach() > best[active]
            best[active] = torch.where(better, p.detach(), best[active])
            best_x[active[better]] = now.detach()[better]
            idle[active] = torch.where(better, 0, idle[active] + 1)
            running = (best[active] < self.params.posterior) & (idle[active] < self.params.patience)
            if step == self.params.steps or not running.any():
                break
            (gradient,) = torch.autograd.grad(p.sum(), now)
            active = active[running]
            x[active] = (now.detach() + self.params.learning_rate * gradient)[running].clamp(0, 1)
        return best_x.cpu()
