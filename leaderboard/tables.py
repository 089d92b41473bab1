"""What the app shows: the published results of a protocol and what MLflow has since."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmark.result import Result, Trust
from leaderboard.publish import OFFICIAL, load, provenance
from leaderboard.ranking import TRUST, Board, readable, split_of

Fetch = Callable[[str, "int | None"], list[Result]]
"""fetch(protocol, since in ms since 1970 or None) -> the results that the tracking server has since."""

OVERLAP_SECONDS = 300
"""A run may appear in the store after a run that finished later; clocks of machines differ."""

ROOT = Path(__file__).resolve().parent.parent


def published_folder() -> Path:
    """Where published protocols lie; LEAKBOARD_PUBLISHED overrides it."""
    return Path(os.environ.get("LEAKBOARD_PUBLISHED") or ROOT / "leaderboard" / "published")


def least_trust() -> Trust:
    """The weakest trust that is ranked unless somebody chooses otherwise: LEAKBOARD_PUBLIC makes the board strict."""
    return "reproduced" if os.environ.get("LEAKBOARD_PUBLIC", "0") not in ("", "0") else "self-reported"


def protocols() -> list[str]:
    """The names of all protocols, published ones first."""
    folders = [
        path for pattern in ("*", f"*/{OFFICIAL}") for path in published_folder().glob(f"{pattern}/scenarios.parquet")
    ]
    published = sorted({path.relative_to(published_folder()).parts[0] for path in folders})
    defined = sorted(path.stem for path in (ROOT / "benchmark" / "protocols").glob("*.yaml"))
    return list(dict.fromkeys(published + defined))


def board_of(protocol: str) -> Board:
    """The board's settings, from the protocol or else from what was published with it.

    Raises ValueError where neither has them.
    """
    from benchmark import errors
    from benchmark import protocol as definitions

    try:
        return Board(**definitions.load(protocol).board())
    except (errors.UserError, ValueError) as error:
        settings = provenance(published_folder() / protocol).get("board")
        if not isinstance(settings, dict):
            raise ValueError(f"no board settings for {protocol}: {str(error).splitlines()[0]}") from None
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return Board(**fields)


def cards() -> dict[str, list[Any]]:
    """The registry's entries by id; an attack and a defense may share one."""
    from benchmark.registry import Registry

    found: dict[str, list[Any]] = {}
    for entry in Registry(ROOT / "submissions").entries.values():
        found.setdefault(entry.id, []).append(entry)
    return found


def newest(results: Iterable[Result], least: Trust = "self-reported") -> list[Result]:
    """One result a scenario, the last to finish; versions of the protocol and splits stay apart.

    Rows that are trusted less than `least` give way to those that are not. A row that was reproduced keeps
    its mark when the same scenario (the same key) gives the same numbers once more.
    """
    level = {trust: i for i, trust in enumerate(TRUST)}
    best: dict[tuple[object, ...], Result] = {}
    for r in sorted(results, key=lambda r: (level[r.trust] >= level[least], r.finished)):
        scenario = r.protocol_digest, split_of(r), r.task, r.attack, r.defense, r.seed
        old = best.get(scenario)
        if old and (old.key, old.metrics) == (r.key, r.metrics) and level[old.trust] > level[r.trust]:
            continue
        best[scenario] = r
    return list(best.values())


def editions(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results that may share a table, under a name each, the one with the newest result first."""
    groups: dict[str, list[Result]] = {}
    for r in sorted(results, key=lambda r: -r.finished):
        groups.setdefault(f"{split_of(r)} split, version {r.protocol_digest[:8]}", []).append(r)
    return groups


class Source:
    """The results of one protocol in memory, read once and then brought up to date by increments."""

    def __init__(self, protocol: str, folder: Path, fetch: Fetch) -> None:
        self.protocol, self.message = protocol, ""
        self._folder, self._fetch, self._lock = folder, fetch, threading.Lock()
        self._published: dict[Path, int] = {}
        self._last: float | None = None
        """When the newest result that MLflow gave was finished; what is published says nothing of that."""
        self.results: list[Result] = []

    def refresh(self) -> bool:
        """Look for news; whether there were any. What goes wrong is told in `message`, in one line."""
        with self._lock:
            before, self.message = self.results, ""
            folder = self._folder / self.protocol
            for step in (lambda: self._read(folder), lambda: self._read(folder / OFFICIAL), self._ask):
                try:
                    self.results = newest([*self.results, *map(readable, step())], least_trust())
                except (ValueError, ConnectionError) as error:
                    self.message = str(error).splitlines()[0] if str(error) else type(error).__name__
            # `newest` makes a new list each time: records are immutable, so their keys, times and marks tell.
            return [(r.key, r.finished, r.trust) for r in before] != [
                (r.key, r.finished, r.trust) for r in self.results
            ]

    def _read(self, folder: Path) -> list[Result]:
        path = folder / "provenance.json"
        changed = path.stat().st_mtime_ns if path.exists() else 0
        if changed == self._published.get(folder, 0):
            return []
        results = load(folder)
        self._published[folder] = changed
        return results

    def _ask(self) -> list[Result]:
        # A clock that once ran ahead must not hide what came after it was set back.
        last = None if self._last is None else min(self._last, time.time())
        found = self._fetch(self.protocol, None if last is None else int((last - OVERLAP_SECONDS) * 1000))
        self._last = max((r.finished for r in found), default=self._last)
        return found


@functools.cache
def source(protocol: str) -> Source:
    """The one source of a protocol in this process, read when it is first asked for."""
    found = Source(protocol, published_folder(), _fetch)
    found.refresh()
    return found


def current_results(protocol: str) -> list[Result]:
    """Published results and what MLflow has since, the newest of each scenario."""
    found = source(protocol)
    found.refresh()
    return found.results


def _fetch(protocol: str, since_ms: int | None) -> list[Result]:
    try:
        from benchmark.tracking import fetch_results
    except ImportError as error:
        raise ConnectionError(f"MLflow is not available: {error}") from None
    found: list[Result] = fetch_results(protocol, since_ms)
    return found
