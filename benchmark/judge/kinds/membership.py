"""Membership inference: is a sample in the target's training set?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.api import Candidates, Knowledge, References, Samples, World
from benchmark.data.population import seed_of
from benchmark.judge.bootstrap import epsilon_lower_bound, mean_report, membership_report
from benchmark.judge.scenario import Measurements, Scenario, checked_scores
from benchmark.metrics import Bools, Floats

Instance = Callable[[], AbstractContextManager[Any]]
"""Gives a fitted attack that has met no target since, and ends it."""
_OF_ONE_TARGET = {"partial", "certificate"}
"""Knowledge that each target has of its own, so that an attack which needs it is fitted for each."""


class Kind(Scenario):
    """Scores of candidates against their membership in each target, with the null."""

    every_target = True

    def _prepare(self) -> tuple[Candidates, References | None]:
        """What the attack scores, and by what. Reference models come with their answers to the candidates that are scored."""
        access = self.attack.entry.access
        needs = sorted(self.attack.entry.needs)
        role = next((n.removeprefix("references-") for n in needs if n.startswith("references-")), None)
        references = self.artifacts.references(self.chain, self.seed, role, self.number) if role else None
        if references is not None:
            rows = torch.from_numpy(self.population.scored(access))
            references = replace(
                references, members=references.members[:, rows], log_posteriors=references.log_posteriors[:, rows]
            )
        return self.population.presented(access), references

    def _shadow(self) -> World:
        """The shadow world; or, where a protocol has none for thresholds, the known samples of the target (RULES 5)."""
        if self.artifacts.protocol.thresholds == "partial":
            return World(self.target, *map(self.population.samples, self.population.known(self.number)))
        return super()._shadow()

    def fitted(self) -> tuple[Any, Candidates, References | None]:
        """A fitted attack, with the candidates and references that it is to score; for the contract checks."""
        self._open()
        attack = self.artifacts.attacker(self.attack, self.seed)
        candidates, references = self._prepare()
        attack.fit(self._knowledge())
        return attack, candidates, references

    def judge(self, attack: Any) -> Measurements:
        numbers = self.artifacts.targets(self.chain, self.attack)
        # What it learns from may be of one target: its partial knowledge, or models behind that target's guards.
        entry = self.attack.entry
        of_one = bool(entry.needs & _OF_ONE_TARGET) or self.attack.adversary.guards == "target"
        if self.artifacts.protocol.thresholds == "partial":
            of_one |= "shadow" in entry.needs or entry.calibrate == "shadow"
        met: list[tuple[Floats, Floats | None]] = []
        seconds, queries = 0.0, 0
        for number in numbers:
            if number:
                self.artifacts.predictors.clear()  # a target is met once: its guards' processes end
                self._open(number)
            # Before the clock starts: reading from the store is not the attack's time.
            candidates, references = self._prepare()
            knowledge = self._knowledge() if number == 0 or of_one else None
            start = time.perf_counter()
            if knowledge is not None:
                attack = self.artifacts.attacker(self.attack, self.seed) if number else attack
                instance = self._fit(attack, knowledge, alone=len(numbers) == 1)
            with instance() as fresh:
                scores = checked_scores(fresh.answer(self.target, candidates, references), len(candidates))
            seconds, queries = seconds + time.perf_counter() - start, queries + self.target.queries
            if knowledge is not None:
                thresholds = self._thresholds(instance, references)
            met.append((scores, thresholds))
        outcome = self._report(met)
        return replace(outcome, cost={"seconds": seconds / len(numbers), "queries": queries / len(numbers)})

    def _fit(self, attack: Any, knowledge: Knowledge, *, alone: bool) -> Instance:
        """Fit the attack, and return what gives an instance that has met no target since, for as long as it is entered.

        One that has answered for several targets would hold reference models of its own. `alone`: there is one target.
        """
        attack.fit(knowledge)
        if alone:
            return lambda: nullcontext(attack)

        def fit_again() -> Any:
            other = self.artifacts.attacker(self.attack, self.seed)
            other.fit(knowledge)
            return other

        make = attack.freeze() or fit_again
        return lambda: closing(make())

    def _report(self, met: Sequence[tuple[Floats, Floats | None]]) -> Measurements:
        """Measurements of the scores (s, n) on each target in turn, and of its thresholds: one for each attack seed, or for all."""
        protocol, rows = self.artifacts.protocol, self.population.scored(self.attack.entry.access)
        seeds = len(met[0][0])
        scores: list[tuple[Floats, float | None]] = []
        for each, thresholds in met:
            if len(each) != seeds:
                raise ValueError(f"score: expected as many attack seeds for every target ({seeds}), given {len(each)}")
            if thresholds is not None and len(thresholds) not in (1, seeds):
                raise ValueError(
                    f"score: expected as many attack seeds as where its thresholds are set ({len(thresholds)}), given {seeds}"
                )
            if thresholds is not None and len(thresholds) > 1:  # scores of different attack seeds have different scales
                scores.append((each - thresholds[:, None], 0.0))
            else:
                scores.append((each, None if thresholds is None else float(thresholds[0])))
        sides = [self.population.members_of("target", k)[rows] for k in range(len(scores))]
        # Equal generators: the null of the mean over targets permutes them alike.
        reports = [
            membership_report(
                each, members, threshold, rng=np.random.default_rng(seed_of("bootstrap", self.seed)),
                resamples=protocol.resamples if len(scores) == 1 else 0, nulls=protocol.nulls,
                null_rng=np.random.default_rng(seed_of("null", self.seed)),
            )
            for (each, threshold), members in zip(scores, sides, strict=True)
        ]  # fmt: skip
        report = reports[0] if len(reports) == 1 else mean_report(reports, protocol.pair)
        outcome = Measurements(
            report.metrics, report.intervals, {}, report.roc, report.histogram, report.null_auc, report.null_tpr,
            values=report.values,
        )  # fmt: skip
        if aucs := self._by_class([each[0] for each, _ in scores], sides, outcome.metrics):
            outcome.values = report.values | {"class_auc": aucs}
        if protocol.canaries:
            # The least over attack seeds: bounds are cut off at 0, so that their mean would be too large more often
            # than one is.
            outcome.metrics["epsilon_lower"] = min(
                epsilon_lower_bound(row, members)
                for (each, _), members in zip(scores, sides, strict=True)
                for row in each
            )
        return outcome

    def _by_class(self, scores: Sequence[Floats], sides: Sequence[Bools], found: dict[str, float]) -> tuple[float, ...]:
        """The AUC within each class, mean over the targets, of scores (n,) and members (n,) on each; () where a class lacks a side.

        Enters into `found` what is known of all classes. Of several attack seeds the first counts.
        """
        population, classes = self.population, self.population.data.classes
        rows = population.candidates[population.scored(self.attack.entry.access)]
        y = population.labels[torch.from_numpy(rows)].numpy()

        def within(groups: NDArray[np.int64]) -> Floats:
            each = zip(scores, sides, strict=True)
            means: Floats = np.mean([metrics.auc_by_class(s, side, groups, classes) for s, side in each], axis=0)
            return means

        aucs = within(y)
        if not np.isfinite(aucs).all():
            return ()
        rng = np.random.default_rng(seed_of("classes", self.seed))
        null = [np.nanstd(within(rng.permutation(y)), ddof=1) for _ in range(self.artifacts.protocol.nulls)]
        found["class_auc"], found["class_auc_sd"] = float(aucs.mean()), float(aucs.std(ddof=1))
        found["class_auc_sd_null"] = float(np.quantile(null, 0.95))
        return tuple(aucs.tolist())

    def _thresholds(self, instance: Instance, references: References | None) -> Floats | None:
        """Decision thresholds: one for each attack seed, set on the shadow world or the known samples; or 0 for all (`own`); or None."""
        calibrate = self.attack.entry.calibrate
        if calibrate == "own":
            return np.array([np.nextafter(0.0, 1.0)])  # members are scores > 0, but a threshold decides by >=
        protocol = self.artifacts.protocol
        nowhere = protocol.thresholds == "shadow" and not protocol.split.shadow_world
        if calibrate == "none" or references is not None or protocol.canaries or nowhere:
            return None  # neither knows anything of mislabelled samples
        shadow = self._shadow()
        limit = self.artifacts.protocol.label_only if self.attack.entry.access == "label" else None
        sides = [
            s if limit is None else Samples(s.x[: limit // 2], s.y[: limit // 2])
            for s in (shadow.members, shadow.nonmembers)
        ]
        order = np.random.default_rng(seed_of("shadow candidates", self.seed)).permutation(sum(map(len, sides)))
        x, y = (torch.cat(parts)[torch.from_numpy(order)] for parts in ([s.x for s in sides], [s.y for s in sides]))
        candidates = Candidates(x, y, self.population.ids(len(y)))
        with instance() as attack:
            scores = checked_scores(attack.answer(shadow.target, candidates, None), len(y))
        members = order < len(sides[0])
        return np.array([metrics.best_threshold(row, members) for row in scores])
