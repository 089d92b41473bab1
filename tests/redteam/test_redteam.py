"""No hostile submission succeeds, and each is stopped by what it says."""

from __future__ import annotations

import pytest

from benchmark.isolation import Launcher
from tests.redteam.run import Ending, attempts, everything

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endings(launcher: Launcher) -> dict[str, Ending]:
    """All of them, once."""
    return {ending.id: ending for ending in attempts(everything())}


@pytest.mark.parametrize("id", [h.id for h in everything()])
def test_a_hostile_submission_is_stopped(endings: dict[str, Ending], id: str) -> None:
    """By facts of the host, not by what the submission says."""
    assert not endings[id].succeeded
    assert not endings[id].wrong
