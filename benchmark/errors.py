"""One kind of error for what a user can mend, and one for what a submission did wrong."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Literal

from benchmark.text import plain


class UserError(Exception):
    """A mistake in what was given; the message says where, what was expected and what was given.

    Printed as one line, exit code 2, never a traceback.
    """


class Fault(Exception):
    """What ended a submission's piece of work: a status for its row, and the last lines that it printed.

    `refused`: it asked for more than it may, which in the judge's process is a PermissionError.
    """

    def __init__(
        self,
        status: Literal["failed", "timeout", "out-of-memory"],
        reason: str,
        log: str = "",
        *,
        refused: bool = False,
    ) -> None:
        super().__init__(reason)
        self.status, self.log, self.refused = status, log, refused


def suggest(given: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the known names."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names) or 'none'}"


def printable(text: str, most: int = 500) -> str:
    """What a submission or a file said, as one line of at most `most` characters that obeys nothing (`text.plain`)."""
    return plain(" ".join(text[: 4 * most].split()), most)


def words(problem: BaseException) -> str:
    """What an exception says; its class is a submission's, so that even this may raise."""
    try:
        return str(problem)
    except Exception:
        return "(it can't be shown)"


def said(kind: str, text: str, at: str = "", hint: str = "") -> str:
    """An error of a submission in one line: `KeyError: 'x' (mine.py, line 23, in score); what helps`."""
    line = printable(f"{kind}: {text}" if text else kind, 280 if at or hint else 500)
    return line + (f" ({printable(at, 120)})" if at else "") + (f"; {hint}" if hint else "")


def own_line(problem: BaseException) -> tuple[str, str]:
    """The last line of a submission that had a part in this error: `mine.py, line 23, in score`, and its text; or ""."""
    if own := [(frame, number) for frame, number in _frames(problem) if _own(frame)]:
        return _place(*own[-1]), _source(*own[-1])
    if isinstance(problem, SyntaxError) and problem.filename and problem.filename.endswith(".py"):
        return f"{Path(problem.filename).name}, line {problem.lineno}", (problem.text or "").strip()
    return "", ""


def module_of(problem: BaseException) -> tuple[str, str]:
    """Kind and id of the submission whose line `own_line` is; or ""."""
    own = [frame.f_globals["__name__"] for frame, _ in _frames(problem) if _own(frame)]
    _, kinds, id = own[-1].split(".") if own and own[-1].count(".") == 2 else ("", "", "")
    return kinds.removesuffix("s"), id


def trace(problem: BaseException) -> str:
    """The way of an error from the submission's first line on, a line for each call, without the judge's; or ""."""
    frames = list(_frames(problem))
    first = next((i for i, (frame, _) in enumerate(frames) if _own(frame)), None)
    if first is None:
        return ""
    lines = [f"{_place(f, n)}: {_source(f, n)}".removesuffix(": ") for f, n in frames[first:]]
    if len(lines) > 8:
        lines = [*lines[:4], f"... {len(lines) - 7} calls", *lines[-3:]]
    return "\n".join([*lines, said(type(problem).__name__, words(problem))])


def _frames(problem: BaseException) -> Iterable[tuple[FrameType, int]]:
    return traceback.walk_tb(problem.__traceback__)


def _own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("submissions.")


def _place(frame: FrameType, number: int) -> str:
    file = Path(frame.f_code.co_filename)
    name = file.name if _own(frame) else "/".join(file.parts[-3:])
    return f"{name}, line {number}, in {frame.f_code.co_name}"


def _source(frame: FrameType, number: int) -> str:
    """A submission's own line, of the text that ran."""
    lines = str(frame.f_globals.get("__leakboard_text__", "")).splitlines()
    return lines[number - 1].strip()[:200] if _own(frame) and number <= len(lines) else ""


def out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out: PyTorch's own allocators raise RuntimeErrors, the kernel an OSError."""
    texts = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(problem, MemoryError) or any(t in words(problem).lower() for t in texts)
