"""One kind of error for what a user can mend: printed as one line, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was given; the message says where, what was expected and what was given."""


def suggest(given: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the known names."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names) or 'none'}"
