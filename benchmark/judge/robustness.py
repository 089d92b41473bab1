"""Accuracy when every pixel may move by up to a radius: under a PGD attack, and certified by interval bounds.

The attack is PGD in the L-infinity ball (Madry et al. 2018, section 2.1): 20 sign steps of an eighth of the radius from
a random start, so that steps can cross the ball and come back. A sample counts as robust where the network is correct
on the image and on the attacked image. With every attack this is an upper bound on the robust accuracy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.api import interval_bounds
from benchmark.networks.access import CHUNK

STEPS, REACH = 20, 2.5
"""PGD's number of steps, and the sum of their lengths in radii: 2.5 radius / 20 a step, as Madry et al. evaluate."""


def pgd(
    network: nn.Module, x: Tensor, y: Tensor, radius: float, generator: torch.Generator, steps: int = STEPS
) -> Tensor:
    """Images (n, c, h, w) in [0, 1], at most `radius` from x in every pixel, that make the labels y (n,) less likely.

    The network is in eval mode; the generator is on the CPU.
    """
    low, high = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    start = torch.rand(x.shape, generator=generator).to(x)
    image = low + (high - low) * start
    for _ in range(steps):
        image.requires_grad_()
        (gradient,) = torch.autograd.grad(_margin(network(image), y).sum(), image)
        image = (image.detach() - REACH * radius / steps * gradient.sign()).clamp(low, high)
    return image


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    """Log-odds (n,) of label y: z_y - log-sum-exp of the other logits.

    Sign steps down the margin are those up the cross-entropy. But where p_y rounds to 1 the gradient of the
    cross-entropy is 0, and the margin's is not, so that large logits cannot mask it.
    """
    index = y.unsqueeze(1)
    return logits.gather(1, index).squeeze(1) - logits.scatter(1, index, float("-inf")).logsumexp(1)


def robust(network: nn.Module, x: Tensor, y: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Whether each sample x (n, c, h, w), y (n,) is correct, and stays so under `pgd`: (n,) bool."""
    correct = []
    for xb, yb in _chunks(network, x, y):
        attacked = pgd(network, xb, yb, radius, generator)
        with torch.no_grad():
            labels = torch.stack([network(images).argmax(1) for images in (xb, attacked)])
        correct.append((labels == yb).all(0).cpu())
    return torch.cat(correct)


@torch.no_grad()
def certified(network: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Whether each sample provably has its label y (n,) on every image of the ball within [0, 1]: (n,) bool.

    It has where the lower bound of y's logit is above the upper bounds of all others. Raises ValueError where
    interval bounds do not know a layer of the network.
    """
    proven = []
    for xb, yb in _chunks(network, x, y):
        low, high = interval_bounds(network, (xb - radius).clamp(0, 1), (xb + radius).clamp(0, 1))
        index = yb.unsqueeze(1)
        proven.append((low.gather(1, index) > high.scatter(1, index, float("-inf"))).all(1).cpu())
    return torch.cat(proven)


def _chunks(network: nn.Module, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Batches of CHUNK samples, on the network's device."""
    device = next(network.parameters()).device
    return [(xb.to(device), yb.to(device)) for xb, yb in zip(x.split(CHUNK), y.split(CHUNK), strict=True)]
