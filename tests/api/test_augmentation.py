"""Augmentation: a loop over samples does the same, all crops come alike, and views belong to their image."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from benchmark.api.augmentation import crop_and_flip, views


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("shape", "pad"), [((5, 1, 8, 8), 1), ((4, 3, 9, 7), 2), ((3, 1, 4, 4), 0)])
def test_augmentation_against_a_loop_over_samples(shape: tuple[int, ...], pad: int, flip: bool) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 1  # no zeros but the padding's
    n, _, h, w = shape
    seen = crop_and_flip(x, {"pad": pad, "flip": flip}, torch.Generator().manual_seed(2))
    draws = torch.Generator().manual_seed(2)
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=draws)
    mirrored = torch.rand(n, generator=draws) < 0.5 if flip else torch.zeros(n, dtype=torch.bool)
    for i in range(n):
        padded = np.pad(x[i].numpy(), ((0, 0), (pad, pad), (pad, pad)))
        # A mirrored view is the mirror of the window, not the window of the mirror.
        crop = padded[:, dy[i] : dy[i] + h, dx[i] : dx[i] + w]
        assert np.array_equal(seen[i].numpy(), np.flip(crop, 2) if mirrored[i] else crop)


def test_augmentation_covers_all_crops_and_flips_evenly() -> None:
    x = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(4000, 1, 4, 4)
    made, counts = crop_and_flip(x, {"pad": 1, "flip": True}, torch.Generator().manual_seed(0)).unique(
        dim=0, return_counts=True
    )
    assert len(made) == 18, "9 crops, each also mirrored"
    assert ((counts - 4000 / 18) ** 2 / (4000 / 18)).sum() < 45, "chi-squared, 17 degrees of freedom, p > 0.0002"


@pytest.mark.parametrize("simple", [{"pad": 2, "flip": True}, {"pad": 1, "flip": False}, {"pad": 0, "flip": False}])
def test_views_against_a_loop_over_samples(simple: dict[str, int]) -> None:
    x = (torch.rand(6, 3, 5, 4, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    pad = simple["pad"]
    seen = views(x, simple, 4)
    assert seen.shape == (4, 6, 3, 5, 4)
    for i, image in enumerate(x.numpy()):
        stream = hashlib.shake_128((image * 255).round().astype(np.uint8).tobytes()).digest(48)
        for k in range(4):
            dy, dx, coin = (int.from_bytes(stream[12 * k + 4 * j :][:4], "little") for j in range(3))
            padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
            top, left = dy % (2 * pad + 1), dx % (2 * pad + 1)
            crop = padded[:, top : top + 5, left : left + 4]
            assert np.array_equal(seen[k, i].numpy(), np.flip(crop, 2) if simple["flip"] and coin % 2 else crop)


def test_views_depend_on_the_image_alone() -> None:
    simple = {"pad": 2, "flip": True}
    x = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    seen = views(x, simple, 5)
    rows = torch.randperm(20, generator=torch.Generator().manual_seed(2))[:7]
    assert torch.equal(views(x[rows], simple, 5), seen[:, rows])
    assert torch.equal(views(x, simple, 2), seen[:2]), "more views leave the first ones as they are"
    assert views(x, simple, 0).shape == (0, 20, 1, 6, 6)


def test_views_come_alike() -> None:
    """One crop and flip of 18 is as frequent as another, over images and over views."""
    told = torch.arange(1.0, 17).view(1, 4, 4).expand(4000, 1, 4, 4)
    x = torch.cat([told, torch.rand(4000, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 16], 1) / 16
    made = views(x, {"pad": 1, "flip": True}, 2)[:, :, 0]
    for view in made:
        counts = view.unique(dim=0, return_counts=True)[1]
        assert len(counts) == 18 and ((counts - 4000 / 18) ** 2 / (4000 / 18)).sum() < 45
    assert 0.02 < (made[0] == made[1]).flatten(1).all(1).double().mean() < 0.1, "views are independent"
