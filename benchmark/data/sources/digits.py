"""The 1,797 handwritten digits (8x8 pixels) that come with scikit-learn: no download, and minutes to score."""

from __future__ import annotations

import numpy as np

from benchmark.data.dataset import Data, make


def load() -> Data:
    """The digits with grey levels 0 to 16 scaled to 0 to 255. Simple augmentation does not flip: a mirrored 2 is no 2."""
    from sklearn.datasets import load_digits  # slow to import

    levels, y = load_digits(return_X_y=True)
    x = np.round(levels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return make("digits", x, y.astype(np.int64), {"pad": 1, "flip": False})


SOURCES = {"digits": load}
