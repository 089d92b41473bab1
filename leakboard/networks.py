"""The table of networks that `leakboard list networks` prints."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from benchmark import networks
from benchmark.errors import UserError, printable
from benchmark.networks.architecture import Shape
from benchmark.networks.cost import cost
from leakboard import console
from leakboard.console import answer, command_line, out, say, tell_next

CLASSES = 10


@dataclass(frozen=True)
class Row:
    """A network and its cost with 10 classes on images of `image` (c, h, w); `problem` where it takes none of them."""

    name: str
    family: str
    title: str
    paper: str
    least: int
    image: Shape
    parameters: int | None = None
    multiply_adds: int | None = None
    problem: str = ""


def rows(shape: Shape | None) -> list[Row]:
    """All networks, the user's own first. `shape`: of the images; None: 3x32x32, or the network's least."""
    found = []
    for name in sorted(networks.NAMES, key=lambda n: (n not in networks.own_texts, _family(n), n)):
        known = networks.about(name)
        side = max(32, known.least)
        image = shape or (3, side, side)
        about = (name, _family(name), known.title, known.paper, known.least, image)
        try:
            costs = cost(name, CLASSES, image)
            found.append(Row(*about, costs.parameters, costs.multiply_adds))
        except UserError as problem:
            found.append(Row(*about, problem=str(problem)))
    return found


def show(image: str, as_json: bool) -> None:
    """Print the table. Raises UserError for a shape that is none."""
    networks.discover()
    with console.working("counting parameters and FLOPs"):
        found = rows(_shape(image))
    if as_json:
        answer({"classes": CLASSES, "networks": [vars(row) for row in found], "broken": networks.broken})
        return
    table = Table("network", "family", "paper", "least", "image", "parameters", "FLOPs", box=None, header_style="bold")
    table.columns[0].no_wrap = True
    for column in table.columns[3:]:
        column.justify, column.no_wrap = "right", True
    for row in found:
        sizes = ("-", "-") if row.parameters is None else (_short(row.parameters), _short(row.multiply_adds or 0))
        table.add_row(
            row.name,
            row.family,
            escape(printable(row.paper, 60)),
            f"{row.least}",
            "x".join(map(str, row.image)),
            *sizes,
        )
    console.show(table)
    for row in found:
        if row.problem and row.name in networks.own_texts:
            out.print(f"[red]broken[/red]  {escape(row.problem)}", soft_wrap=True)
    for problem in networks.broken.values():
        out.print(f"[red]broken[/red]  {escape(printable(problem, 400))}", soft_wrap=True)
    say(
        f"{CLASSES} classes; FLOPs: multiply-adds of one forward pass of one image; least: pixels of its height and width",
        out,
    )
    tell_next(command_line("new", "network", "NAME"))


def _family(name: str) -> str:
    return "yours" if name in networks.own_texts else networks.about(name).__module__.rpartition(".")[2]


def _shape(image: str) -> Shape | None:
    if not image:
        return None
    sides = [int(n) for n in image.split("x")] if re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}x[1-9]\d{0,4}", image) else []
    if len(sides) != 3:
        raise UserError(f"--image: expected channels, height and width such as 1x28x28, given {printable(image, 60)!r}")
    return sides[0], sides[1], sides[2]


def _short(n: int) -> str:
    """A count with three digits that matter: 36.5M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g}{unit}" if n < 1000 * size else f"{n / size:.0f}{unit}"
    return str(n)
