"""The audit that the app shows: read whole, or refused in one line; its report is made from the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from leaderboard import audits
from leaderboard.audit_page import as_html
from tests.leaderboard.conftest import make_audit


def test_what_was_written_is_read(tmp_path: Path) -> None:
    audit = make_audit()
    (tmp_path / "audit.json").write_text(audit.as_json(), "utf-8")
    (tmp_path / "report.html").write_text("<script>alert(1)</script>", "utf-8")
    assert audits.read(tmp_path) == (audit, as_html(audit)), "the page beside it is not looked at"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": 2}, "expected an audit of form 1, given form 2, of another version of Leakboard"),
        ({"verdict": "leaks"}, "given verdict: Input should be"),
        ({"evil": 1}, "given evil: Extra inputs are not permitted"),
        ({"worst": None}, "given worst: Input should be"),
        ({"class_spread": "HUGE"}, "given infinite numbers"),
        ({"band_fpr": [0.0, 1.0]}, "given one whose report can't be drawn: ValueError"),
    ],
)
def test_what_is_no_audit_ends_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    text = json.dumps(json.loads(make_audit().as_json()) | change).replace('"HUGE"', "1e999")
    (tmp_path / "audit.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=message) as refused:
        audits.read(tmp_path)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"form": NaN}', "[" * 5000, '{"a": 1, "a": 1}'])
def test_what_is_no_json_ends_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match="expected an audit of form 1, given") as refused:
        audits.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_one_says_what_writes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match="No such file or directory; leakboard audit predictions, model and recipe write one"
    ):
        audits.read(tmp_path)
    monkeypatch.setattr(audits, "LARGEST", 100)
    (tmp_path / "audit.json").write_text(make_audit().as_json(), "utf-8")
    with pytest.raises(UserError, match="expected an audit of at most 100 bytes"):
        audits.read(tmp_path)
