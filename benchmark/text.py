"""Text that others wrote, made fit to be shown: records and cards come from files and servers that anybody may fill."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

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


def name_parts(name: str) -> list[tuple[str, list[str]]]:
    """The parts of an entry's name such as `a[b=1,c=2]+d`: each with its id and what stands in its brackets, ["b=1", "c=2"]."""
    found = []
    for part in re.split(r"\+(?![^\[]*\])", name):  # not the + of a number in brackets, 1e+20
        id, _, inside = part.partition("[")
        found.append((id, [given for given in inside.removesuffix("]").split(",") if given]))
    return found


def base_name(name: str) -> str:
    """A name without its hyperparameters: a+b[n=10] -> a+b."""
    return "+".join(id for id, _ in name_parts(name))


def contents(path: Path, most: int) -> bytes:
    """What a file of at most `most` bytes holds.

    Raises ValueError, in one line, for what is larger and for what is no file: a link leads anywhere, a pipe never ends.
    FileNotFoundError where there is none.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as problem:
        linked = path.is_symlink()
        raise ValueError(f"{path}: expected a file, given {'a link' if linked else problem.strerror}") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise ValueError(f"{path}: expected a file, given something else")
    with os.fdopen(handle, "rb") as file:
        if found.st_size > most:
            raise ValueError(f"{path}: expected at most {most} bytes, given {found.st_size}")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: expected at most {most} bytes, given more")
    return content


def parsed(text: str | bytes) -> Any:
    """JSON that others wrote. Raises ValueError, in one line, where it is none or could be read in two ways.

    A key that is there twice, NaN and Infinity are no JSON, though most readers take them. 1e999 comes back as inf:
    whoever expects a number checks that it is finite.
    """
    try:
        return _JSON.decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("not JSON: it is nested without end") from None
    except ValueError as error:  # also bytes that are no UTF-8, and an integer of over 4,300 digits
        said = "a number has too many digits" if "integer string" in str(error) else plain(str(error), 120)
        raise ValueError(f"not JSON: {said}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{plain(twice, 40)!r} is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)


def given(value: object, limit: int = 60) -> str:
    """A value that was refused, for the end of an error: ASCII on one line."""
    try:
        shown = ascii(value[:limit] if isinstance(value, str) else value)
    except RecursionError:
        shown = f"a {type(value).__name__} nested without end"
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."
