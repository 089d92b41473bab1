"""Lines from a Jensen-Shannon distance to the success of an attack, fitted to all published boards, with the error of what they predict.

`python -m leaderboard.lines` fits them anew and writes `lines.json`: an audit reads the file, for reading all boards takes a while.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("lines.json")
_PAPER = Path(__file__).with_name("risks.yaml")
SUCCESS = "balanced_accuracy"


def published() -> dict[str, dict[str, Any]]:
    """The lines of `lines.json` by the distance's name: attack, slope, intercept, r, error and rows."""
    lines: dict[str, dict[str, Any]] = json.loads(FILE.read_text("utf-8"))
    return lines


def fit() -> dict[str, dict[str, Any]]:
    """The lines of the boards that are published now. The error of a row is that of the line of other data and networks."""
    from benchmark import places
    from leaderboard import publish
    from leaderboard.ranking import scenarios
    from leaderboard.risks import error, line, pooled, risks

    frames: dict[str, Any] = {}
    for folder in places.boards():
        for board in sorted(folder.iterdir()):
            if board.is_dir() and (results := publish.load(board)):
                frames.setdefault(board.name, scenarios(results))
    lines = {}
    for measure, theirs in yaml.safe_load(_PAPER.read_text("utf-8")).items():
        points = pooled({name: risks(frame, measure, theirs["attack"], SUCCESS) for name, frame in frames.items()})
        if fitted := line(points.risk, points.success):
            numbers = {**fitted._asdict(), "error": error(points.predicted, points.success)}
            rounded = {name: round(value, 4) for name, value in numbers.items()}
            lines[measure] = {"attack": theirs["attack"], **rounded, "rows": len(points)}
    return lines


if __name__ == "__main__":
    FILE.write_text(json.dumps(fit(), indent=1) + "\n", "utf-8")
