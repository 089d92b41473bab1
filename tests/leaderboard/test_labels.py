"""Names in scatter plots: none meets another or another's point, on made-up points and on the published boards."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import protocol
from leaderboard import charts, labels, tables
from leaderboard.publish import load
from leaderboard.ranking import Board, defense_table, scenarios
from leaderboard.views import tradeoff

PUBLISHED = Path(tables.__file__).with_name("published")
HIGH = 460
shares = st.tuples(st.floats(0, 1), st.floats(0, HIGH))


@given(st.lists(shares, max_size=12), st.lists(st.integers(3, 30), min_size=12, max_size=12))
def test_no_name_meets_another_one_or_a_point_on_any_width(
    points: list[tuple[float, float]], lengths: list[int]
) -> None:
    names = ["x" * length for length in lengths[: len(points)]]
    placed = labels.place(points, list(enumerate(names)), HIGH)
    assert len(placed) <= labels.MOST and len({p.point for p in placed}) == len(placed)
    for width in (labels.WIDTH, 400, 1200):
        boxes = {
            p.point: labels.box_of(points[p.point][0] * width, points[p.point][1], names[p.point], p.side)
            for p in placed
        }
        for one, two in itertools.combinations(boxes.values(), 2):
            assert not _meet(one, two)
        for point, box in boxes.items():
            assert box.left >= -1e-6 and box.right <= width + 1e-6
            others = [(x * width, y) for i, (x, y) in enumerate(points) if i != point and point != 0]
            assert not any(box.left < x < box.right and box.top < y < box.bottom for x, y in others)


def _meet(one: labels.Box, two: labels.Box) -> bool:
    slack = 1e-6
    return (
        one.left + slack < two.right and two.left + slack < one.right
        and one.top + slack < two.bottom and two.top + slack < one.bottom
    )  # fmt: skip


def test_a_name_without_room_is_left_out_but_the_first() -> None:
    crowd = [(0.5, 200.0 + i) for i in range(20)]
    placed = labels.place(crowd, [(i, "a" * 10) for i in range(20)], 460)
    assert placed[0].point == 0, "it may lie on marks"
    assert len(placed) < 20 and not any(a.box.meets(b.box) for a, b in itertools.combinations(placed, 2))
    taken = labels.Box(0, 0, labels.WIDTH, 460)
    assert labels.place(crowd, [(0, "a")], 460, [taken]) == []


@pytest.mark.parametrize("name", ["fashion-mini-v1", "digits-v2"])
@pytest.mark.parametrize("width", [labels.WIDTH, 320, 1100])
def test_names_of_the_published_boards_do_not_overlap(name: str, width: int) -> None:
    """The boxes of all texts in the chart, as Vega draws them at this width."""
    board = Board(**protocol.load(name).board())
    frame = scenarios(load(PUBLISHED / name))
    table = defense_table(frame, board)
    metric = table.attrs["metric"]
    points = tradeoff.points(frame, table, board, metric, "worst", "")
    null = float(table[f"worst_{metric}_null_95"].mean())
    chart = charts.tradeoff(
        points, "Leakage", metric, {"floor": 0.66, "null worst case": null}, board.baseline
    ).to_dict()
    boxes = _texts(chart, width)
    assert "undefended" in boxes and 5 <= len(boxes) <= labels.MOST + 2
    for (one, a), (two, b) in itertools.combinations(boxes.items(), 2):
        assert not _meet(a, b), f"{one} meets {two}"


def _texts(chart: dict[str, Any], width: float) -> dict[str, labels.Box]:
    """The boxes of a chart's texts, computed from its specification alone."""
    boxes, scales = {}, {}
    for layer in _layers(chart):
        for channel in ("x", "y"):
            scale = layer["encoding"].get(channel, {}).get("scale", {})
            if scale.get("domain"):
                scales[channel] = scale
    for layer in _layers(chart):
        mark = layer["mark"]
        if mark["type"] != "text":
            continue
        for row in chart["datasets"][layer["data"]["name"]]:
            at = {}
            for channel, length in (("x", width), ("y", float(charts.HEIGHT))):
                encoding = layer["encoding"][channel]
                if "value" in encoding:
                    at[channel] = float(encoding["value"])
                    continue
                low, high = scales[channel]["domain"]
                turn = np.log if scales[channel].get("type") == "log" else np.positive
                share = float((turn(row[encoding["field"]]) - turn(low)) / (turn(high) - turn(low)))
                at[channel] = share * length if channel == "x" else (1 - share) * length
            text = row[layer["encoding"]["text"]["field"]]
            long = labels.LETTER * len(text)
            left = at["x"] + mark.get("dx", 0) - {"left": 0, "right": long}[mark.get("align", "left")]
            top = (
                at["y"]
                + mark.get("dy", 0)
                - {"middle": labels.HEIGHT / 2, "bottom": labels.HEIGHT, "top": 0}[mark["baseline"]]
            )
            boxes[text] = labels.Box(left, top, left + long, top + labels.HEIGHT)
    return boxes


def _layers(chart: dict[str, Any]) -> list[dict[str, Any]]:
    """All single layers; those within a layer have its data."""
    found = []
    for layer in chart["layer"]:
        mine = {"data": chart.get("data"), **layer}
        found += _layers(mine) if "layer" in layer else [mine]
    return found
