"""Runs the membership attacks of the pool on a table of answers, or on a model: the submissions' own code, as the judge runs it.

What an attack learns from are *known* records, a part drawn once: they stand for the shadow world, and for partial knowledge of
the target (RULES 5). It is scored on the others alone. Fitting on either half and scoring the other would use every record, but
the two scores are not independent: a direction that happens to tell the members of one half finds, with the same chance, those
of the other, so that permuted labels would promise too narrow a null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from benchmark.api import Candidates, Knowledge, References, Samples, Target, World
from benchmark.data.population import seed_of
from benchmark.entries.registry import Part, Registry
from benchmark.errors import Fault, UserError, printable
from benchmark.judge.scenario import checked_scores
from benchmark.metrics import Bools, Floats, best_threshold
from benchmark.networks.access import Answers, GuardedTarget
from benchmark.run.audit.model import Model
from benchmark.run.audit.predictions import LEAST, Ints, Predictions
from benchmark.sandbox.local import Attacker
from benchmark.targets.store import Store, digest, tensor_digest

POOL = Path(__file__).with_name("pool.yaml")
KNOWN_SHARE, KNOWN_MOST = 0.25, 4000
"""The known records: a quarter of the members and of the non-members, at most so many of each."""
_CODES = 2.0**24
"""A record stands for its image as its number over this, which float32 holds exactly."""


QUERIES = 40_000
"""What one attack may cost on a model, in forward passes of one image: what costs more scores a part of the records."""
Released = Literal["labels", "posteriors", "weights"]
READS: dict[Released, tuple[str, ...]] = {
    "labels": ("label",), "posteriors": ("label", "posterior"), "weights": ("label", "posterior", "white-box"),
}  # fmt: skip
"""The access of the attacks that count, by what is released, the narrowest first."""
SIMPLE = {"flip": True}
"""What attacks on augmented views are told of the data: images that are mirrored still show their class."""


@dataclass(frozen=True)
class Scored:
    """What an attack made of the records: scores (s, m) of the records `rows` (m,), s attack seeds, higher for members.

    `calls` (s, c): whether the records `called` (c,), none of which set a threshold, are called members; None where the attack
    has no threshold. `part_of`: whether it costs so much that a part of the records was scored. `queries`: images that it asked a
    model about, for each record that it scored.
    """

    part: Part
    rows: NDArray[np.int64]
    scores: Floats
    called: NDArray[np.int64]
    calls: Bools | None
    part_of: bool = False
    queries: float = 1.0

    @property
    def calibrated(self) -> bool:
        """Whether it corrects for how hard a record is, by reference models."""
        return any(need.startswith("references") for need in self.part.entry.needs)

    @property
    def fitted(self) -> bool:
        """Whether it learns from known records."""
        return learns(self.part)


def learns(part: Part) -> bool:
    """Whether an attack learns from known records."""
    return bool(part.entry.needs & {"shadow", "partial"})


@dataclass(frozen=True)
class NotRun:
    """An attack that did not run, and why."""

    name: str
    title: str
    reason: str


class Cost(NamedTuple):
    """What an attack costs on a model, in forward passes of one image: for each record that it scores, and that it learns from."""

    asks: int
    fits: int


class Table(Target):
    """Answers for the records of a table; a record's number over 2^24 stands for its image. It answers nothing else."""

    queries = 0

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


def _refuse(x: Tensor) -> Tensor:
    raise PermissionError("a reference model answers for the records alone")


def unseen(given: Predictions) -> Floats | None:
    """Answers (m, n, k) of reference models to records that they never saw; None where a record has none.

    Of models that saw some of the records, the first m for each record that did not see it, with m the same for all: their number
    must not tell members. Of pairs that were trained on a half and on its complement it is one a pair.
    """
    answers, inside = given.references, given.reference_members
    if answers is None or inside is None:
        return answers
    count = int((~inside).sum(0).min())
    first = np.argsort(inside, axis=0, kind="stable")[:count]
    return np.take_along_axis(answers, first[:, :, None], 0) if count else None


def image_of(rows: Tensor) -> Tensor:
    """What stands for the images (n, 1, 1, 1) of these records (n,)."""
    return (rows.double() / _CODES).float().reshape(-1, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class Live:
    """A model with the images of all records. `queries`: what one attack may cost. `store`: where scores are kept, under `data`, the
    digest of the records; None for nowhere."""

    model: Model
    x: Tensor
    costs: dict[str, Cost]
    """By the name of the attack; others read the answers to the records alone."""
    queries: int = QUERIES
    store: Store | None = None
    data: str = ""


@dataclass(frozen=True)
class Bench:
    """The records as attacks meet them: in an order drawn by `seed`, with known ones drawn by it, too."""

    given: Predictions
    seed: int
    live: Live | None = None

    @cached_property
    def known(self) -> Bools:
        """(n,): the records that attacks may learn from."""
        rng, known = np.random.default_rng(seed_of("known", self.seed)), np.zeros(len(self.given), bool)
        for side in (True, False):
            rows = np.flatnonzero(self.given.members == side)
            known[rng.choice(rows, min(int(KNOWN_SHARE * len(rows)), KNOWN_MOST), replace=False)] = True
        return known

    @cached_property
    def answers(self) -> Answers:
        """A model's answers to the records: it is asked about each once, for all attacks."""
        assert self.live is not None
        answers = Answers()
        answers.add(self.live.x, torch.from_numpy(self.given.log_posteriors))
        return answers

    @cached_property
    def y(self) -> Tensor:
        return torch.from_numpy(self.given.y)

    def samples(self, rows: NDArray[np.int64]) -> Samples:
        picked = torch.from_numpy(rows)
        return Samples(image_of(picked) if self.live is None else self.live.x[picked], self.y[picked])

    # --- Which records ---

    def cost(self, part: Part) -> Cost:
        """What an attack costs for each record; (0, 0) where it reads stored answers."""
        return self.live.costs.get(part.name, Cost(0, 0)) if self.live else Cost(0, 0)

    def few(self, mask: Bools, most: int) -> Bools:
        """At most so many records of a mask, as many on each side. Of two numbers the smaller one gives a part of the larger one's."""
        order = np.random.default_rng(seed_of("few", self.seed)).permutation(len(mask))
        found = np.zeros_like(mask)
        for side in (True, False):
            found[order[(mask & (self.given.members == side))[order]][: most // 2]] = True
        return found

    def counted(self, part: Part) -> Bools:
        """(n,): the records that an attack is measured on."""
        rest, most = ~self.known, self.most_of(part)
        if most is not None:
            return self.few(rest, most - self._thresholds(part, most))
        return rest if learns(part) else np.ones_like(rest)

    def most_of(self, part: Part) -> int | None:
        """How many records an attack may score, those for its threshold among them; None for all."""
        asks = self.cost(part).asks
        everything = (
            len(self.given) if part.entry.calibrate == "shadow" or not learns(part) else int((~self.known).sum())
        )
        most = self._budget(part) // asks if asks else everything
        return most if most < everything else None

    def _budget(self, part: Part) -> int:
        """What an attack may cost for what it scores, and as much again for what it learns from where that costs, too."""
        assert self.live is not None
        return self.live.queries // 2 if self.cost(part).fits else self.live.queries

    @staticmethod
    def _thresholds(part: Part, most: int) -> int:
        return int(KNOWN_SHARE * most) if part.entry.calibrate == "shadow" else 0

    def calibrating(self, part: Part) -> Bools:
        """(n,): the known records that set an attack's threshold."""
        if part.entry.calibrate != "shadow":
            return np.zeros_like(self.known)
        most = self.most_of(part)
        return self.known if most is None else self.few(self.known, self._thresholds(part, most))

    def learnt(self, part: Part) -> Bools:
        """(n,): the known records that an attack learns from."""
        fits = self.cost(part).fits
        return self.few(self.known, self._budget(part) // fits) if fits else self.known

    def passes(self, part: Part) -> int:
        """What an attack costs in all, in forward passes of one image."""
        asks, fits = self.cost(part)
        scored = int((self.counted(part) | self.calibrating(part)).sum())
        return asks * scored + (fits * int(self.learnt(part).sum()) if learns(part) else 0)

    def strata(self, parts: Sequence[Part]) -> NDArray[np.int64]:
        """(n,) numbers of strata, within which every attack is measured on all records or on none."""
        masks = [self.known, *(self.counted(part) for part in parts if self.most_of(part) is not None)]
        codes: NDArray[np.int64] = np.unique(np.stack(masks, 1), axis=0, return_inverse=True)[1].reshape(-1)
        return codes

    # --- An attack ---

    def target(self, part: Part) -> Any:
        """The target at the access level of an attack."""
        if self.live is None:
            return Table(torch.from_numpy(self.given.log_posteriors))
        model = self.live.model
        return GuardedTarget(part.entry.access, model.predict, self.answers, model.copy)  # type: ignore[arg-type]

    def _world(self, part: Part, target: Target) -> World:
        known = [np.flatnonzero(self.learnt(part) & (self.given.members == side)) for side in (True, False)]
        return World(target, *map(self.samples, known))

    def knowledge(self, part: Part, target: Target) -> Knowledge:
        """What an attack may learn from. With offline references its shadow model is the first of them."""
        needs = part.entry.needs
        shadow: Target = target
        if "references-offline" in needs:
            assert self.offline is not None
            shadow = self._stored(torch.from_numpy(self.offline[0]))
        more: dict[str, Any] = {}
        if self.live is not None:
            more["simple"] = SIMPLE | {"pad": max(1, min(self.live.model.shape[1:]) // 8)}
        return Knowledge(
            self.given.classes, (1, 1, 1) if self.live is None else self.live.model.shape, seed_of("attack", part.name, self.seed),
            torch.device("cpu"),
            shadow=self._world(part, shadow) if "shadow" in needs else None,
            partial=self._world(part, target) if "partial" in needs else None,
            **more,
        )  # fmt: skip

    def _stored(self, answers: Tensor) -> Target:
        """A target that has these answers (n, k) to the records, and no others."""
        if self.live is None:
            return Table(answers)
        known = Answers()
        known.add(self.live.x, answers)
        return GuardedTarget("posterior", _refuse, known)

    @cached_property
    def offline(self) -> Floats | None:
        """Answers (m, n, k) of reference models to records that they never saw; None without any (`unseen`)."""
        return unseen(self.given)

    def references(self, part: Part, rows: NDArray[np.int64]) -> References | None:
        if not any(need.startswith("references") for need in part.entry.needs):
            return None
        answers, members = self.given.references, self.given.reference_members
        if "references-offline" in part.entry.needs:
            answers, members = self.offline, None
        assert answers is not None
        inside = np.zeros(answers.shape[:2], bool) if members is None else members
        return References(torch.from_numpy(inside[:, rows]), torch.from_numpy(answers[:, rows]))

    def run(self, part: Part) -> Scored:
        """Fit the attack, and score every record that it may not have learnt from. What it raises passes through."""
        counted, calibrating = self.counted(part), self.calibrating(part)
        rows = np.flatnonzero(counted | calibrating)
        made = self._kept(part, rows)
        scores = made["scores"].numpy()
        queries = float(made["queries"]) / len(rows)
        return self._decided(part, rows, scores, counted, calibrating, self.most_of(part) is not None, queries)

    def _kept(self, part: Part, rows: Ints) -> dict[str, Tensor]:
        """Scores (s, m) of these records, and how many images the attack asked about; from the store where they are there."""
        live = self.live
        if live is None or live.store is None or not live.model.key:
            return self._scores(part, rows)
        key = digest(
            "audit", live.model.key, live.data, part.key, self.seed, rows.tolist(),
            np.flatnonzero(self.learnt(part)).tolist() if learns(part) else [], f"torch {torch.__version__}",
            *self._reference_digests(part),
        )  # fmt: skip
        return live.store.get("audit", key, lambda: self._scores(part, rows))

    def _reference_digests(self, part: Part) -> list[str]:
        found = self.references(part, np.arange(len(self.given)))
        return [] if found is None else [tensor_digest(found.members, found.log_posteriors)]

    def _scores(self, part: Part, rows: Ints) -> dict[str, Tensor]:
        attacker = Attacker(part.create(), torch.device("cpu")) if self.live is None else self.live.model.attacker(part)
        target = self.target(part)
        try:
            attacker.fit(self.knowledge(part, target))
            order = np.random.default_rng(seed_of("order", self.seed)).permutation(len(rows))
            shown = self.samples(rows[order])
            candidates = Candidates(shown.x, shown.y, torch.from_numpy(order))
            answer = attacker.answer(target, candidates, self.references(part, rows[order]))
        finally:
            attacker.close()
        found = checked_scores(answer, len(rows))
        scores = np.empty_like(found)
        scores[:, order] = found
        return {"scores": torch.from_numpy(scores), "queries": torch.tensor(target.queries)}

    def _decided(
        self, part: Part, rows: Ints, scores: Floats, counted: Bools, calibrating: Bools, part_of: bool, queries: float
    ) -> Scored:
        """With the decisions of the attack's rule; or those at the threshold that is best on the known records (RULES 14)."""
        own, known = counted[rows], calibrating[rows]
        mine, kept = rows[own], scores[:, own]
        if part.entry.calibrate == "own":
            return Scored(part, mine, kept, mine, kept > 0, part_of, queries)
        if part.entry.calibrate == "none":
            return Scored(part, mine, kept, mine[:0], None, part_of, queries)
        thresholds = [best_threshold(row[known], self.given.members[rows[known]]) for row in scores]
        rest = ~self.known[mine]
        return Scored(part, mine, kept, mine[rest], kept[:, rest] >= np.array(thresholds)[:, None], part_of, queries)


def _pool() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(POOL.read_text("utf-8"))
    return found


def costs(registry: Registry) -> dict[str, Cost]:
    """What the attacks of the pool that need the model itself cost for each record, by name."""
    return {registry.attack(a["attack"]).name: Cost(a.get("asks", 0), a.get("fits", 0)) for a in _pool()["model"]}


def of_kind(registry: Registry, kind: str) -> list[tuple[Part, bool]]:
    """The attacks of another kind than membership in the pool, each with whether it is a null row.

    Raises UserError where the file of one was changed.
    """
    listed = _pool().get("others", {}).get(kind, [])
    named = _as_packaged([registry.attack(a["attack"]) for a in listed])
    return [(part, a.get("null_row", False)) for part, a in zip(named, listed, strict=True)]


def _as_packaged(parts: list[Part]) -> list[Part]:
    if changed := [part.entry.path for part in parts if not part.entry.reviewed]:
        raise UserError(
            f"{changed[0]}: expected the attack as it comes with Leakboard, given a changed one; restore it"
        )
    return parts


def failed(part: Part, error: Exception) -> NotRun:
    """An attack that a network would not let run: it may lack what the attack needs."""
    card, shown = part.entry.card, printable(str(error), 160)
    kind = "failed" if isinstance(error, Fault) else f"failed, {type(error).__name__}"
    return NotRun(part.name, card.title if card else "", f"{kind}: {shown}")


def pool(registry: Registry, given: Predictions, bench: Bench | None = None) -> tuple[list[Part], list[NotRun]]:
    """The attacks that can run on these answers (or on the model of the bench), and every other membership attack, with the reason.

    Raises UserError where the file of an attack was changed, for its code runs in this process.
    """
    live = bench is not None and bench.live is not None
    specs = [*_pool()["answers"], *(a["attack"] for a in _pool()["model"] if live)]
    named = _as_packaged([registry.attack(spec) for spec in specs])
    parts, left = [], []
    for part in named:
        card = part.entry.card
        reason = _lacking(part, given)
        if bench is not None and live and (given.references is None or not reason):
            reason = _REFERENCES if reason else _unfit(part, bench)
        if reason:
            left.append(NotRun(part.name, card.title if card else "", reason))
        else:
            parts.append(part)
    return parts, left + list(_others(registry, {part.entry.id for part in named}, live, given.references is not None))


def _unfit(part: Part, bench: Bench) -> str:
    """What keeps an attack of the pool from a model; "" for nothing."""
    assert bench.live is not None
    model = bench.live.model
    if part.entry.access == "white-box" and model.copy is None:
        return model.no_copy
    if part.entry.access == "white-box" and ".embed(" in part.entry.text and not model.embeds:
        return "needs the input of a last linear layer, which this network does not show"
    sides = [int((bench.counted(part) & (bench.given.members == side)).sum()) for side in (True, False)]
    learnt = int(bench.learnt(part).sum()) if learns(part) else 2
    if min(sides) < min(LEAST, len(bench.given) // 4) or learnt < 2:
        return f"costs {sum(bench.cost(part))} forward passes a record: --queries {bench.live.queries:,} leaves too few records"
    return ""


def _lacking(part: Part, given: Predictions) -> str:
    """What an attack of the pool needs that the answers lack; "" for nothing."""
    needs = part.entry.needs
    if "references-offline" in needs and given.references is None:
        return "needs the answers of reference models that never saw these records"
    if "references-offline" in needs and given.reference_members is not None and given.reference_members.all(0).any():
        return "needs, for each record, a reference model that never saw it; all saw some records"
    if "references-online" in needs:
        inside = given.reference_members
        if given.references is None or inside is None:
            return "needs the answers of reference models that were trained on halves of these records"
        if not (inside.any(0) & ~inside.all(0)).any():
            return "needs, for a record, reference models with it and without it; no record has both"
    return ""


def _others(registry: Registry, named: set[str], live: bool, references: bool) -> Iterator[NotRun]:
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
        if live:
            reason = _unmet(entry.needs, id, references)
        yield NotRun(id, entry.card.title, reason)


_REFERENCES = "needs reference models; leakboard audit recipe trains them"


def _unmet(needs: frozenset[str], id: str, references: bool) -> str:
    """What a model, with reference models or without, does not give an attack outside of the pool."""
    if "certificate" in needs:
        return "needs a certified radius; none is known of this model"
    if not references and any(need.startswith("references") for need in needs):
        return _REFERENCES
    if id.endswith("_shadow"):
        return f"needs a shadow model; on known records it is {id.removesuffix('_shadow')}_partial"
    return "is not in the pool of audits"


def by_rows(values: Scored, rows: NDArray[np.int64]) -> Scored:
    """The same of these records alone, as far as they were scored."""
    at, called = np.isin(values.rows, rows), np.isin(values.called, rows)
    calls = None if values.calls is None else values.calls[:, called]
    return replace(values, rows=values.rows[at], scores=values.scores[:, at], called=values.called[called], calls=calls)
