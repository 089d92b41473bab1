"""Executors, which give work to workers. Each module is one kind of worker; `execute` and tuning run on any.

A worker does its pieces of work one after another, in the order in which it got them. Whatever becomes of a
worker, each piece of work that was submitted is reported as ended exactly once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Work = TypeVar("Work")
Made = TypeVar("Made")

How = Literal["made", "raised", "lost", "hung", "not begun"]
"""How a piece of work ended. made: it returned something; raised: it raised; lost: its worker died; hung: it took too
long, and its worker was stopped; not begun: its worker was replaced before it began this one."""


@dataclass(frozen=True)
class Ended(Generic[Work, Made]):
    """One piece of work that has ended. `made`: what it returned; `problem`: what it raised."""

    work: Work
    how: How
    made: Made | None = None
    problem: BaseException | None = None


class Executor(ABC, Generic[Work, Made]):
    """Some workers, numbered from 0."""

    workers: int

    @abstractmethod
    def at_hand(self, worker: int) -> Sequence[Work]:
        """The work of a worker: first the piece that it is doing, then those that wait."""

    @abstractmethod
    def submit(self, worker: int, work: Work) -> bool:
        """Give a worker a piece of work, to be done after what it has. False if it cannot take it now."""

    @abstractmethod
    def ended(self, timeout: float) -> list[Ended[Work, Made]]:
        """The work that ended since the last call. If none has, wait up to `timeout` seconds for some; [] if none ends.

        A worker that died or hangs is replaced before its work is returned.
        """

    @abstractmethod
    def stop(self, *, kill: bool = False) -> None:
        """End all workers, at once with `kill`. Their current work is lost; what they have stored is kept."""

    @property
    def busy(self) -> bool:
        """Whether any worker has work."""
        return any(self.at_hand(worker) for worker in range(self.workers))
