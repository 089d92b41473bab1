"""Adversarial confidence I_A (Song et al. 2019, section 3, equation 9): members stay confident where they are attacked.

The score is the served target's confidence in y at an adversarial image. The image is made on the network: untargeted
PGD, 20 sign steps of 2.5 epsilon / 20 from the image itself, as in the released evaluation. Epsilon is fixed for a data
set, for robust and natural targets alike (RULES 10): 0.1 for Fashion-MNIST, 8/255 for CIFAR-10 and Yale Face. The paper
sets the threshold that is best on the judged data; that is the judge's oracle column.
"""

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
    References,
    Search,
    Target,
    bfloat16,
    logit_margin,
)

STEPS = 20
BATCH = 500
"""Images attacked at once."""


class SongAdversarial(Attack):
    """Membership from the network, no auxiliary knowledge: log p_y at an adversarial image."""

    card = Card(
        title="Song I_A",
        authors=("Liwei Song", "Reza Shokri", "Prateek Mittal"),
        reference="Privacy Risks of Securing ML Models against Adversarial Examples, CCS 2019, arXiv:1905.10291",
        year=2019,
    )
    access = "white-box"
    needs = frozenset()
    calibrate = "shadow"

    class Params(Hyper):
        """The largest change of a pixel."""

        epsilon: Annotated[float, Field(gt=0, le=1), Search(0.01, 0.3, log=True)] = 0.1

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device."""
        self.device = knowledge.device

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log p_y (n,) at the adversarial images."""
        network = target.white_box().to(self.device).eval()
        batches = zip(candidates.x.split(BATCH), candidates.y.split(BATCH), strict=True)
        x = torch.cat(
            [pgd(network, x.to(self.device), y.to(self.device), self.params.epsilon).cpu() for x, y in batches]
        )
        return functional.logsigmoid(logit_margin(target.log_posteriors(x), candidates.y))


def pgd(network: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Images (n, c, h, w) in [0, 1], at most epsilon from x in every pixel, on which y (n,) loses confidence.

    The search runs in bfloat16, which takes half the time: only signs of gradients count. Answers are in float32.
    """
    image = x
    for _ in range(STEPS):
        image = image.detach().requires_grad_()
        # The cross-entropy falls as the margin grows, so the signs of their gradients are opposite and the steps the
        # same. Where p_y rounds to 1, the gradient of the cross-entropy is 0 and that of the margin is not.
        with bfloat16(x.device):
            logits = network(image)
        (gradient,) = torch.autograd.grad(logit_margin(logits.float(), y).sum(), image)
        image = (image - 2.5 * epsilon / STEPS * gradient.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
    return image.detach()
