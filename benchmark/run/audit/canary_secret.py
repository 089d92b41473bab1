"""The secret of planted canaries: who is in, what was planted, and how many guesses will be made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark import reading
from benchmark.errors import UserError
from benchmark.text import plain

Kind = Literal["mislabelled", "noise"]
LEAST = 10
"""Canaries at least: fewer show nothing."""
SECRET = "secret.json"
_LARGEST = 1 << 28
"""Bytes of a secret at most."""


class Secret(BaseModel):
    """Who is in: for the auditor alone. `digest` covers all the rest, so that a damaged or edited file is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: Literal[1] = 1
    kind: Kind
    seed: str = Field(pattern="^[0-9a-f]{64}$")
    guesses: int = Field(ge=2)
    """How many inclusions will be guessed, fixed before the training."""
    labels: list[int]
    """Those that were planted, in the order in which the canaries lie for asking."""
    included: list[int]
    files: dict[str, str]
    """SHA-256 of what was written, by name."""
    digest: str = ""

    def sealed(self) -> Secret:
        """The same with its digest."""
        content = json.dumps(self.model_dump(exclude={"digest"}), sort_keys=True).encode()
        return self.model_copy(update={"digest": hashlib.sha256(content).hexdigest()})


def read_secret(path: Path) -> Secret:
    """The secret in a file that `plant` wrote. Raises UserError, in one line."""
    shown = plain(path.name, 120)
    try:
        secret = Secret.model_validate_json(reading.text(path, _LARGEST, "the secret of planted canaries"))
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{shown}: expected the secret that leakboard audit plant wrote, given another file: {plain(at, 60)}: {plain(first['msg'], 120)}"
        ) from None
    if secret.sealed() != secret:
        raise UserError(f"{shown}: expected the secret as leakboard audit plant wrote it, given one that was changed")
    if len(secret.included) != len(secret.labels) or not {*secret.included} <= {0, 1}:
        raise UserError(f"{shown}: expected 0 or 1 for each of {len(secret.labels)} canaries, given something else")
    if secret.guesses > len(secret.labels):
        raise UserError(
            f"{shown}: expected at most one guess a canary, given {secret.guesses} for {len(secret.labels)}"
        )
    return secret
