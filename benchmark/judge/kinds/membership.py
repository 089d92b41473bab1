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
from benchmark.judge.scenario import Outcome, Scenario, checked_scores
from benchmark.metrics import Floats
from benchmark.networks.access import Answers, GuardedTarget


class Kind(Scenario):
    """Scores of candidates against who was trained on, with their null and, where reference models serve, each of them as a target."""

    def _prepare(self) -> tuple[Candidates, References | None, Knowledge]:
        access = self.attack.entry.access
        role = next(
            (n.removeprefix("references-") for n in sorted(self.attack.entry.needs) if n.startswith("references-")),
            None,
        )
        references = self.artifacts.references(self.chain, self.seed, role) if role else None
        if references is not None:
            rows = torch.from_numpy(self.population.scored(access))
            references = replace(
                references, members=references.members[:, rows], log_posteriors=references.log_posteriors[:, rows]
            )
        return self.population.presented(access), references, self._knowledge()

    def fitted(self) -> tuple[Any, Candidates, References | None]:
        """A fitted membership attack, and what it is to score; for the contract checks."""
        self._open()
        attack = self.artifacts.attacker(self.attack, self.seed)
        candidates, references, knowledge = self._prepare()
        attack.fit(knowledge)
        return attack, candidates, references

    def judge(self, attack: Any) -> Outcome:
        # What an attack reads from the store is not its own time.
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
        if thresholds is not None and len(thresholds) > 1:  # each attack seed has a scale of its own
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
        outcome = Outcome(
            report.metrics, report.intervals, cost, report.roc, report.histogram, report.null_auc, report.null_tpr
        )
        if self.artifacts.protocol.canaries:
            # Of several attack seeds the least: bounds end at 0, so that a mean would exceed it more often than one.
            outcome.metrics["epsilon_lower"] = min(epsilon_lower_bound(row, members) for row in scores)
        self._every_reference_model(candidates, references, outcome)
        return outcome

    def _thresholds(self, attack: Any, references: References | None) -> Floats | None:
        """Where each attack seed decides: on the shadow world, at 0 by the attack's own rule, or nowhere."""
        calibrate = self.attack.entry.calibrate
        if calibrate == "own":
            return np.array([np.nextafter(0.0, 1.0)])  # the rule is score > 0
        if calibrate == "none" or references is not None or self.artifacts.protocol.canaries:
            return None  # the shadow world knows nothing of mislabelled samples
        shadow = self._shadow()
        few = self.artifacts.protocol.label_only if self.attack.entry.access == "label" else None
        sides = [
            s if few is None else Samples(s.x[: few // 2], s.y[: few // 2]) for s in (shadow.members, shadow.nonmembers)
        ]
        order = np.random.default_rng(seed_of("shadow candidates", self.seed)).permutation(sum(map(len, sides)))
        x, y = (torch.cat(both)[torch.from_numpy(order)] for both in ([s.x for s in sides], [s.y for s in sides]))
        candidates = Candidates(x, y, self.population.ids(len(y)))
        scores = checked_scores(attack.answer(shadow.target, candidates, None), len(y))
        members = order < len(sides[0])
        return np.array([metrics.best_threshold(row, members) for row in scores])

    def _every_reference_model(self, candidates: Candidates, references: References | None, outcome: Outcome) -> None:
        """Where reference models of the population serve the attack, each of them is a target too (RULES 21)."""
        if references is None or not references.members.any():
            return
        if self.chain.guards:
            # Reference models share the shadow world's noise: as targets they would face an attacker who knows its secret.
            return
        m, rows = len(references.members), []
        for i in range(m):
            # A fresh instance: one that has seen them all would know each model by its answers.
            self.artifacts.end_job()
            attack = self.artifacts.attacker(self.attack, self.seed)
            attack.fit(self._knowledge())
            others = torch.from_numpy(self.population.apart(i, m))
            answers = Answers()
            answers.add(candidates.x, references.log_posteriors[i])
            target = GuardedTarget(self.attack.entry.access, self._model("online", i).asked, answers)  # type: ignore[arg-type]
            rest = References(
                references.members[others],
                references.log_posteriors[others],
                _some(references.ask, others),
                references.whole,
            )
            try:
                rows.append(checked_scores(attack.answer(target, candidates, rest), len(candidates)))
            except (PermissionError, Fault) as problem:
                # No reference model gives its network away.
                if isinstance(problem, Fault) and not problem.refused:
                    raise
                return
        rng = np.random.default_rng(seed_of("bank", self.seed))  # streams keep the names that they have had
        of_seeds = [references_auc(s, references.members.numpy(), rng, resamples=200) for s in np.stack(rows, axis=1)]
        auc, low, high = np.mean(of_seeds, axis=0)
        outcome.metrics["auc_references"], outcome.intervals["auc_references"] = float(auc), (float(low), float(high))


def _some(ask: Predict, models: Tensor) -> Predict:
    """What some reference models answer."""
    return lambda x: ask(x)[models]
