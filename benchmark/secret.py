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
"""Characters. A digest of the split is published: a short secret could be guessed from it."""


@cache
def take() -> bytes | None:
    """The secret from LEAKBOARD_SPLIT_SECRET, or from the file that LEAKBOARD_SPLIT_SECRET_FILE names.

    Asked once a process. None where neither is set. Raises UserError for both, for a file that others may read, and for a short one.
    """
    given, file = os.environ.pop(VARIABLE, None), os.environ.pop(f"{VARIABLE}_FILE", None)
    if given is not None and file is not None:
        raise UserError(f"{VARIABLE}: expected it or {VARIABLE}_FILE, given both")
    if file is not None:
        given = _read(Path(file))
    if given is None:
        return None
    given = given.strip()
    if len(given) < SHORTEST:
        raise UserError(
            f"{VARIABLE}: expected at least {SHORTEST} characters, given {len(given)}; "
            "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return given.encode()


def _read(path: Path) -> str:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise UserError(
                f"{path}: expected a file that its owner alone may read (0600), given {mode:04o}; chmod 600"
            )
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a readable file with the secret: {type(error).__name__}") from None
