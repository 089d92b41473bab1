"""Dropout that depends on the network's seed: a network must never draw from the global random state in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """As `nn.Dropout`, with masks of its own random state: the same seed of the network gives the same masks.

    The buffer counts the masks that were drawn. Like every buffer, it keeps the network out of vectorised training.
    """

    draws: Tensor

    def __init__(self, p: float) -> None:
        """`p`: the share of values that are set to 0 in training, in [0, 1)."""
        super().__init__()
        self.p = p
        self.seed = int(torch.randint(2**62, (), device="cpu"))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError where gradients are taken sample by sample (DP-SGD), for a mask is drawn for a whole batch."""
        if not self.training or self.p == 0:
            return x
        state = torch.Generator(x.device).manual_seed(self.seed + int(self.draws))
        try:
            kept = torch.rand(x.shape, generator=state, device=x.device) >= self.p
            self.draws += 1
        except RuntimeError as problem:
            if "vmap" not in str(problem):
                raise
            raise ValueError(
                "dropout: expected a training by whole batches, given one sample by sample (as DP-SGD's); "
                "choose a network without dropout"
            ) from None
        return x * kept / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def seeded(network: nn.Module) -> nn.Module:
    """The network, with every `nn.Dropout` in it replaced by `Dropout`."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
    return network
