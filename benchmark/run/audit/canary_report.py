"""The data of a report on planted canaries, as typed objects and as versioned JSON.

No canary's inclusion is in here: how many guesses were right is all that it says of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmark import reading
from benchmark.errors import UserError
from benchmark.run.audit.parts import File, Part
from benchmark.text import plain

SCHEMA = 1
"""The version of the JSON file's form: it grows when a field is renamed, removed or gets another meaning."""
_LARGEST = 1 << 20
"""Bytes of a report's file at most."""
State = Literal["shown", "refuted", "not refuted"]


class Bound(Part):
    """A lower bound on epsilon."""

    name: str
    source: str
    assumes: str = Field(description="What it rests on besides.")
    delta: float
    epsilon: float
    most: float = Field(
        description="What it would be if the model gave all canaries away: no claim above can be refuted."
    )
    judges: bool = Field(description="Whether it is held against the claim: one for another delta is not.")


class CanaryVerdict(Part):
    """shown: no claim was given. refuted: a bound is above the claim. not refuted: none is, which is no proof of the claim."""

    state: State
    sentence: str
    more: str


class CanaryAudit(Part):
    """An audit by planted canaries."""

    form: int = Field(default=SCHEMA, description="The version of this form.")
    way: Literal["canaries"] = "canaries"
    title: str
    tool: str = Field(description="Leakboard's version.")
    when: str = Field(description="When it was made, ISO 8601, UTC.")
    command: str = Field(description="What makes it again; empty if it was made from Python.")
    files: list[File] = Field(description="The answers.")
    secret: str = Field(description="The secret's own digest, SHA-256.")
    kind: str
    canaries: int
    included: int
    guesses: int = Field(description="Fixed when the canaries were planted.")
    right: int
    confidence: float
    delta: float
    claimed: float | None = Field(description="The epsilon that was claimed.")
    p: float | None = Field(description="How probable so many right guesses are at most, if the claim is true.")
    assumes: str = Field(description="What all bounds rest on.")
    bounds: list[Bound]
    mu: float = Field(description="The largest mu of Gaussian DP that is refuted, if the curve is Gaussian.")
    curve: list[tuple[float, float]] = Field(description="(delta, epsilon) of that mu.")
    verdict: CanaryVerdict

    def as_json(self) -> str:
        """The audit as JSON: the same audit gives the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> tuple[CanaryAudit, File]:
    """The report in a file that `leakboard audit canaries` wrote, and the file. Raises UserError, in one line."""
    content, name = reading.content(path, _LARGEST, "what leakboard audit canaries wrote"), plain(path.name, 120)
    try:
        report = CanaryAudit.model_validate_json(content)
        report.as_json()  # what is no number has no place in a report
        if report.form != SCHEMA:
            raise ValueError(f"form {report.form}")
    except ValueError as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        shown = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}" if first else str(error)
        raise UserError(
            f"{name}: expected canaries-audit.json as leakboard audit canaries writes it, given another file: {plain(shown, 160)}"
        ) from None
    return report, File(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def down(value: float, decimals: int = 2) -> str:
    """A lower bound as text: rounded down."""
    return f"{math.floor(value * 10**decimals) / 10**decimals:.{decimals}f}"
