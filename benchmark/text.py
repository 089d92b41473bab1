"""Text and JSON that others wrote: read within bounds, and made safe to show.

Records and cards come from files and servers that anybody may fill.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

NAME, LINE, LOG = 300, 1000, 20_000
"""How many characters are shown at most of a name, of a line (such as the reason of a failure) and of a log."""


def plain(text: str, limit: int = LINE) -> str:
    """The text on one line of at most `limit` characters. Unprintable characters, which a terminal might act on, are escaped.

    An escape character becomes \\x1b, a direction mark \\u202e. A text that is cut ends in 8 hex digits of its SHA-256, so
    that long texts stay distinct. A printable text within the limit is returned unchanged.
    """
    shown = text[: limit + 1]  # never work on a megabyte for the sake of a line
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    if max(len(text), len(shown)) <= limit:
        return shown
    return f"{shown[: limit - 10]}… {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def plain_log(text: str, limit: int = LOG) -> str:
    """The last `limit` characters of a log, each line made safe by `plain`."""
    return "\n".join(plain(line, limit) for line in text[-limit:].splitlines())[-limit:]


def name_parts(name: str) -> list[tuple[str, list[str]]]:
    """The parts of a cascade's name: `a[b=1,c=2]+d` gives [("a", ["b=1", "c=2"]), ("d", [])]."""
    parts = []
    for part in re.split(r"\+(?![^\[]*\])", name):  # not the + of a number in brackets, 1e+20
        id, _, inside = part.partition("[")
        parts.append((id, [setting for setting in inside.removesuffix("]").split(",") if setting]))
    return parts


def base_name(name: str) -> str:
    """An entry's name without its hyperparameters: a+b[n=10] -> a+b."""
    return "+".join(id for id, _ in name_parts(name))


def contents(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises ValueError, in one line, for a larger file and for anything but a regular file: a link may lead anywhere, and
    a pipe never ends. Raises FileNotFoundError where there is none.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        is_link = path.is_symlink()
        raise ValueError(f"{path}: expected a file, given {'a link' if is_link else error.strerror}") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise ValueError(f"{path}: expected a file, given something else")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > most:
            raise ValueError(f"{path}: expected at most {most} bytes, given {status.st_size}")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: expected at most {most} bytes, given more")
    return content


def parse_json(text: str | bytes) -> Any:
    """The value of JSON that others wrote. Raises ValueError, in one line, where it is invalid or ambiguous.

    Repeated keys, NaN and Infinity are refused, though most readers take them. 1e999 is read as inf: callers that
    expect a number check that it is finite.
    """
    try:
        return _JSON.decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("not JSON: it is nested without end") from None
    except ValueError as error:  # also bytes that are no UTF-8, and an integer of over 4,300 digits
        reason = "a number has too many digits" if "integer string" in str(error) else plain(str(error), 120)
        raise ValueError(f"not JSON: {reason}") from None


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{plain(twice, 40)!r} is there twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique_fields, parse_constant=_refuse_constant)


def short_repr(value: object, limit: int = 60) -> str:
    """A refused value as an error message ends with it: its `ascii`, cut to `limit` characters."""
    try:
        shown = ascii(value[:limit] if isinstance(value, str) else value)
    except RecursionError:
        shown = f"a {type(value).__name__} nested without end"
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."
