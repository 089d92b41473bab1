"""One kind of error for what a user can mend, and one for what a submission did wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
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


def out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out: PyTorch's own allocators raise RuntimeErrors, the kernel an OSError."""
    texts = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(problem, MemoryError) or any(t in str(problem).lower() for t in texts)
