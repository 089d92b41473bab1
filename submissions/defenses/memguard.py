"""MemGuard: noise on the answers that leaves a membership classifier undecided, within a budget of distortion.

Source: Jia et al. 2019, sections 4.2 (phase I, algorithm 1) and 4.3 (phase II); constants of the released code
(METHODS C7). Phase I moves the sorted logits until the defender's classifier g changes sides while the label
stays; phase II returns them with the probability that keeps the expected L1 distortion of the posteriors within
the budget, by one draw that is fixed for a query.

g judges the noisy answer sorted anew, as an adversary's classifier does: noise changes the order of four answers in
ten. The released code keeps the order of the clean answer, so that a third of what it returns still lies on g's old
side; `as_released` does the same.

Differences: all samples move at once, each until it is done, and the weight of distortion stops rising once the
distortion is below 0.01. g is the paper's 256-128-64-1 network on log-posteriors, because posteriors saturate and
leave it neither signal nor gradient; Adam trains it for 40 epochs in batches of 256 (SGD 1e-3, 400 epochs, 64 there)
with equal weight on both sides. The released evaluation reports the expectation over phase II and its ports skip it;
here the draw is made, as in the paper.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search, Training

LABEL_WEIGHT = 10.0
DISTORTION_WEIGHTS = (0.1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
NEGLIGIBLE = 0.01
"""L1 distortion at which the search stops raising the weight."""
STEP = 0.1
ITERATIONS = 300
CHUNK = 2048
FLOOR = -50.0
"""Lower bound of log-posteriors: a posterior of exactly 0 has no gradient that could move it."""


class MemGuard(Defense):
    """Posteriors are replaced, sample by sample, by adversarial examples against a membership classifier."""

    card = Card(
        title="MemGuard",
        authors=("Jia", "Salem", "Backes", "Zhang", "Gong"),
        reference="MemGuard: Defending against Black-Box Membership Inference Attacks via Adversarial Examples, CCS 2019",
        year=2019,
    )
    stages = ("post-inference",)
    uses = frozenset({"reference"})
    keeps_labels = True

    class Params(Hyper):
        """`budget` bounds the expected L1 distance, in [0, 2], between returned and true posteriors.

        as_released: g judges the noise in the order of the clean answer, not in that of the noisy one.
        """

        budget: Annotated[float, Field(ge=0, le=2), Search(0.1, 1)] = 1.0
        as_released: bool = False

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        """Train g on members (`training.train`) against non-members (`training.reference`); its weights, float64."""
        sides = [
            _in_chunks(predict, part.x).clamp_min(FLOOR).sort(1).values.cpu()
            for part in (training.train, training.reference)
        ]
        return train_classifier(sides[0], sides[1], training.generator("memguard"))

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """The predictor whose log-posteriors (n, k) float64 carry the noise. Labels never change."""

        def guarded(x: Tensor) -> Tensor:
            clean = predict(x)
            noisy = torch.cat([add_noise(part, state, self.params.as_released) for part in clean.split(CHUNK)])
            distance = (noisy.exp() - clean.exp()).abs().sum(1)
            chosen = context.uniform("memguard", x, 1).squeeze(1).to(clean.device) * distance < self.params.budget
            # Two nearly equal posteriors can change places in rounding, and a label must not change at all.
            chosen &= (noisy.argmax(1) == clean.argmax(1)) & (distance > 0)
            return torch.where(chosen.unsqueeze(1), noisy, clean)

        return guarded


def train_classifier(members: Tensor, nonmembers: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Train g on ascending log-posteriors (n, k) of both sides; its weights, biases and input scaling, float64."""
    x = torch.cat([members, nonmembers])
    state = {"mean": x.mean(0).float(), "scale": x.std(0).clamp_min(1e-3).float()}
    x = x.float()
    y = torch.cat([torch.ones(len(members)), torch.zeros(len(nonmembers))])
    weight = torch.where(y > 0, 0.5 / len(members), 0.5 / len(nonmembers)) * len(y)
    weights = []
    for i, (before, after) in enumerate(pairwise((x.shape[1], 256, 128, 64, 1))):
        bound = before**-0.5  # PyTorch's own initialisation of a linear layer
        state[f"weight{i}"] = torch.empty(after, before).uniform_(-bound, bound, generator=generator)
        state[f"bias{i}"] = torch.empty(after).uniform_(-bound, bound, generator=generator)
        weights += [state[f"weight{i}"].requires_grad_(), state[f"bias{i}"].requires_grad_()]
    optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True)
    with torch.enable_grad():
        for _ in range(40):
            for part in torch.randperm(len(y), generator=generator).split(256):
                logits = membership_logit(x[part], state)
                cost = nn.functional.binary_cross_entropy_with_logits(logits, y[part], weight[part])
                optimizer.zero_grad()
                cost.backward()
                optimizer.step()
    return {name: w.detach().double() for name, w in state.items()}


def membership_logit(log_posteriors: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Logits (n,) of g, above 0 for "member", of ascending log-posteriors (n, k)."""
    hidden = (log_posteriors - state["mean"]) / state["scale"]
    for i in range(4):
        hidden = nn.functional.linear(hidden if i == 0 else hidden.relu(), state[f"weight{i}"], state[f"bias{i}"])
    return hidden.squeeze(1)


def logit_and_slope(log_posteriors: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """`membership_logit` (n,) and its gradient in the log-posteriors (n, k).

    The gradient is written out: autograd's overhead was a quarter of the search. Activations are (width, n), for which
    products are fastest.
    """
    weights, active = [state[f"weight{i}"] for i in range(4)], []
    hidden = ((log_posteriors - state["mean"]) / state["scale"]).t()
    for i in range(3):
        hidden = torch.addmm(state[f"bias{i}"].unsqueeze(1), weights[i], hidden).relu_()
        active.append(hidden)
    logit = weights[3][0] @ hidden + state["bias3"]
    slope = weights[3].t().expand_as(hidden)
    for i in (2, 1, 0):
        slope = weights[i].t() @ torch.ops.aten.threshold_backward(slope, active[i], 0)  # of a ReLU
    return logit, slope.t() / state["scale"]


def logit_as_seen(log_posteriors: Tensor, state: dict[str, Tensor], as_released: bool) -> tuple[Tensor, Tensor]:
    """`logit_and_slope` of log-posteriors (n, k) in the clean answer's order; g sorts them anew unless as_released."""
    if as_released:
        return logit_and_slope(log_posteriors, state)
    ordered, at = log_posteriors.sort(1)
    logit, slope = logit_and_slope(ordered, state)
    return logit, torch.empty_like(slope).scatter_(1, at, slope)


def add_noise(clean: Tensor, state: dict[str, Tensor], as_released: bool = False) -> Tensor:
    """Phase I on log-posteriors (n, k) float64: the noisy ones, or the clean ones where no noise is found.

    The weight of distortion rises tenfold until the search first fails; the last success counts. Rows are moved
    independently, so that the batch makes no difference.
    """
    state = {name: w.to(clean) for name, w in state.items()}
    # Log-posteriors are logits up to a constant; an exact zero would have no gradient to move it.
    start, order = clean.clamp_min(FLOOR).sort(1)
    side = membership_logit(start, state)
    noisy = _search(start, side, state, as_released).log_softmax(1)
    # Noise counts only where it brings g closer to 1/2 (eq. 17).
    better = logit_as_seen(noisy, state, as_released)[0].abs() < side.abs()
    found = torch.where(better.unsqueeze(1), noisy, start)
    return torch.where(better.unsqueeze(1), torch.empty_like(clean).scatter_(1, order, found), clean)


def _search(start: Tensor, side: Tensor, state: dict[str, Tensor], as_released: bool) -> Tensor:
    """Gradient descent from sorted logits (n, k) until g changes sides and the label is kept, under each weight in
    turn.

    A row that succeeds starts anew under the next weight at once, and rows that are done leave the batch. So the number
    of steps is that of the slowest row, and each step costs what the rows left in the batch cost.
    """
    result, weights = start.clone(), start.new_tensor(DISTORTION_WEIGHTS)
    rows = (side.sigmoid() - 0.5).abs().gt(1e-5).nonzero().squeeze(1)
    first, sign = start[rows], side[rows].sign()
    # The same operations as below: the L1 norm has slope 0 at the start, not the sign of a rounding error.
    clean, logits = first.log_softmax(1).exp(), first
    level, steps = torch.zeros_like(rows), torch.zeros_like(rows)
    while len(rows):
        log_posteriors = logits.log_softmax(1)
        posteriors = log_posteriors.exp()
        g, slope = logit_as_seen(log_posteriors, state, as_released)
        change = posteriors - clean
        apart = change.abs().sum(1)
        top, runner_up = logits[:, :-1].max(1)
        gap = (top - logits[:, -1]).relu()
        # The slope of |g| + LABEL_WEIGHT gap + weight |change|, in the log-posteriors and then in the logits.
        slope = g.sign().unsqueeze(1) * slope + weights[level].unsqueeze(1) * change.sign() * posteriors
        gradient = slope - posteriors * slope.sum(1, keepdim=True)
        push = LABEL_WEIGHT * (gap > 0).to(gradient)
        gradient.scatter_add_(1, runner_up.unsqueeze(1), push.unsqueeze(1))
        gradient[:, -1] -= push
        crossed = (g * sign <= 0) & (gap <= 0)
        ended = steps == ITERATIONS
        moved = logits - STEP * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-300)
        steps = steps + 1
        if crossed.any():
            result[rows[crossed]] = logits[crossed]
            moved = torch.where(crossed.unsqueeze(1), first, moved)
            steps = steps.masked_fill(crossed, 0)
            level = level + crossed
            ended = (ended & ~crossed) | (crossed & ((apart <= NEGLIGIBLE) | (level == len(weights))))
        logits = moved
        if ended.any():
            going = ~ended
            rows, first, sign, clean, logits, level, steps = (
                each[going] for each in (rows, first, sign, clean, logits, level, steps)
            )
    return result


def _in_chunks(predict: Predict, x: Tensor) -> Tensor:
    return torch.cat([predict(part) for part in x.split(CHUNK)])
