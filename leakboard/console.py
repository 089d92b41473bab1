"""What the command prints: results and remarks to stdout, progress and errors to stderr.

`--quiet` leaves results and errors; `--json` leaves one JSON document on stdout, and all else goes to stderr. Progress
is one line that is redrawn where stderr is a terminal, and a line every few seconds where it is not. Where neither a
terminal nor COLUMNS limits the width, lines are as long as they need to be.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.table import Column, Table
from rich.text import Text

from benchmark import places
from benchmark.errors import UserError

T = TypeVar("T")

UNBOUNDED = 10_000
"""Columns of an output that is no terminal."""
EVERY = 10
"""Seconds between two lines of progress where stderr is no terminal."""
_PLAINER = str.maketrans({"–": "-", "—": "-", "−": "-", "±": "~", "…": ".", "’": "'", "≥": ">", "≤": "<", "×": "x"})
"""Replacements, of the same width, for characters that a terminal cannot show."""


class Screen(Console):
    """Rich's console, with lines of any length where the output is no terminal."""

    @property
    def size(self) -> ConsoleDimensions:
        size, columns = super().size, os.environ.get("COLUMNS", "")
        if columns.isdigit() and int(columns):  # read now: Rich keeps the value of when the console was made
            return ConsoleDimensions(int(columns), size.height)
        return size if self.is_terminal else ConsoleDimensions(UNBOUNDED, size.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


out, notes, err, progress = Screen(), Screen(), Screen(stderr=True), Screen(stderr=True)
"""Consoles for results, remarks, errors and progress; `--quiet` silences remarks and progress."""
_given: list[str] = []
"""The folder that `--project` named; empty without the option."""
_answer: list[TextIO] = []
"""Where the JSON of this command goes; empty without `--json`, and after it was written."""


def say(line: str, console: Console = notes) -> None:
    """Print a line unchanged: Rich would read `[power=2]` as markup and wrap a command at the edge of the terminal."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def tell_next(*steps: str) -> None:
    """Print the commands to run next, which end the output of a command that succeeded."""
    say("next: " + "\n      ".join(steps))


def use_project(folder: Path) -> None:
    """Work on the project in this folder instead of the current one. Raises UserError where it is no folder."""
    os.environ[places.VARIABLE] = str(folder.expanduser())
    os.environ[places.VARIABLE] = str(places.project().root)
    _given[:] = [str(folder)]


def command_line(*arguments: str) -> str:
    """A `leakboard` command, quoted for the shell, that works on the same project (it repeats `--project`)."""
    return shlex.join(["leakboard", *(["--project", *_given] if _given else []), *arguments])


def elsewhere() -> str:
    """Which project was found and why, where it is not the current folder; else ""."""
    try:
        project = places.project()
    except UserError:  # the named project does not exist, which is reported elsewhere
        return ""
    return "" if project.root.resolve() == Path.cwd().resolve() else f"project {project.root}, {project.how}"


def be_quiet() -> None:
    """Print only results and errors from now on."""
    notes.quiet = progress.quiet = True


def show(table: Table, console: Console = out, optional: int = 0) -> None:
    """Print a table in the available width: lines break between words and between the parts of an entry's name.

    No word is broken or cut. Where the longest words do not fit side by side, up to `optional` of the last columns are
    left out; a table that is still too wide exceeds the terminal.
    """
    for column in table.columns:
        column._cells = [Text.from_markup(c) if isinstance(c, str) else c for c in column._cells]
    ranges = [_range(column) for column in table.columns]
    gap, left_out = 2, list[str]()
    if sum(low for low, _ in ranges) + gap * len(ranges) > console.width:
        table.padding, gap = (0, 1, 0, 0), 1
    while optional and sum(low for low, _ in ranges) + gap * len(ranges) > console.width:
        optional -= 1
        ranges.pop()
        left_out.insert(0, str(table.columns.pop().header))
    room, widths = console.width - gap * len(ranges), [high for _, high in ranges]
    while sum(widths) > room and any(w > low for w, (low, _) in zip(widths, ranges, strict=True)):
        # The widest column that can still shrink.
        i = max(range(len(widths)), key=lambda i: widths[i] if widths[i] > ranges[i][0] else 0)
        widths[i] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
        column._cells = [broken(c, width) if isinstance(c, Text) else c for c in column._cells]
    table.width = sum(widths) + gap * len(widths) if sum(widths) > room else None
    if table.title:  # Rich would wrap it at the width of the table
        console.print(table.title, style="italic", highlight=False)
        table.title = None
    console.print(table, crop=False)
    if left_out:
        console.print(Text(f"  no room for: {', '.join(left_out)}", style="dim"))


def _range(column: Column) -> tuple[int, int]:
    """The least and the greatest width of a column: its longest unbreakable part, and its longest line."""
    cells = [column.header, *column._cells]
    lines = [line for c in cells for line in (c.plain if isinstance(c, Text) else str(c)).splitlines()]
    high = max(map(cell_len, lines), default=0)
    parts = [cell_len(part) for line in lines for word in line.split() for part in _parts(word)]
    return (high if column.no_wrap else max(parts, default=0)), high


def _parts(word: str) -> list[str]:
    """The parts between which a word may break: those of a name such as `a[b=1,c=2]+d`; else the word itself."""
    return re.split(r"(?<=[,=\[+])(?=\w)", word) if word[:1].isalpha() else [word]


def broken(cell: Text, width: int) -> Text:
    """The cell with line breaks inside words that are longer than `width`, between their parts."""
    words = []
    for word in cell.plain.split(" "):
        if cell_len(word) > width:
            lines = [""]
            for part in _parts(word):
                lines = [*lines, part] if cell_len(lines[-1] + part) > width else [*lines[:-1], lines[-1] + part]
            word = "\n".join(filter(None, lines))
        words.append(word)
    return cell if " ".join(words) == cell.plain else Text(" ".join(words), style=cell.style)


# --- JSON -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def json_alone(wanted: bool) -> Iterator[None]:
    """While this lasts, stdout holds nothing but the JSON document; what others print, workers included, goes to
    stderr.

    wanted: whether `--json` was given; without it nothing changes.
    """
    if not wanted:
        yield
        return
    kept = -1
    sys.stdout.flush()
    if sys.stdout is sys.__stdout__:
        kept = os.dup(1)
        os.dup2(2, 1)
        _answer.append(os.fdopen(os.dup(kept), "w", encoding="utf-8"))
    else:  # sys.stdout was replaced, by a test for instance
        _answer.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _answer.clear()
        if kept >= 0:
            os.dup2(kept, 1)
            os.close(kept)


def wants_json() -> bool:
    """Whether the command is to answer in JSON, and has not yet."""
    return bool(_answer)


def answer(value: object) -> None:
    """Write the command's JSON: ASCII, with null in place of NaN and infinities, which JSON does not have."""
    stream = _answer.pop()
    print(json.dumps(_finite(value), allow_nan=False, default=str), file=stream, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(v) for v in value]
    return value


# --- Terminals that cannot show everything ----------------------------------------------------------


def be_tolerant() -> None:
    """Replace characters that the terminal's encoding lacks, so that no output raises UnicodeEncodeError."""
    codecs.register_error("leakboard", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="leakboard")


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAINER)
    return "".join(c if c.isascii() else "?" for c in text), error.end


# --- Progress ---------------------------------------------------------------------------------------


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, such as 2:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with progress and the time left: a bar on a terminal, elsewhere a line every EVERY seconds."""
    if progress.is_terminal and not progress.quiet:
        from rich.progress import track as with_bar

        yield from with_bar(items, what, total, console=progress, transient=True)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items):
        if (now := time.monotonic()) - shown > EVERY:
            shown = now
            left = f", {clock((now - start) / done * (total - done))} left" if done else ""
            say(f"{what}: {done}/{total}{left}", progress)
        yield item


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something of unknown duration is running."""
    if progress.is_terminal and not progress.quiet:
        with progress.status(f"{what} ...", spinner="line"):
            yield
    else:
        yield


def redraw(line: str, *, last: bool = False) -> None:
    """Print one line of progress; on a terminal the next one overwrites it, unless it is the last."""
    keep_line = progress.is_terminal and not last
    if progress.is_terminal:
        line = line.ljust(progress.width - 1)
    progress.print(
        line, end="\r" if keep_line else "\n", markup=False, highlight=False, no_wrap=True, overflow="ellipsis"
    )
