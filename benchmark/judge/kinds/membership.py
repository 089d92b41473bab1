"""Membership inference: is a sample in the target's training set?"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark import metrics
from benchmark.api import Candidates, Knowledge, Predict, References, Samples
from benchmark.data.population import seed_of
from benchmark.errors import Fault
from benchmark.judge.bootstrap import epsilon_lower_bound, membership_report, references_auc
from benchmark.judge.scenario import Measurements, Scenario, checked_scores
from benchmark.metrics import Floats
from benchmark.networks.access import Answers, GuardedTarget


class Kind(Scenario):
    """Scores of candidates against their membership, with the null; online reference models are targets too."""

    def _prepare(self) -> tuple[Candidates, References | None, Knowledge]:
        """The arguments of the attack. Reference models come with their answers to the candidates that are scored."""
        access = self.attack.entry.access
        needs = sorted(self.attack.entry.needs)
        role = next((n.removeprefix("references-") for n in needs if n.startswith("references-")), None)
        references = self.artifacts.references(self.chain, self.seed, role) if role else None
        if references is not None:
            rows = torch.from_numpy(self.population.scored(access))
            references = replace(
                references, members=references.members[:, rows], log_posteriors=references.log_posteriors[:, rows]
            )
        return self.population.presented(access), references, self._knowledge()

    def fitted(self) -> tuple[Any, Candidates, References | None]:
        """A fitted attack, with the candidates and references that it is to score; for the contract checks."""
        self._open()
        attack = self.artifacts.attacker(self.attack, self.seed)
        candidates, references, knowledge = self._prepare()
        attack.fit(knowledge)
        return attack, candidates, references

    def judge(self, attack: Any) -> Measurements:
        # Before the clock starts: reading from the store is not the attack's time.
        candidates, references, knowledge = self._prepare()
        start = time.perf_counter()
        attack.fit(knowledge)
        scores = checked_scores(attack.answer(self.target, candidates, references), len(candidates))
        seconds = time.perf_counter() - start
        thresholds = self._thresholds(attack, references)
        threshold = None if thresholds is None else float(thresholds[0])
        if thresholds is not None and len(thresholds) not in (1, len(scores)):
            raise ValueError(
                f"score: expected as many attack seeds as on the shadow world ({len(thresholds)}), given {len(scores)}"
            )
        if thresholds is not None and len(thresholds) > 1:  # scores of different attack seeds have different scales
            scores, threshold = scores - thresholds[:, None], 0.0
        members = self.population.members[self.population.scored(self.attack.entry.access)]
        report = membership_report(
            scores,
            members,
            threshold,
            rng=np.random.default_rng(seed_of("bootstrap", self.seed)),
            resamples=self.artifacts.protocol.resamples,
            nulls=self.artifacts.protocol.nulls,
            null_rng=np.random.default_rng(seed_of("null", self.seed)),
        )
        cost = {"seconds": seconds}
        outcome = Measurements(
            report.metrics, report.intervals, cost, report.roc, report.histogram, report.null_auc, report.null_tpr
        )
        if self.artifacts.protocol.canaries:
            # The least over attack seeds: bounds are cut off at 0, so that their mean would be too large more often
            # than one is.
            outcome.metrics["epsilon_lower"] = min(epsilon_lower_bound(row, members) for row in scores)
        self._score_reference_models(candidates, references, outcome)
        return outcome

    def _thresholds(self, attack: Any, references: References | None) -> Floats | None:
        """Decision thresholds: one for each attack seed, set on the shadow world; or 0 for all (`own`); or None."""
        calibrate = self.attack.entry.calibrate
        if calibrate == "own":
            return np.array([np.nextafter(0.0, 1.0)])  # members are scores > 0, but a threshold decides by >=
        if calibrate == "none" or references is not None or self.artifacts.protocol.canaries:
            return None  # the shadow world knows nothing of mislabelled samples
        shadow = self._shadow()
        limit = self.artifacts.protocol.label_only if self.attack.entry.access == "label" else None
        sides = [
            s if limit is None else Samples(s.x[: limit // 2], s.y[: limit // 2])
            for s in (shadow.members, shadow.nonmembers)
        ]
        order = np.random.default_rng(seed_of("shadow candidates", self.seed)).permutation(sum(map(len, sides)))
        x, y = (torch.cat(parts)[torch.from_numpy(order)] for parts in ([s.x for s in sides], [s.y for s in sides]))
        candidates = Candidates(x, y, self.population.ids(len(y)))
        scores = checked_scores(attack.answer(shadow.target, candidates, None), len(y))
        members = order < len(sides[0])
        return np.array([metrics.best_threshold(row, members) for row in scores])

    def _score_reference_models(
        self, candidates: Candidates, references: References | None, outcome: Measurements
    ) -> None:
        """Attack each online reference model in turn, and add the mean AUC to the measurements (RULES 21)."""
        if references is None or not references.members.any():
            return
        if self.chain.guards:
            # Reference models share the shadow world's noise key: as targets they would face an attacker who knows
            # their secret.
            return
        m, scores = len(references.members), []
        for i in range(m):
            # A fresh instance: one that has seen all reference models would recognise each by its answers.
            self.artifacts.end_job()
            attack = self.artifacts.attacker(self.attack, self.seed)
            attack.fit(self._knowledge())
            others = torch.from_numpy(self.population.independent_of(i, m))
            stored = Answers()
            stored.add(candidates.x, references.log_posteriors[i])
            target = GuardedTarget(self.attack.entry.access, self._model("online", i).answers_to, stored)  # type: ignore[arg-type]
            other_references = References(
                references.members[others],
                references.log_posteriors[others],
                _ask_subset(references.ask, others),
                references.whole,
            )
            try:
                scores.append(checked_scores(attack.answer(target, candidates, other_references), len(candidates)))
            except (PermissionError, Fault) as problem:
                # White-box attacks are refused: reference models give no network away.
                if isinstance(problem, Fault) and not problem.refused:
                    raise
                return
        rng = np.random.default_rng(seed_of("bank", self.seed))  # the stream's name: another one changes the draws
        members = references.members.numpy()
        by_attack_seed = [references_auc(s, members, rng, resamples=200) for s in np.stack(scores, axis=1)]
        auc, low, high = np.mean(by_attack_seed, axis=0)
        outcome.metrics["auc_references"], outcome.intervals["auc_references"] = float(auc), (float(low), float(high))


def _ask_subset(ask: Predict, models: Tensor) -> Predict:
    """The `ask` of a subset (m,) of reference models."""
    return lambda x: ask(x)[models]
