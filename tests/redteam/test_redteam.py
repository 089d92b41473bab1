"""No hostile submission succeeds, and each is stopped by what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmark.sandbox.host import Launcher
from tests.redteam.run import Ending, Hostile, everything, judging

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def attempt(launcher: Launcher) -> Iterator[Callable[[Hostile], Ending]]:
    """A host with secrets, and a judge in a process of its own."""
    with judging(1) as pool:
        yield lambda hostile: next(pool([hostile]))


@pytest.mark.parametrize("hostile", everything(), ids=lambda h: h.id)
def test_a_hostile_submission_is_stopped(attempt: Callable[[Hostile], Ending], hostile: Hostile) -> None:
    """By facts of the host, not by what the submission says."""
    ending = attempt(hostile)
    assert not ending.succeeded
    assert not ending.wrong
