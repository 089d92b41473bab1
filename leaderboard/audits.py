"""The audit that the app shows beside the boards: read from a folder that `leakboard audit` wrote, or anybody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from benchmark import reading
from benchmark.errors import UserError, printable
from benchmark.run.audit.report import SCHEMA, Audit
from benchmark.text import parse_json, short_repr
from leaderboard.audit_page import as_html

FILE = "audit.json"
VARIABLE = "LEAKBOARD_AUDIT"
"""Names the folder to the app; without it the app has no page for an audit."""
LARGEST = 8 << 20
"""Bytes that are read at most: an audit has some 50 KB."""


class Shown(NamedTuple):
    """An audit, and its report as one HTML document, made anew from the data: markup in the data is text there."""

    audit: Audit
    report: str


def folder() -> Path | None:
    """The folder of the audit that the app shows; None without one."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def protocol() -> str:
    """The protocol by whose recipe the audit's reference models were trained; "" where the audit names none, or can't be read."""
    chosen = folder()
    try:
        recipe = _data(chosen / FILE).recipe if chosen else None
    except UserError:  # the page says so
        return ""
    return recipe.protocol if recipe else ""


def read(folder: Path) -> Shown:
    """The audit in a folder. Raises UserError, in one line, for a file that is missing, damaged, of another form or not an audit."""
    path = folder / FILE
    audit = _data(path)
    try:
        return Shown(audit, as_html(audit))
    except Exception as problem:  # valid by its form, but with numbers that no audit has
        raise _refused(path, f"one whose report can't be drawn: {type(problem).__name__}") from None


def _data(path: Path) -> Audit:
    try:
        return _valid(parse_json(reading.content(path, LARGEST, "an audit")))
    except UserError as problem:
        raise UserError(f"{problem}; {_HINT}") from None
    except ValueError as problem:
        raise _refused(path, str(problem)) from None


def _valid(value: object) -> Audit:
    """Raises ValueError, in one line, for what is no audit of this form."""
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    if value.get("form", SCHEMA) != SCHEMA:
        raise ValueError(f"form {short_repr(value['form'])}, of another version of Leakboard")
    try:
        audit = Audit.model_validate(value)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    try:
        audit.as_json()
    except ValueError:
        raise ValueError("infinite numbers") from None
    return audit


def _refused(path: Path, given: str) -> UserError:
    where = printable(str(path), 300)
    return UserError(f"{where}: expected an audit of form {SCHEMA}, given {printable(given, 200)}; {_HINT}")


_HINT = "leakboard audit predictions, model and recipe write one"
