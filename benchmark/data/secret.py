"""The secret that official scoring mixes into every draw, so that nobody can tune to the split.

Reading it removes it from the environment, so that no child process inherits it. It is never printed: rows publish
digests alone.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from benchmark.errors import UserError

VARIABLE = "LEAKBOARD_SPLIT_SECRET"
SHORTEST = 16
"""Bytes of a secret at least. A digest of the split is published, from which a short secret could be guessed by trying all."""


@cache
def take() -> bytes | None:
    """The secret from LEAKBOARD_SPLIT_SECRET, or from the file that LEAKBOARD_SPLIT_SECRET_FILE names.

    None where neither is set. Later calls in the process return the same. Raises UserError where both are set, where others
    may read the file, and where the secret is shorter than SHORTEST.
    """
    value, file = os.environ.pop(VARIABLE, None), os.environ.pop(f"{VARIABLE}_FILE", None)
    if value is not None and file is not None:
        raise UserError(f"{VARIABLE}: expected it or {VARIABLE}_FILE, given both")
    if file is not None:
        content = _read(Path(file))
    elif value is not None:
        content = os.fsencode(value)  # the bytes of the environment, whatever the locale decoded them to
    else:
        return None
    secret = content.strip()
    if len(secret) < SHORTEST:
        raise UserError(
            f"{VARIABLE}: expected at least {SHORTEST} bytes, given {len(secret)}; "
            "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return secret


def _read(path: Path) -> bytes:
    try:
        with open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        ) as file:  # no pipe holds us up
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise UserError(
                    f"{path}: expected a file that its owner alone may read (0600), given {stat.S_IMODE(mode):04o}; chmod 600"
                )
            if not stat.S_ISREG(mode):
                raise UserError(f"{path}: expected a file with the secret, given something else")
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: expected a readable file with the secret: {type(error).__name__}") from None
