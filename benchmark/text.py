"""Text that others wrote, made fit to be shown: records and cards come from files and servers that anybody may fill."""

from __future__ import annotations

import hashlib

NAME, LINE, LOG = 300, 1000, 20_000
"""The most characters that are shown of a name, of a line such as a reason, and of a log."""


def plain(text: str, limit: int = LINE) -> str:
    """The text on one line, at most `limit` characters: what a terminal might obey is written as \\x1b or \\u202e.

    Two texts that were cut stay apart: their digests end them. What is plain already comes back as it is.
    """
    shown = text[: limit + 1]  # never work on a megabyte for the sake of a line
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    if max(len(text), len(shown)) <= limit:
        return shown
    return f"{shown[: limit - 10]}… {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def plain_log(text: str, limit: int = LOG) -> str:
    """The last `limit` characters of a log, line by line as `plain`."""
    return "\n".join(plain(line, limit) for line in text[-limit:].splitlines())[-limit:]
