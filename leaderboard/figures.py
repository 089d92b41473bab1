"""Figures for paired differences (a forest plot) and for reconstructed images."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

FIRST, SECOND, NEUTRAL = "#d55e00", "#3a8fcf", "#8a8f98"
"""Vermilion, blue and grey of Okabe and Ito's palette; contrast of at least 3 to 1 on white and dark pages."""

GAP = (58, 143, 207)
"""The colour between images."""

ROW = 34
"""Height of a row of a forest plot in pixels. The name stands above the interval, which fits narrow pages."""


def forest(rows: pd.DataFrame, title: str) -> alt.LayerChart:
    """A forest plot: a point and its 95 % interval for each comparison; the dashed line is no difference.

    rows: `name`, `difference`, `low`, `high`, `side` ("first", "second" or "neither": which one the interval favours)
    and `verdict`; drawn from top to bottom as they come.
    """
    data = rows[["name", "difference", "low", "high", "side", "verdict"]]
    sides = alt.Scale(domain=["first", "second", "neither"], range=[FIRST, SECOND, NEUTRAL])
    color = alt.Color("side:N", scale=sides, legend=None)
    # Names are axis labels, whose colour follows the theme, placed inside the plot above their interval.
    names = alt.Axis(
        title=None, domain=False, ticks=False, labelAlign="left", labelBaseline="bottom", labelOffset=-6, labelPadding=0,
        labelLimit=340, labelFontSize=12,
    )  # fmt: skip
    y = alt.Y("name:N", sort=None, axis=names, scale=alt.Scale(paddingInner=0.5, paddingOuter=0.6))
    ticks = alt.Axis(format="+.3~f", tickCount=5)
    x = alt.X("difference:Q", title=title, axis=ticks, scale=alt.Scale(zero=True, padding=10))
    tooltip = [
        alt.Tooltip("name:N"),
        *(alt.Tooltip(f"{c}:Q", format="+.4f") for c in ("difference", "low", "high")),
        alt.Tooltip("verdict:N"),
    ]
    base = alt.Chart(data)
    layers = [
        alt.Chart(pd.DataFrame({"none": [0.0]})).mark_rule(color=NEUTRAL, strokeDash=[6, 4]).encode(x="none:Q"),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y, color=color),
        base.mark_circle(size=70, opacity=1).encode(x=x, y=y, color=color, tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(height=max(len(data), 1) * ROW + 70)


def strip(images: NDArray[np.uint8], across: int = 10, least: int = 96) -> NDArray[np.uint8]:
    """Images (n, h, w, c) as one image (H, W, 3), `across` in a row, enlarged to at least `least` pixels of width each.

    Gaps are blue, which no grey image contains.
    """
    n, h, w, c = images.shape
    scale, gap = max(1, -(-least // w)), 6
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    large = large.repeat(3, axis=3) if c == 1 else large[..., :3]
    columns, rows = min(n, across), -(-n // across)
    out = np.empty((rows * (h * scale + gap) - gap, columns * (w * scale + gap) - gap, 3), np.uint8)
    out[:] = GAP
    for i, image in enumerate(large):
        top, left = i // across * (h * scale + gap), i % across * (w * scale + gap)
        out[top : top + h * scale, left : left + w * scale] = image
    return out
