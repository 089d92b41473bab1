"""The public Python API gives what the command gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import leakboard
from leaderboard.publish import load
from tests.conftest import ROOT, Home, numbers


def test_it_is_light_to_import() -> None:
    """The command starts with it."""
    code = "import sys, leakboard; print([m for m in ('torch', 'pandas', 'mlflow', 'streamlit') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_and_its_board(scored: Home) -> None:
    results = leakboard.run(protocol="smoke", workers=1)
    assert numbers({r.key: r for r in results}) == numbers({r.key: r for r in scored.results().values()})
    with pytest.raises(leakboard.UserError, match=r"expected a published board in .*, given none"):
        leakboard.load_board("smoke")
    assert scored.call("publish", "--protocol", "smoke").code == 0
    board = leakboard.load_board("smoke")
    assert board.results == load(scored.folder / "published" / "smoke") and len(board.scenarios) == len(results)
    assert len(board.attacks["membership"]) and "undefended" in set(board.defenses.defense)
    assert board.attacks["membership"].attrs["metric"] in ("auc", "tpr_at_fpr_0.01")


def test_checks_one_after_the_other(home: Home) -> None:
    outcomes = leakboard.check(home.attack("mine"), trust=True)
    assert next(outcomes).ok, "before the next rule runs"
    assert all(outcome.ok for outcome in outcomes)


@pytest.mark.parametrize("entries", [["los"], ["loss[power=2]"]])
def test_mistakes_are_the_commands(home: Home, entries: list[str]) -> None:
    with pytest.raises(leakboard.UserError):
        leakboard.run(entries, "smoke")
