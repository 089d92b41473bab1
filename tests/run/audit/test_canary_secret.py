"""A secret that is not as it was written is refused, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.run.audit.canary_secret import Secret, read_secret

SEALED = Secret(kind="noise", seed="5a" * 32, guesses=4, labels=[1] * 20, included=[0, 1] * 10, files={}).sealed()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    (tmp_path / "secret.json").write_text(SEALED.model_dump_json(), "utf-8")
    return tmp_path / "secret.json"


def test_it_is_read_as_it_was_written(secret_file: Path) -> None:
    assert read_secret(secret_file) == SEALED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"guesses": 18}, "given one that was changed"),
        ({"labels": [0] * 20}, "given one that was changed"),
        ({"seed": "x"}, "given another file: seed"),
        ({"extra": 1}, "given another file: extra"),
    ],
)
def test_a_changed_secret_is_refused(secret_file: Path, change: dict[str, Any], said: str) -> None:
    content = json.loads(secret_file.read_text("utf-8"))
    secret_file.write_text(json.dumps(content | change), "utf-8")
    with pytest.raises(UserError, match=said):
        read_secret(secret_file)


@pytest.mark.parametrize("change", [{"included": [0, 1]}, {"included": [2] * 20}, {"guesses": 22}])
def test_a_secret_that_was_sealed_wrongly_is_refused(secret_file: Path, change: dict[str, Any]) -> None:
    wrong = SEALED.model_copy(update=change).sealed()
    secret_file.write_text(wrong.model_dump_json(), "utf-8")
    with pytest.raises(UserError, match="expected"):
        read_secret(secret_file)


@pytest.mark.parametrize("text", ["", "{", "[]", "\0"])
def test_another_file_is_no_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"x\.json: expected the secret that leakboard audit plant wrote"):
        read_secret(tmp_path / "x.json")
    with pytest.raises(UserError, match="given none"):
        read_secret(tmp_path / "none.json")
