"""What the reports of all audits are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a report: it never changes, and has no other fields than it declares."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class File(Part):
    """A file that an audit read."""

    name: str
    bytes: int
    sha256: str
