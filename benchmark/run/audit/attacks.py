"""Runs the membership attacks of the pool on a table of answers: the submissions' own code, with the table as the target.

What an attack learns from are *known* records, a part drawn once: they stand for the shadow world, and for partial knowledge of
the target (RULES 5). It is scored on the others alone. Fitting on either half and scoring the other would use every record, but
the two scores are not independent: a direction that happens to tell the members of one half finds, with the same chance, those
of the other, so that permuted labels would promise too narrow a null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from benchmark.api import Candidates, Knowledge, References, Samples, Target, World
from benchmark.data.population import seed_of
from benchmark.entries.registry import Part, Registry
from benchmark.errors import UserError
from benchmark.judge.scenario import checked_scores
from benchmark.metrics import Bools, Floats, best_threshold
from benchmark.run.audit.predictions import Predictions

POOL = Path(__file__).with_name("pool.yaml")
KNOWN_SHARE, KNOWN_MOST = 0.25, 4000
"""The known records: a quarter of the members and of the non-members, at most so many of each."""
_CODES = 2.0**24
"""A record stands for its image as its number over this, which float32 holds exactly."""


@dataclass(frozen=True)
class Scored:
    """What an attack made of the records: scores (s, m) of the records `rows` (m,), s attack seeds, higher for members.

    `calls` (s, c): whether the records `called` (c,), none of which set a threshold, are called members; None where the attack
    has no threshold.
    """

    part: Part
    rows: NDArray[np.int64]
    scores: Floats
    called: NDArray[np.int64]
    calls: Bools | None

    @property
    def calibrated(self) -> bool:
        """Whether it corrects for how hard a record is, by reference models."""
        return any(need.startswith("references") for need in self.part.entry.needs)

    @property
    def fitted(self) -> bool:
        """Whether it learns from known records."""
        return bool(self.part.entry.needs & {"shadow", "partial"})


@dataclass(frozen=True)
class NotRun:
    """An attack that did not run, and why."""

    name: str
    title: str
    reason: str


class Table(Target):
    """Answers for the records of a table; a record's number over 2^24 stands for its image. It answers nothing else."""

    def __init__(self, answers: Tensor) -> None:
        self.answers = answers
        """(n, k) log-posteriors"""

    def labels(self, x: Tensor) -> Tensor:
        return self.log_posteriors(x).argmax(1)

    def log_posteriors(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (1, 1, 1):
            raise PermissionError("a table answers for its records alone")
        rows = (x.flatten().double() * _CODES).round().long()
        if len(rows) and ((image_of(rows) != x).any() or rows.min() < 0 or rows.max() >= len(self.answers)):
            raise PermissionError("a table answers for its records alone")
        return self.answers[rows]


def image_of(rows: Tensor) -> Tensor:
    """What stands for the images (n, 1, 1, 1) of these records (n,)."""
    return (rows.double() / _CODES).float().reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class Bench:
    """The records as attacks meet them: in an order drawn by `seed`, with known ones drawn by it, too."""

    given: Predictions
    seed: int

    @cached_property
    def known(self) -> Bools:
        """(n,): the records that attacks may learn from."""
        rng, known = np.random.default_rng(seed_of("known", self.seed)), np.zeros(len(self.given), bool)
        for side in (True, False):
            rows = np.flatnonzero(self.given.members == side)
            known[rng.choice(rows, min(int(KNOWN_SHARE * len(rows)), KNOWN_MOST), replace=False)] = True
        return known

    @cached_property
    def target(self) -> Table:
        return Table(torch.from_numpy(self.given.log_posteriors))

    @cached_property
    def y(self) -> Tensor:
        return torch.from_numpy(self.given.y)

    def samples(self, rows: NDArray[np.int64]) -> Samples:
        picked = torch.from_numpy(rows)
        return Samples(image_of(picked), self.y[picked])

    def _world(self, target: Target) -> World:
        known = [np.flatnonzero(self.known & (self.given.members == side)) for side in (True, False)]
        return World(target, *map(self.samples, known))

    def knowledge(self, part: Part) -> Knowledge:
        """What an attack may learn from. With offline references its shadow model is the first of them."""
        needs, references = part.entry.needs, self.given.references
        shadow: Target = self.target
        if "references-offline" in needs and references is not None:
            shadow = Table(torch.from_numpy(references[0]))
        return Knowledge(
            self.given.classes, (1, 1, 1), seed_of("attack", part.name, self.seed), torch.device("cpu"),
            shadow=self._world(shadow) if "shadow" in needs else None,
            partial=self._world(self.target) if "partial" in needs else None,
        )  # fmt: skip

    def references(self, part: Part, rows: NDArray[np.int64]) -> References | None:
        if not any(need.startswith("references") for need in part.entry.needs):
            return None
        answers, members = self.given.references, self.given.reference_members
        assert answers is not None
        inside = np.zeros(answers.shape[:2], bool) if members is None else members
        return References(torch.from_numpy(inside[:, rows]), torch.from_numpy(answers[:, rows]))

    def run(self, part: Part) -> Scored:
        """Fit the attack, and score every record that it may not have learnt from. What it raises passes through."""
        attack = part.create()
        attack.fit(self.knowledge(part))
        learns = bool(part.entry.needs & {"shadow", "partial"})
        rest, everyone = np.flatnonzero(~self.known), np.arange(len(self.given))
        rows = rest if learns else everyone
        order = np.random.default_rng(seed_of("order", self.seed)).permutation(len(rows))
        shown = self.samples(rows[order])
        candidates = Candidates(shown.x, shown.y, torch.from_numpy(order))
        found = checked_scores(attack.score(self.target, candidates, self.references(part, rows[order])), len(rows))
        scores = np.empty_like(found)
        scores[:, order] = found
        return self._decided(part, rows, scores, rest)

    def _decided(self, part: Part, rows: NDArray[np.int64], scores: Floats, rest: NDArray[np.int64]) -> Scored:
        """With the decisions of the attack's rule; or those at the threshold that is best on the known records (RULES 14)."""
        if part.entry.calibrate == "own":
            return Scored(part, rows, scores, rows, scores > 0)
        if part.entry.calibrate == "none":
            return Scored(part, rows, scores, rows[:0], None)
        thresholds = [best_threshold(row[self.known], self.given.members[self.known]) for row in scores]
        calls = scores[:, rest] >= np.array(thresholds)[:, None]
        return Scored(part, rows, scores, rest, calls)


def pool(registry: Registry, given: Predictions) -> tuple[list[Part], list[NotRun]]:
    """The attacks that can run on these answers, and every other membership attack of the registry, with the reason.

    Raises UserError where the file of an attack was changed, for its code runs in this process.
    """
    named = [registry.attack(spec) for spec in yaml.safe_load(POOL.read_text("utf-8"))]
    if changed := [part.entry.path for part in named if not part.entry.reviewed]:
        raise UserError(
            f"{changed[0]}: expected the attack as it comes with Leakboard, given a changed one; restore it"
        )
    parts, left = [], []
    for part in named:
        card = part.entry.card
        if reason := _lacking(part, given):
            left.append(NotRun(part.name, card.title if card else "", reason))
        else:
            parts.append(part)
    return parts, left + list(_others(registry, {part.entry.id for part in named}))


def _lacking(part: Part, given: Predictions) -> str:
    """What an attack of the pool needs that the answers lack; "" for nothing."""
    needs = part.entry.needs
    if "references-offline" in needs and given.references is None:
        return "needs the answers of reference models that never saw these records"
    if "references-offline" in needs and given.reference_members is not None:
        return "needs reference models that never saw these records; these saw some"
    if "references-online" in needs:
        inside = given.reference_members
        if given.references is None or inside is None:
            return "needs the answers of reference models that were trained on halves of these records"
        if not (inside.any(0) & ~inside.all(0)).any():
            return "needs, for a record, reference models with it and without it; no record has both"
    return ""


def _others(registry: Registry, named: set[str]) -> Iterator[NotRun]:
    """Every other membership attack without an error."""
    for (kind, id), entry in registry.entries.items():
        if (
            kind != "attack"
            or entry.task != "membership"
            or entry.error
            or id in named
            or not entry.card
            or entry.card.null
        ):
            continue
        reasons: dict[Any, str] = {
            "white-box": "needs the network itself", "label": "asks the model for the labels of changed images",
        }  # fmt: skip
        reason = reasons.get(entry.access, "")
        if not reason:
            reason = "needs a shadow model, or asks the model about other images"
        yield NotRun(id, entry.card.title, reason)


def by_rows(values: Scored, rows: NDArray[np.int64]) -> Scored:
    """The same of these records alone, as far as they were scored."""
    at, called = np.isin(values.rows, rows), np.isin(values.called, rows)
    calls = None if values.calls is None else values.calls[:, called]
    return replace(values, rows=values.rows[at], scores=values.scores[:, at], called=values.called[called], calls=calls)
