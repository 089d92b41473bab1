"""Reads a file that anybody may have written: once, so that the bytes checked, hashed and used are the same; and bounded."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from benchmark.errors import UserError, printable


def content(path: Path, most: int, what: str = "a file") -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    `what` names what is expected, such as "a protocol", for the message. Raises UserError for a file that can't be read,
    is too large or is not regular.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a device may do something, a pipe may wait for ever
            raise UserError(f"{_shown(path)}: expected {what}, given a folder, a pipe or a device")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):  # it was replaced in between
                raise UserError(f"{_shown(path)}: expected {what}, given a folder, a pipe or a device")
            data = file.read(most + 1) or b""  # a device may answer that it has nothing now
    except (OSError, ValueError) as error:  # ValueError: a name that no file system has
        cause = (error.strerror if isinstance(error, OSError) else "") or "no such name"
        raise UserError(f"{_shown(path)}: expected {what} that can be read, given none: {cause}") from None
    if len(data) > most:
        raise UserError(
            f"{_shown(path)}: expected {what} of at most {most} bytes, given {max(status.st_size, len(data))}"
        )
    return data


def text(path: Path, most: int, what: str = "a file") -> str:
    """The same as UTF-8 text, line ends unchanged: `.encode()` gives the bytes back. Raises UserError for other encodings, too."""
    try:
        return content(path, most, what).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{_shown(path)}: line {line}: expected UTF-8, given the byte 0x{error.object[error.start]:02x}"
        ) from None


def _shown(path: Path) -> str:
    return printable(str(path), 300)
