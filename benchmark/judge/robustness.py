"""How much accuracy a network keeps when every pixel may move: under attack, and as interval bounds prove it.

The attack is PGD in the L-infinity ball (Madry et al. 2018, section 2.1): 20 sign steps of an eighth of the radius from
a random start, so that a step can cross the ball and come back. A sample counts as robust where the network is right
on the image itself and on what the attack makes of it: an upper bound, as with every attack.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.api import interval_bounds
from benchmark.networks.access import CHUNK

STEPS, REACH = 20, 2.5
"""PGD's steps, and the way that they can go in all, in radii: 2.5 radius / 20 a step, as Madry et al. evaluate."""


def pgd(
    network: nn.Module, x: Tensor, y: Tensor, radius: float, generator: torch.Generator, steps: int = STEPS
) -> Tensor:
    """Images (n, c, h, w) in [0, 1], at most `radius` from x in every pixel, on which y (n,) is less likely.

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
    """z_y - log-sum-exp of the other logits, (n,): the cross-entropy has the same sign steps, or none.

    Its gradient is 0 where p_y rounds to 1, as the margin's never is: sure or scaled logits hide nothing.
    """
    index = y.unsqueeze(1)
    return logits.gather(1, index).squeeze(1) - logits.scatter(1, index, float("-inf")).logsumexp(1)


def robust(network: nn.Module, x: Tensor, y: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Which samples x (n, c, h, w), y (n,) stay right under `pgd`, which attacks 500 at a time: (n,) bool."""
    right = []
    for xb, yb in _chunks(network, x, y):
        attacked = pgd(network, xb, yb, radius, generator)
        with torch.no_grad():
            answers = torch.stack([network(images).argmax(1) for images in (xb, attacked)])
        right.append((answers == yb).all(0).cpu())
    return torch.cat(right)


@torch.no_grad()
def certified(network: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Which samples keep their label y (n,) on every image of the ball within [0, 1], provably: (n,) bool.

    Those where the lower bound of y's logit is above the upper bounds of all others. Raises ValueError where
    interval bounds do not know a layer of the network.
    """
    proven = []
    for xb, yb in _chunks(network, x, y):
        low, high = interval_bounds(network, (xb - radius).clamp(0, 1), (xb + radius).clamp(0, 1))
        index = yb.unsqueeze(1)
        proven.append((low.gather(1, index) > high.scatter(1, index, float("-inf"))).all(1).cpu())
    return torch.cat(proven)


def _chunks(network: nn.Module, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Batches where the network's weights lie."""
    device = next(network.parameters()).device
    return [(xb.to(device), yb.to(device)) for xb, yb in zip(x.split(CHUNK), y.split(CHUNK), strict=True)]
