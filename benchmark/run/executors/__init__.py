"""Executors: what gives work to workers. A module a way to have workers; `execute` and tuning run on any of them.

A worker does one piece of work after the other, in the order in which they were handed to it. Whatever becomes of a
worker, each piece of work that was handed in ends exactly once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Work = TypeVar("Work")
Made = TypeVar("Made")

How = Literal["made", "raised", "lost", "hung", "not begun"]
"""How a piece of work ended: it gave something; it raised; its worker died, or was stopped for it took too long; or its
worker was replaced before it came to it."""


@dataclass(frozen=True)
class Ended(Generic[Work, Made]):
    """One piece of work that is with no worker any more."""

    work: Work
    how: How
    made: Made | None = None
    problem: BaseException | None = None


class Executor(ABC, Generic[Work, Made]):
    """Some workers, numbered from 0."""

    workers: int

    @abstractmethod
    def at_hand(self, worker: int) -> Sequence[Work]:
        """What a worker has: first what it does, then what waits for it there."""

    @abstractmethod
    def submit(self, worker: int, work: Work) -> bool:
        """Hand a worker something to do after what it has; False where it cannot take it now."""

    @abstractmethod
    def ended(self, timeout: float) -> list[Ended[Work, Made]]:
        """What ended since the last call; where nothing has, what ends within these seconds. [] for nothing.

        A worker that died or hangs is replaced before its work is returned.
        """

    @abstractmethod
    def stop(self, *, kill: bool = False) -> None:
        """End all workers, at once with `kill`; what they do is lost. Work that was stored stays stored."""

    @property
    def busy(self) -> bool:
        """Whether any worker has work."""
        return any(self.at_hand(worker) for worker in range(self.workers))
