"""Hypothesis on the readers: a few examples in every test run, with LEAKBOARD_FUZZ_MINUTES as many as fit."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

MINUTES = float(os.environ.get("LEAKBOARD_FUZZ_MINUTES") or 0)
"""For all targets together; 0 is the short way."""
SECONDS, MEGABYTES = 5.0, 500
"""What reading one thing may take of the processor and of memory."""

_targets: list[str] = []


def fuzz(strategy: SearchStrategy[Any], examples: int = 150) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Turn check(value) into a test. Each value must be done with in bounded time and memory."""

    def decorate(check: Callable[[Any], None]) -> Callable[[], None]:
        _targets.append(check.__name__)

        def bounded_check(value: Any) -> None:
            with bounded():
                check(value)

        apart = {"deadline": None, "suppress_health_check": list(HealthCheck)}
        short = settings(max_examples=examples, derandomize=True, database=None, **apart)
        long = settings(max_examples=1000, **apart)
        found = (long if MINUTES else short)(given(strategy)(bounded_check))

        def test() -> None:
            end = time.monotonic() + 60 * MINUTES / len(_targets)
            found()
            while time.monotonic() < end:
                found()

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorate


@contextlib.contextmanager
def bounded(seconds: float = SECONDS, megabytes: float = MEGABYTES) -> Iterator[None]:
    """Fails where the block takes more of the processor or of memory."""
    start, before = time.process_time(), _peak()
    yield
    spent, grown = time.process_time() - start, _peak() - before
    assert spent < seconds, f"{spent:.1f} s of the processor"
    assert grown < megabytes, f"{grown:.0f} MB of memory"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clean_line(text: str, most: int = 1500) -> None:
    """An error that can be shown as it is."""
    assert text and text.isprintable(), ascii(text)
    assert len(text) <= most, len(text)
