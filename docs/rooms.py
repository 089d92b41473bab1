"""The picture of the rooms, drawn from the imports: `python docs/rooms.py > rooms.svg`.

A room is a package or a module right below `benchmark/`, or one of the packages beside it. One room uses another where
a file of it imports a file of the other; imports inside functions and for type checkers count too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ("leakboard", "leaderboard", "submissions")
"""The packages beside `benchmark/`, each a room of its own."""
BOX, GAP, HEIGHT, FLOOR, ROUTE = 124, 20, 34, 78, 26
"""Width of a box, room between two, its height, from floor to floor, and the width of an arrow that passes a floor."""

Uses = dict[str, set[str]]


def files(root: Path = ROOT) -> dict[str, list[Path]]:
    """The Python files of each room."""
    found: dict[str, list[Path]] = {}
    for path in sorted((root / "benchmark").iterdir()):
        if path.suffix == ".py" and path.stem != "__init__":
            found[path.stem] = [path]
        elif path.is_dir() and (inside := sorted(path.rglob("*.py"))):
            found[path.name] = inside
    return found | {name: sorted((root / name).rglob("*.py")) for name in BESIDE}


def uses(root: Path = ROOT) -> Uses:
    """Which rooms each room imports from."""
    rooms = files(root)
    return {
        room: {used for path in paths for used in _imported(path, root) if used in rooms} - {room}
        for room, paths in rooms.items()
    }


def _imported(path: Path, root: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {_room(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*path.relative_to(root).parent.parts, node.module or ""]) if node.level else node.module
            found |= {_room(f"{module}.{alias.name}") for alias in node.names}
    return found


def _room(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "benchmark" and rest else first


def reach(graph: Uses) -> Uses:
    """All that each room uses, directly or by others. Raises ValueError for a circle."""
    found: Uses = {}

    def of(room: str, above: tuple[str, ...] = ()) -> set[str]:
        if room in above:
            raise ValueError(f"a circle of imports: {' -> '.join([*above, room])}")
        if room not in found:
            found[room] = graph[room].union(*(of(used, (*above, room)) for used in graph[room]))
        return found[room]

    return {room: of(room) for room in graph}


def arrows(graph: Uses) -> list[tuple[str, str]]:
    """The imports that don't follow from others: with them all, no picture could be read."""
    far = reach(graph)
    return sorted(
        (room, used)
        for room, below in graph.items()
        for used in below
        if not any(used in far[b] for b in below - {used})
    )


def floors(graph: Uses) -> dict[str, int]:
    """A room stands on the floor above the highest that it uses; the lowest is 0."""
    far = reach(graph)
    found: dict[str, int] = {}
    for room in sorted(graph, key=lambda r: len(far[r])):
        found[room] = max((found[used] + 1 for used in graph[room]), default=0)
    return found


def _ordered(rows: list[list[str]], links: list[tuple[str, str]]) -> list[list[str]]:
    """Each row sorted by where its neighbours stand, to and fro, so that few arrows cross."""
    near: dict[str, list[str]] = {}
    for one, other in links:
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    for turn in range(24):
        order = range(len(rows)) if turn % 2 else reversed(range(len(rows)))
        for i in order:
            beside = rows[i - 1 if turn % 2 else i + 1] if 0 <= (i - 1 if turn % 2 else i + 1) < len(rows) else []
            at = {name: n / len(beside) for n, name in enumerate(beside)}
            own = {name: n / len(rows[i]) for n, name in enumerate(rows[i])}

            def place(name: str, at: Mapping[str, float] = at, own: Mapping[str, float] = own) -> float:
                seen = [at[n] for n in near.get(name, ()) if n in at]
                return sum(seen) / len(seen) if seen else own[name]

            rows[i].sort(key=place)
    return rows


def draw(graph: Uses) -> str:
    """The SVG: a box a room, an arrow from it to each that it uses. Colours are the page's own."""
    floor = floors(graph)
    top = max(floor.values())
    rows: list[list[str]] = [[] for _ in range(top + 1)]
    for room in sorted(graph):
        rows[floor[room]].append(room)
    ways: dict[tuple[str, str], list[str]] = {}
    for room, used in arrows(graph):
        passed = [f"{room}>{used}@{level}" for level in range(floor[room] - 1, floor[used], -1)]
        for level, name in zip(range(floor[room] - 1, floor[used], -1), passed, strict=True):
            rows[level].append(name)
        ways[room, used] = [room, *passed, used]
    rows = _ordered(rows, [link for way in ways.values() for link in pairwise(way)])
    wide = {name: BOX if name in graph else ROUTE for row in rows for name in row}
    width = max(sum(wide[n] + GAP for n in row) for row in rows) + GAP
    height = (top + 1) * FLOOR - (FLOOR - HEIGHT) + 2 * GAP
    x: dict[str, float] = {}
    for row in rows:
        spare = (width - sum(wide[n] for n in row)) / (len(row) + 1)
        left = spare
        for name in row:
            x[name] = left + wide[name] / 2
            left += wide[name] + spare
    y = {name: GAP + (top - level) * FLOOR for level, row in enumerate(rows) for name in row}
    lines = [_arrow(room, used, way, graph, x, y) for (room, used), way in ways.items()]
    boxes = [
        f'<a href="#{room}"><rect class="{"beside" if room in BESIDE else "room"}" x="{x[room] - BOX / 2:.0f}" y="{y[room]}" '
        f'width="{BOX}" height="{HEIGHT}" rx="4"/>'
        f'<text x="{x[room]:.0f}" y="{y[room] + HEIGHT / 2 + 5:.0f}">{room}</text></a>'
        for room in graph
    ]
    return "\n".join([
        f'<svg class="rooms" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" aria-labelledby="rooms-title">',
        '<title id="rooms-title">The rooms of Leakboard and the imports between them, downwards</title>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>',
        *lines, *boxes, "</svg>",
    ])  # fmt: skip


def _arrow(room: str, used: str, way: list[str], graph: Uses, x: dict[str, float], y: dict[str, int]) -> str:
    """From the foot of one box, past the floors between, to the top of the other."""
    path = f"M{x[room]:.0f} {y[room] + HEIGHT}"
    for above, name in pairwise(way):
        start, end = y[above] + HEIGHT, y[name] - (2 if name in graph else 0)
        middle = (start + end) / 2
        path += f"C{x[above]:.0f} {middle:.0f} {x[name]:.0f} {middle:.0f} {x[name]:.0f} {end}"
        if name not in graph:
            path += f"V{y[name] + HEIGHT}"
    return f'<path class="arrow" data-from="{room}" data-to="{used}" d="{path}" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    sys.stdout.write(draw(uses()) + "\n")
