"""Names of points in a scatter plot: a few, each beside its point, none over another or over a point. Pure functions.

Where a plot stretches with its page, positions across are known as shares of its width alone. Names are placed for
the narrowest plot; where it is wider, all that is apart there moves further apart, for a name keeps its width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

WIDTH = 230
"""The narrowest plot in pixels: on a page of 400 pixels, beside its axis."""
HEIGHT, LETTER = 15, 6.9
"""Pixels of a name: its height, and the width of a letter, which is that of wide ones; at a font size of 12."""
NEAR, MARK = 6, 6
"""Pixels from a point to its name, and half the width of its mark."""
MOST = 8
"""Most names in a plot."""


class Box(NamedTuple):
    """Left, top, right and bottom edge in pixels, from the left and from the top."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Label(NamedTuple):
    """Which point has a name, on which side, and the box that it takes in the narrowest plot."""

    point: int
    side: str
    box: Box


class Side(NamedTuple):
    """How a name is drawn: Vega's align, and its middle's distance from the point in pixels."""

    align: str
    dx: float
    dy: float


SIDES = {
    "right, above": Side("left", NEAR, -NEAR - 1),
    "left, above": Side("right", -NEAR, -NEAR - 1),
    "right, below": Side("left", NEAR, NEAR + 1),
    "left, below": Side("right", -NEAR, NEAR + 1),
}
"""Aslant, so that no name stands on the bars of its own point."""


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[tuple[int, str]],
    height: float,
    taken: Iterable[Box] = (),
    width: float = WIDTH,
) -> list[Label]:
    """Names for some of the points, at most MOST.

    points: all that are drawn, each as share of the width from the left and pixels from the top. names: which points may
    have a name, and that name, the most important first. height: of the plot in pixels. taken: boxes of other texts, such as the
    names of lines. A name that fits on no side is left out, but the first may lie on marks: it is looked for most.
    """  # fmt: skip
    marks = [Box(x * width - MARK, y - MARK, x * width + MARK, y + MARK) for x, y in points]
    full, placed = list(taken), list[Label]()
    for point, name in names:
        if len(placed) == MOST:
            break
        x, y = points[point]
        others = [mark for i, mark in enumerate(marks) if i != point]
        free = []
        for side in SIDES:
            box = box_of(x * width, y, name, side)
            inside = box.left >= 0 and box.right <= width and box.top >= 0 and box.bottom <= height
            if inside and not any(box.meets(other) for other in full):
                free.append((sum(box.meets(mark) for mark in others), Label(point, side, box)))
        met, label = min(free, key=lambda pair: pair[0], default=(1, None))
        if label and (not met or point == names[0][0]):
            placed.append(label)
            full.append(label.box)
    return placed


def box_of(x: float, y: float, name: str, side: str) -> Box:
    """The box of a name on a side of the point (x, y) in pixels."""
    align, dx, dy = SIDES[side]
    length = LETTER * len(name)
    left = x + dx - {"left": 0.0, "right": length, "center": length / 2}[align]
    return Box(left, y + dy - HEIGHT / 2, left + length, y + dy + HEIGHT / 2)
