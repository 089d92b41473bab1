"""Estimates the time left of a plan, from the times of its finished jobs and of those of earlier runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from benchmark.run.plan import Job, Plan
from benchmark.text import base_name

Sort = tuple[str, str, str]
"""Jobs of one sort take about the same time: their kind, and the names of their defense and attack without
hyperparameters."""


def sort_of(kind: str, defense: str, attack: str = "") -> Sort:
    """The sort of a job, from names with hyperparameters."""
    return kind, base_name(defense), base_name(attack)


class Progress:
    """Jobs done, and the seconds that the others will take.

    A job is expected to take the mean time of its kind, its attack and its defense, as far as such jobs were seen. For
    a kind that was not seen, `_USUAL_SECONDS` gives the ratio to the others. The estimate is smoothed, so that one
    unusual job changes it little.
    """

    def __init__(self, plan: Plan, workers: int, before: Iterable[tuple[Sort, float, float]] = ()) -> None:
        """before: jobs of earlier runs, as sort, number of units (`Job.units`), and seconds in all."""
        self.total, self.done, self.workers = len(plan.jobs), 0, workers
        self._left: dict[Sort, float] = defaultdict(float)
        for job in plan.jobs.values():
            self._left[_sort(job)] += job.units
        self._seen: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._spent, self._smoothed_total = 0.0, 0.0
        for sort, units, seconds in before:
            self._learn(sort, units, seconds)

    def advance(self, job: Job, seconds: float) -> None:
        """Count a job that ended after these seconds."""
        sort, units = _sort(job), job.units
        self.done += 1
        self._left[sort] -= units
        self._learn(sort, units, seconds)
        self._spent += seconds
        total = self._spent + self._remaining_work()
        pull = min(1.0, 1 / min(self.done, max(1.0, self.total / 20)))
        self._smoothed_total += pull * (total - self._smoothed_total)

    @property
    def seconds_left(self) -> float:
        """Seconds until the last job ends, if all workers are always busy; 0 while no time is known."""
        left, total = self._remaining_work(), self._spent + self._remaining_work()
        return left * (self._smoothed_total / total if self._smoothed_total and total else 1.0) / self.workers

    def _learn(self, sort: Sort, units: float, seconds: float) -> None:
        kind, defense, attack = sort
        by_attack = self._by_attack(kind, attack)
        for place, expected in (
            ((), units * _USUAL_SECONDS[kind]), ((kind,), units), ((kind, "attack", attack), units),
            ((kind, "defense", defense), units * by_attack), (sort, units),
        ):  # fmt: skip
            seen = self._seen[place]
            seen[0] += seconds
            seen[1] += expected

    def _remaining_work(self) -> float:
        """Seconds that the remaining jobs take in sum, without smoothing."""
        return sum(units * self._rate(sort) for sort, units in self._left.items())

    def _rate(self, sort: Sort) -> float:
        """Seconds of a unit of this sort: the mean of what was seen, with a coarser estimate as a quarter of a unit."""
        kind, defense, attack = sort
        by_attack = self._by_attack(kind, attack)
        seconds, expected = self._seen[kind, "defense", defense]
        prior = by_attack * (seconds + by_attack) / (expected + by_attack) if by_attack else 0.0
        seconds, units = self._seen[sort]  # of other seeds
        return (seconds + prior / 4) / (units + 1 / 4)

    def _by_attack(self, kind: str, attack: str) -> float:
        seconds, usual_seconds = self._seen[()]
        estimate = _USUAL_SECONDS[kind] * seconds / usual_seconds if usual_seconds else 0.0
        for place in ((kind,), (kind, "attack", attack)):
            seconds, units = self._seen[place]
            estimate = (seconds + estimate) / (units + 1)
        return estimate


_USUAL_SECONDS = {"networks": 5.0, "guard": 15.0, "answers": 1.0, "scenario": 2.0}
"""Seconds of a unit of each kind, on digits and two cores; their ratios serve for kinds that were not seen yet."""


def _sort(job: Job) -> Sort:
    return sort_of(job.kind, job.defense, job.attack)
