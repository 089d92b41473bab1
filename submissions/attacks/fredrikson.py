"""Model inversion by gradient descent on the input (Fredrikson et al. 2015, algorithm 1; settings of ML-DOCTOR, section 5.2).

From a grey image with Gaussian `noise`, x <- x - rate * gradient of (1 - p_class), kept in [0, 1]. A class stops when its posterior is
reached, when it has not improved for `patience` steps, or when the steps are spent. The best image is returned.

ML-DOCTOR starts from "a noise sample", and does not say how strong; its code starts from grey, and so does the default. From noise as wide
as the range of pixels, of deviation 0.29, many classes never leave the plateau where p is nearly 0 and 1 - p is flat.

Algorithm 1 also has a step PROCESS, by which an image is made likelier before it is asked again: with `smoothing` it is a Gaussian blur.
ML-DOCTOR has none, and then what convolutional networks are surest of is a pattern that other networks need not recognise.
`cost="cross-entropy"`, -log p, has the same minimum as 1 - p and no plateau.

`as_released` follows ML-DOCTOR's code: from grey (0 in its normalised pixels), without a box, at the rate 0.003 in those units;
the cost is 1 - logit, and a class stops once the logit, not the posterior, reaches 0.999; it stops as stagnant where the cost is above
all those since step `patience`. Of the images but the last, the best is returned, cut to [0, 1].
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Field, Hyper, InversionAttack, Knowledge, Literal, Search, Target

RELEASED_RATE = 0.003 / 4
"""A step of 0.003 along the gradient where pixels lie in [-1, 1]: both are half as large in [0, 1]."""


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
        """Step size, most steps, steps without improvement before a class stops, posterior at which it stops; standard deviations
        of the noise at the start, and, in pixels, of the blur after each step, 0 for none; what descends; and whether all is as in the
        released code, which reads `steps`, `patience` and `posterior` alone.
        """

        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1.0, log=True)] = 1e-2
        steps: Annotated[int, Field(ge=1), Search(100, 5000, log=True)] = 3000
        patience: Annotated[int, Field(ge=1), Search(20, 500, log=True)] = 100
        posterior: Annotated[float, Field(gt=0, lt=1), Search(0.9, 0.9999)] = 0.999
        noise: Annotated[float, Field(ge=0, le=1)] = 0.0
        smoothing: Annotated[float, Field(ge=0, le=10), Search(0.0, 1.0)] = 0.0
        cost: Literal["posterior", "cross-entropy"] = "posterior"
        as_released: bool = False

    def fit(self, knowledge: Knowledge) -> None:
        """Draw the image that each class starts from."""
        generator = knowledge.generator("fredrikson")
        noise = torch.randn(knowledge.classes, *knowledge.shape, generator=generator)
        self.start = (0.5 + self.params.noise * noise).clamp(0, 1).to(knowledge.device)

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        """Images (len(classes), c, h, w) in [0, 1]."""
        x = self.start[list(classes)]
        y = torch.tensor(list(classes), device=x.device)
        network = target.white_box().to(x.device).eval().requires_grad_(False)
        return (self._released(network, x, y) if self.params.as_released else self._descend(network, x, y)).cpu()

    def _descend(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The best images (n, c, h, w) of classes y (n,) on the way from x."""
        p, best, best_x = self.params, torch.zeros(len(y), dtype=torch.float64, device=x.device), x.clone()
        idle, active = torch.zeros_like(y), torch.arange(len(y), device=x.device)
        for step in range(p.steps + 1):
            now = x[active].requires_grad_()
            log_posterior = network(now).double().log_softmax(1).gather(1, y[active].unsqueeze(1)).squeeze(1)
            posterior = log_posterior.exp()
            reached = posterior.detach()
            better = reached > best[active]
            best[active] = torch.where(better, reached, best[active])
            best_x[active[better]] = now.detach()[better]
            idle[active] = torch.where(better, 0, idle[active] + 1)
            running = (best[active] < p.posterior) & (idle[active] < p.patience)
            if step == p.steps or not running.any():
                break
            (gradient,) = torch.autograd.grad((posterior if p.cost == "posterior" else log_posterior).sum(), now)
            moved = (now.detach() + p.learning_rate * gradient)[running].clamp(0, 1)
            active = active[running]
            x[active] = blurred(moved, p.smoothing) if p.smoothing else moved
        return best_x

    def _released(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The same as the released code does it."""
        p, x = self.params, torch.full_like(x, 0.5)
        best, best_x = torch.full((len(y),), torch.inf, device=x.device), x.clone()
        highest, active = torch.full_like(best, -torch.inf), torch.arange(len(y), device=x.device)
        for step in range(p.steps + 1):
            now = x[active].requires_grad_()
            costs = 1 - network(now).gather(1, y[active].unsqueeze(1)).squeeze(1)
            (gradient,) = torch.autograd.grad(costs.sum(), now)
            cost = costs.detach()
            running = cost > 1 - p.posterior if step else torch.ones_like(active, dtype=torch.bool)
            if step > p.patience:
                running &= cost < highest[active]
            if step == p.steps or not running.any():
                break
            active, cost, now, gradient = active[running], cost[running], now.detach()[running], gradient[running]
            better = cost < best[active]
            best[active], best_x[active[better]] = torch.where(better, cost, best[active]), now[better]
            if step >= p.patience:
                highest[active] = torch.maximum(highest[active], cost)
            x[active] = now - RELEASED_RATE * gradient
        return best_x.clamp(0, 1)


def blurred(x: Tensor, deviation: float) -> Tensor:
    """Images (n, c, h, w) under a Gaussian blur of this standard deviation in pixels, cut at two of them; the border is repeated."""
    reach = max(1, round(2 * deviation))
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    weights = (-((at / deviation) ** 2) / 2).softmax(0).expand(x.shape[1], 1, 1, -1)
    padded = nn.functional.pad(x, (reach, reach, reach, reach), mode="replicate")
    rows = nn.functional.conv2d(padded, weights, groups=x.shape[1])
    return nn.functional.conv2d(rows, weights.transpose(2, 3), groups=x.shape[1])
