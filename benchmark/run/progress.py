"""The time that is left of a plan, from what its jobs and those of earlier runs took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from benchmark.run.plan import Job, Plan
from benchmark.text import base_name

Sort = tuple[str, str, str]
"""What takes about the same time: the kind of a job, its defense without hyperparameters, its attack likewise."""


def sort_of(kind: str, defense: str, attack: str = "") -> Sort:
    """By names as jobs and results have them."""
    return kind, base_name(defense), base_name(attack)


class Progress:
    """Jobs done, and the seconds that the others will take.

    A job is expected to take the time of its kind, its attack and its defense, each as far as it was seen; of a kind
    that was not, the usual ratio to the others is taken (`_USUAL`). What is shown is smoothed: one odd job says little.
    """

    def __init__(self, plan: Plan, workers: int, before: Iterable[tuple[Sort, float, float]] = ()) -> None:
        """before: what earlier runs took, as the sort of job, how many units of it (`Job.units`) and all their seconds."""
        self.total, self.done, self.workers = len(plan.jobs), 0, workers
        self._left: dict[Sort, float] = defaultdict(float)
        for job in plan.jobs.values():
            self._left[_sort(job)] += job.units
        self._seen: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._spent, self._shown_total = 0.0, 0.0
        for sort, units, seconds in before:
            self._learn(sort, units, seconds)

    def advance(self, job: Job, seconds: float) -> None:
        """A job ended, after these seconds."""
        sort, units = _sort(job), job.units
        self.done += 1
        self._left[sort] -= units
        self._learn(sort, units, seconds)
        self._spent += seconds
        total = self._spent + self._raw()
        pull = min(1.0, 1 / min(self.done, max(1.0, self.total / 20)))
        self._shown_total += pull * (total - self._shown_total)

    @property
    def seconds_left(self) -> float:
        """Until the last job ends, if nothing waits; 0 while no time at all is known."""
        left, total = self._raw(), self._spent + self._raw()
        return left * (self._shown_total / total if self._shown_total and total else 1.0) / self.workers

    def _learn(self, sort: Sort, units: float, seconds: float) -> None:
        kind, defense, attack = sort
        by_attack = self._by_attack(kind, attack)
        for place, expected in (
            ((), units * _USUAL[kind]), ((kind,), units), ((kind, "attack", attack), units),
            ((kind, "defense", defense), units * by_attack), (sort, units),
        ):  # fmt: skip
            seen = self._seen[place]
            seen[0] += seconds
            seen[1] += expected

    def _raw(self) -> float:
        """Seconds of all workers together, by what is known now."""
        return sum(units * self._rate(sort) for sort, units in self._left.items())

    def _rate(self, sort: Sort) -> float:
        """Seconds of a unit of work. Each step counts a prior unit of the step before it."""
        kind, defense, attack = sort
        by_attack = self._by_attack(kind, attack)
        seconds, expected = self._seen[kind, "defense", defense]
        found = by_attack * (seconds + by_attack) / (expected + by_attack) if by_attack else 0.0
        seconds, units = self._seen[sort]  # another seed's
        return (seconds + found / 4) / (units + 1 / 4)

    def _by_attack(self, kind: str, attack: str) -> float:
        seconds, usual = self._seen[()]
        found = _USUAL[kind] * seconds / usual if usual else 0.0
        for place in ((kind,), (kind, "attack", attack)):
            seconds, units = self._seen[place]
            found = (seconds + found) / (units + 1)
        return found


_USUAL = {"networks": 5.0, "guard": 15.0, "answers": 1.0, "scenario": 2.0}
"""Seconds of a unit of each kind, on digits and two cores: where only some kinds are done, ratios stand for the others."""


def _sort(job: Job) -> Sort:
    return sort_of(job.kind, job.defense, job.attack)
