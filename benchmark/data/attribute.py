"""The attribute that is inferred where a protocol names none: is the shape in the image thicker than the median of its class?

It is defined within each class, so that neither the majority nor the class label helps a guess: both are right half of
the time (RULES 7).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def thickness(x: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean thickness in pixels (n,) of the shapes in grey images x (n, c, h, w): 2 * area / perimeter.

    Area is the sum of the grey values. Perimeter is their total variation: the absolute differences of horizontal and
    vertical neighbours, pixels outside being 0. Both are means over the shapes that all grey levels give as thresholds. A
    bar of width w and length l >> w has area w * l and perimeter 2 * l: thickness w. An empty image has thickness 0. All but
    the last division is in integers, so that the result is the same on every machine.
    """
    area = x.sum((1, 2, 3), dtype=np.int64)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.int16)
    rows, columns = (np.abs(np.diff(padded, axis=axis)).sum((1, 2, 3), dtype=np.int64) for axis in (2, 3))
    mean: NDArray[np.float64] = 2 * area / np.maximum(rows + columns, 1)
    return mean


def above_class_median(value: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """1 for the upper half of the values (n,) within each class of y (n,), else 0; (n,) int64.

    Equal values are ordered by position, so each class is halved exactly; the middle sample of an odd
    class gets 0.
    """
    order = np.lexsort((value, y))  # by class, then by value; stable
    counts = np.bincount(y)
    rank = np.empty(len(y), np.int64)
    rank[order] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    return (2 * rank >= counts[y]).astype(np.int64)
