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
    """A mistake of the user; the message says where, what was expected and what was given.

    The command prints it as one line without a traceback, and exits with code 2.
    """


class Fault(Exception):
    """A failure of a submission: the status that its row gets, and the last lines that it printed.

    `refused`: it asked for more than it declared. Code that runs in the judge's process gets a PermissionError for that.
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
    """A message of a submission or a file as one line of at most `most` characters, unprintable ones escaped (`text.plain`)."""
    return plain(" ".join(text[: 4 * most].split()), most)


def message_of(error: BaseException) -> str:
    """The message of an exception. Its class may be a submission's own, so that even `str` may raise."""
    try:
        return str(error)
    except Exception:
        return "(it can't be shown)"


def error_line(kind: str, text: str, at: str = "", hint: str = "") -> str:
    """An error of a submission in one line: `KeyError: 'x' (mine.py, line 23, in score); HINT`."""
    line = printable(f"{kind}: {text}" if text else kind, 280 if at or hint else 500)
    return line + (f" ({printable(at, 120)})" if at else "") + (f"; {hint}" if hint else "")


def own_line(error: BaseException) -> tuple[str, str]:
    """The innermost line of a submission in the traceback: its place, `mine.py, line 23, in score`, and its text; else ("", "")."""
    if own := [(frame, number) for frame, number in _frames(error) if _in_submission(frame)]:
        return _place(*own[-1]), _source(*own[-1])
    if isinstance(error, SyntaxError) and error.filename and error.filename.endswith(".py"):
        return f"{Path(error.filename).name}, line {error.lineno}", (error.text or "").strip()
    return "", ""


def module_of(error: BaseException) -> tuple[str, str]:
    """Kind (attack or defense) and id of the submission that `own_line` points into; else ("", "")."""
    own = [frame.f_globals["__name__"] for frame, _ in _frames(error) if _in_submission(frame)]
    _, kinds, id = own[-1].split(".") if own and own[-1].count(".") == 2 else ("", "", "")
    return kinds.removesuffix("s"), id


def trace(error: BaseException) -> str:
    """The traceback from the submission's outermost frame on, a line for each call; "" where no submission is in it."""
    frames = list(_frames(error))
    first = next((i for i, (frame, _) in enumerate(frames) if _in_submission(frame)), None)
    if first is None:
        return ""
    lines = [f"{_place(f, n)}: {_source(f, n)}".removesuffix(": ") for f, n in frames[first:]]
    if len(lines) > 8:
        lines = [*lines[:4], f"... {len(lines) - 7} calls", *lines[-3:]]
    return "\n".join([*lines, error_line(type(error).__name__, message_of(error))])


def _frames(error: BaseException) -> Iterable[tuple[FrameType, int]]:
    return traceback.walk_tb(error.__traceback__)


def _in_submission(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("submissions.")


def _place(frame: FrameType, number: int) -> str:
    file = Path(frame.f_code.co_filename)
    name = file.name if _in_submission(frame) else "/".join(file.parts[-3:])
    return f"{name}, line {number}, in {frame.f_code.co_name}"


def _source(frame: FrameType, number: int) -> str:
    """A line of a submission, from the text that was run: its file may have changed since."""
    lines = str(frame.f_globals.get("__leakboard_text__", "")).splitlines()
    return lines[number - 1].strip()[:200] if _in_submission(frame) and number <= len(lines) else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: PyTorch's own allocators raise RuntimeErrors, the kernel an OSError."""
    texts = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(t in message_of(error).lower() for t in texts)
