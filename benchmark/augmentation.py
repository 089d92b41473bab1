"""Simple augmentation: a crop after zero padding, and a flip where the data set allows one.

Training draws it from a generator; an attack that looks at augmented views draws it from the image
itself, so that a sample's views depend on nothing but the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def augment(x: Tensor, simple: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """He et al.'s simple augmentation of a batch (n, c, h, w): every sample gets its own crop and flip.

    `simple` is the data set's {"pad": pixels, "flip": bool}.
    """
    n, pad = len(x), simple["pad"]
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
    flipped = torch.rand(n, generator=generator) < 0.5 if simple["flip"] else torch.zeros(n, dtype=torch.bool)
    return _crop(x, pad, dy, dx, flipped)


def views(x: Tensor, simple: Mapping[str, Any], count: int) -> Tensor:
    """`count` simply augmented views (count, n, c, h, w) of images (n, c, h, w), a pure function of each image."""
    pad = simple["pad"]
    pixels = (x.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).flatten(1).numpy()
    stream = b"".join(hashlib.shake_128(p.tobytes()).digest(12 * count) for p in pixels)
    words = torch.from_numpy(np.frombuffer(stream, "<u4").astype(np.int64)).view(len(x), count, 3)
    made = []
    for word in words.unbind(1):
        flipped = word[:, 2] % 2 == 1 if simple["flip"] else torch.zeros(len(x), dtype=torch.bool)
        made.append(_crop(x, pad, word[:, 0] % (2 * pad + 1), word[:, 1] % (2 * pad + 1), flipped))
    return torch.stack(made) if made else x.new_zeros(0, *x.shape)


def _crop(x: Tensor, pad: int, dy: Tensor, dx: Tensor, flipped: Tensor) -> Tensor:
    """Sample i of x (n, c, h, w), flipped where it says so, from row dy[i] and column dx[i] of its padded image."""
    n, _, h, w = x.shape
    columns = torch.arange(w).expand(n, w)
    columns = torch.where(flipped.unsqueeze(1), columns.flip(1), columns) + dx.unsqueeze(1)
    rows = torch.arange(h) + dy.unsqueeze(1)
    rows, columns = rows.to(x.device), columns.to(x.device)
    padded = nn.functional.pad(x, (pad, pad, pad, pad))
    sample = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
