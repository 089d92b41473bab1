"""Augmentation: simple (a crop after zero padding, and a flip where the data set allows one) and RandAugment.

Training draws from a generator. For an attack that looks at augmented views the draw is a hash of the image, so that a
sample's views depend on nothing but the sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def augment(x: Tensor, kind: str, simple: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """A batch (n, c, h, w) under the recipe's augmentation: "none", "simple" or "randaug"."""
    if kind == "simple":
        return crop_and_flip(x, simple, generator)
    return randaug(x, generator) if kind == "randaug" else x


def crop_and_flip(x: Tensor, simple: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """The simple augmentation of He et al. 2022 on a batch (n, c, h, w): every sample gets its own crop and flip.

    `simple` is the data set's {"pad": pixels, "flip": bool}.
    """
    n, pad = len(x), simple["pad"]
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
    flipped = torch.rand(n, generator=generator) < 0.5 if simple["flip"] else torch.zeros(n, dtype=torch.bool)
    return _crop(x, pad, dy, dx, flipped)


def views(x: Tensor, simple: Mapping[str, Any], count: int) -> Tensor:
    """`count` views (count, n, c, h, w) of images (n, c, h, w) under simple augmentation, a pure function of each image."""
    pad = simple["pad"]
    pixels = (x.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).flatten(1).numpy()
    stream = b"".join(hashlib.shake_128(p.tobytes()).digest(12 * count) for p in pixels)
    words = torch.from_numpy(np.frombuffer(stream, "<u4").astype(np.int64)).view(len(x), count, 3)
    cropped = []
    for word in words.unbind(1):
        flipped = word[:, 2] % 2 == 1 if simple["flip"] else torch.zeros(len(x), dtype=torch.bool)
        cropped.append(_crop(x, pad, word[:, 0] % (2 * pad + 1), word[:, 1] % (2 * pad + 1), flipped))
    return torch.stack(cropped) if cropped else x.new_zeros(0, *x.shape)


def _crop(x: Tensor, pad: int, dy: Tensor, dx: Tensor, flipped: Tensor) -> Tensor:
    """Sample i of x (n, c, h, w), mirrored where flipped[i], cropped at row dy[i] and column dx[i] of the padded image."""
    n, _, h, w = x.shape
    columns = torch.arange(w).expand(n, w)
    columns = torch.where(flipped.unsqueeze(1), columns.flip(1), columns) + dx.unsqueeze(1)
    rows = torch.arange(h) + dy.unsqueeze(1)
    rows, columns = rows.to(x.device), columns.to(x.device)
    padded = nn.functional.pad(x, (pad, pad, pad, pad))
    sample = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


# --- RandAugment ------------------------------------------------------------------------------------

_OPERATIONS = 14
_SIGNED = 9
"""The first operations, whose magnitude has a random sign."""
_STRENGTH = 10 / 30
"""M = 10 on torchvision's scale of 0 to 30, as a share of the largest magnitude."""


def randaug(x: Tensor, generator: torch.Generator, operations: int = 2) -> Tensor:
    """RandAugment (Cubuk et al. 2020) with M = 10 on images (n, c, h, w) in [0, 1]: torchvision's operations, a batch at once.

    Every image draws `operations` operations and their signs; images that drew the same are changed together. Pixels are
    rounded to 8 bits, as torchvision's are.
    """
    pixels = (x * 255).round().clamp(0, 255).to(torch.uint8)
    for _ in range(operations):
        drawn = torch.randint(_OPERATIONS, (len(x),), generator=generator)
        negative = torch.rand(len(x), generator=generator) < 0.5
        choice = torch.where(negative & (drawn < _SIGNED), drawn + _OPERATIONS, drawn)
        changed = pixels.clone()
        for number in choice.unique().tolist():
            rows = (choice == number).nonzero().squeeze(1).to(x.device)
            changed[rows] = _operate(pixels[rows], number % _OPERATIONS, -1 if number >= _OPERATIONS else 1)
        pixels = changed
    return pixels.to(x.dtype) / 255


def _operate(x: Tensor, number: int, sign: int) -> Tensor:
    """Operation `number` of torchvision's list, at its fixed magnitude, on 8-bit images (n, c, h, w)."""
    from torchvision.transforms import functional as vision  # slow to import, and most recipes don't need it

    height, width = x.shape[-2:]
    magnitude = sign * _STRENGTH

    def sheared(degrees_x: float, degrees_y: float) -> Any:
        return vision.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=[degrees_x, degrees_y], center=[0, 0])

    def moved(right: int, down: int) -> Any:
        return vision.affine(x, angle=0.0, translate=[right, down], scale=1.0, shear=[0.0, 0.0])

    changed: Tensor
    match number:
        case 0:
            changed = sheared(math.degrees(math.atan(0.3 * magnitude)), 0.0)
        case 1:
            changed = sheared(0.0, math.degrees(math.atan(0.3 * magnitude)))
        case 2:
            changed = moved(int(150 / 331 * width * magnitude), 0)
        case 3:
            changed = moved(0, int(150 / 331 * height * magnitude))
        case 4:
            changed = vision.rotate(x, 30 * magnitude)
        case 5:
            changed = vision.adjust_brightness(x, 1 + 0.9 * magnitude)
        case 6:
            changed = vision.adjust_saturation(x, 1 + 0.9 * magnitude)
        case 7:
            changed = vision.adjust_contrast(x, 1 + 0.9 * magnitude)
        case 8:
            changed = vision.adjust_sharpness(x, 1 + 0.9 * magnitude)
        case 9:
            changed = vision.posterize(x, 8 - round(_STRENGTH * 4))
        case 10:
            changed = vision.solarize(x, 255 * (1 - _STRENGTH))
        case 11:
            changed = vision.autocontrast(x)
        case 12:
            changed = equalize(x)
        case _:
            changed = x
    return changed


def equalize(x: Tensor) -> Tensor:
    """torchvision's `equalize` on 8-bit images (n, c, h, w), each channel of each image by a table of its own, all at once."""
    n, c, h, w = x.shape
    pixels = x.reshape(n * c, h * w).long()
    counts = torch.zeros(n * c, 256, dtype=torch.int64, device=x.device).scatter_add_(
        1, pixels, torch.ones_like(pixels)
    )
    brightest = counts.gather(1, pixels.amax(1, keepdim=True))
    step = (h * w - brightest) // 255
    safe = step.clamp_min(1)
    darker = counts.cumsum(1) - counts  # how many pixels are darker than each level
    levels = torch.where(step > 0, ((darker + safe // 2) // safe).clamp_max(255), torch.arange(256, device=x.device))
    return levels.gather(1, pixels).to(torch.uint8).view(n, c, h, w)
