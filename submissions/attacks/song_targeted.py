"""Targeted adversarial predictions I_T (Song et al. 2019, section 5.2).

One targeted PGD for each wrong label, at the data set's epsilon (RULES 10). A network for each class reads the target's
posteriors at these images, one after the other (200-20-2). It is learnt from 500 known members and 500 known
non-members of the class. With fewer than 200 known samples of some class, one network learns all classes, with the
class as one more input. Not verified against the paper's text or code.

`labels` limits the targeted attacks to the wrong labels that follow y: all nine of ten classes by default, 37 for all
of Yale Face's. The paper's controls learn the same network on the answer to the image itself (`images=benign`) or to
one untargeted attack (`images=untargeted`). `rule=mean` scores by the mean confidence in y at these images instead,
with the best threshold on the known samples.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    Perceptron,
    References,
    Samples,
    Search,
    Target,
    best_thresholds,
    bfloat16,
    logit_margin,
)

STEPS = 20
BATCH = 500
"""Images attacked at once."""
ENOUGH = 200
"""Known samples of a class that suffice for a network of its own."""


class SongTargeted(Attack):
    """Membership from the answers to targeted adversarial images, learnt on known samples of the target."""

    card = Card(
        title="Song I_T",
        authors=("Liwei Song", "Reza Shokri", "Prateek Mittal"),
        reference="Privacy Risks of Securing ML Models against Adversarial Examples, CCS 2019, arXiv:1905.10291",
        year=2019,
    )
    access = "white-box"
    needs = frozenset({"partial"})
    calibrate = "own"

    class Params(Hyper):
        """How answers become a score, which images, how many wrong labels, the largest change of a pixel, training."""

        rule: Literal["network", "mean"] = "network"
        images: Literal["targeted", "untargeted", "benign"] = "targeted"
        labels: Annotated[int, Field(ge=1)] = 9
        epsilon: Annotated[float, Field(gt=0, le=1), Search(0.01, 0.3, log=True)] = 0.1
        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 100
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1e-1, log=True)] = 1e-2

    def fit(self, knowledge: Knowledge) -> None:
        """Learn the networks, or the threshold, on known samples of the target."""
        world = knowledge.partial
        assert world is not None
        self.classes, self.device = knowledge.classes, knowledge.device
        answers = torch.cat([self._answers(world.target, part) for part in (world.members, world.nonmembers)])
        y = torch.cat([world.members.y, world.nonmembers.y])
        member = torch.arange(len(y)) < len(world.members)
        if self.params.rule == "mean":
            self.threshold = best_thresholds(mean_confidence(answers, y), y, member, self.classes)[-1]
            return
        self.own = int(y.bincount(minlength=self.classes).min()) >= ENOUGH
        generator = knowledge.generator("song_targeted")
        x = self._features(answers, y)
        self.networks = [
            Perceptron(x.shape[1], (200, 20), 2, generator=generator).fit(
                x[rows], member[rows].long(), epochs=self.params.epochs, learning_rate=self.params.learning_rate
            )
            for rows in self._groups(y)
        ]

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Log-odds of membership (3, n), or the mean confidence beyond the threshold (n,), on a logarithmic scale."""
        y = candidates.y
        answers = self._answers(target, Samples(candidates.x, y))
        if self.params.rule == "mean":
            return mean_confidence(answers, y) - self.threshold
        x = self._features(answers, y)
        scores = torch.zeros(self.networks[0].seeds, len(y), dtype=torch.float64)
        for network, rows in zip(self.networks, self._groups(y), strict=True):
            answer = network.log_posteriors(x[rows])
            scores[:, rows] = answer[..., 1] - answer[..., 0]
        return scores

    def _answers(self, target: Target, samples: Samples) -> Tensor:
        """Log-posteriors (n, labels, k) float64 at an image for each wrong label, in rising order; else (n, 1, k)."""
        if self.params.images == "benign":
            return target.log_posteriors(samples.x).unsqueeze(1)
        network = target.white_box().to(self.device).eval()
        x, y = samples.x, samples.y.unsqueeze(1)
        if self.params.images == "targeted":
            count = min(self.params.labels, self.classes - 1)
            towards, sign = ((y + 1 + torch.arange(count)) % self.classes).sort(1).values, 1
        else:
            towards, sign, count = y, -1, 1
        answers = []
        for part, labels in zip(x.split(max(1, BATCH // count)), towards.split(max(1, BATCH // count)), strict=True):
            copies = part.repeat_interleave(count, 0).to(self.device)
            images = pgd(network, copies, labels.flatten().to(self.device), self.params.epsilon, sign)
            answers.append(target.log_posteriors(images.cpu()).view(len(part), count, self.classes))
        return torch.cat(answers)

    def _features(self, answers: Tensor, y: Tensor) -> Tensor:
        x = answers.exp().flatten(1)
        return x if self.own else torch.cat([x, functional.one_hot(y, self.classes).to(x)], 1)

    def _groups(self, y: Tensor) -> list[Tensor]:
        """The rows of y (n,) that each network learns or scores."""
        return (
            [(y == label).nonzero().squeeze(1) for label in range(self.classes)] if self.own else [torch.arange(len(y))]
        )


def pgd(network: nn.Module, x: Tensor, y: Tensor, epsilon: float, sign: int) -> Tensor:
    """Images (n, c, h, w) in [0, 1], at most epsilon from x in every pixel; sign 1 raises p_y, -1 lowers it.

    The search runs in bfloat16, which takes half the time: only signs of gradients count. Answers are in float32.
    """
    image = x
    for _ in range(STEPS):
        image = image.detach().requires_grad_()
        # The margin gives the same sign steps as the cross-entropy, and they do not vanish near 1.
        with bfloat16(x.device):
            logits = network(image)
        (gradient,) = torch.autograd.grad(logit_margin(logits.float(), y).sum(), image)
        image = (image + sign * 2.5 * epsilon / STEPS * gradient.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
    return image.detach()


def mean_confidence(answers: Tensor, y: Tensor) -> Tensor:
    """-log(1 - mean p_y) (n,) of log-posteriors (n, m, k): it grows with the mean, and keeps its digits near 1."""
    doubt = functional.logsigmoid(-logit_margin(answers.transpose(0, 1), y))
    return math.log(len(doubt)) - doubt.logsumexp(0)
