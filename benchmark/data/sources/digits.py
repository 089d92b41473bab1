"""The 1,797 handwritten digits (8x8 pixels) that come with scikit-learn: no download, and minutes to score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.data.dataset import Data, make
from benchmark.data.source import Item, Source

source = Source(
    title="Handwritten digits of scikit-learn",
    terms="CC BY 4.0 (UCI Machine Learning Repository)",
    get="nothing to get: the digits come with scikit-learn",
    views={"8": (1, 8, 8)},
    classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    simple={"pad": 1, "flip": False},
    installed=True,
)


def read(folder: Path | None) -> Iterator[Item]:
    """The digits; the folder is not looked at."""
    data = load()
    for image, label in zip(data.x[:, 0].numpy(), data.y.tolist(), strict=True):
        yield Item(image, label)


def load() -> Data:
    """The digits with grey levels 0 to 16 scaled to 0 to 255. Simple augmentation does not flip: a mirrored 2 is no 2."""
    from sklearn.datasets import load_digits  # slow to import

    levels, y = load_digits(return_X_y=True)
    x = np.round(levels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return make("digits", x, y.astype(np.int64), {"pad": 1, "flip": False})
