"""The secret that official scoring mixes into every draw, so that nobody can tune to the split.

It leaves the environment as soon as it is read, so that no child process inherits it, and nothing
prints it: rows publish digests alone.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from benchmark.errors import UserError

VARIABLE = "LEAKBOARD_SPLIT_SECRET"
SHORTEST = 16
"""Bytes. A digest of the split is published: a short secret could be guessed from it."""


@cache
def take() -> bytes | None:
    """The secret from LEAKBOARD_SPLIT_SECRET, or from the file that LEAKBOARD_SPLIT_SECRET_FILE names.

    Asked once a process. None where neither is set. Raises UserError for both, for a file that others may read, and for a short one.
    """
    said, file = os.environ.pop(VARIABLE, None), os.environ.pop(f"{VARIABLE}_FILE", None)
    if said is not None and file is not None:
        raise UserError(f"{VARIABLE}: expected it or {VARIABLE}_FILE, given both")
    if file is not None:
        content = _read(Path(file))
    elif said is not None:
        content = os.fsencode(said)  # its bytes, whatever the locale took them for
    else:
        return None
    given = content.strip()
    if len(given) < SHORTEST:
        raise UserError(
            f"{VARIABLE}: expected at least {SHORTEST} bytes, given {len(given)}; "
            "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return given


def _read(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise UserError(
                f"{path}: expected a file that its owner alone may read (0600), given {mode:04o}; chmod 600"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: expected a readable file with the secret: {type(error).__name__}") from None
