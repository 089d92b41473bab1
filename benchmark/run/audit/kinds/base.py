"""What the kinds of attack besides membership share: who knows which images, scores that are kept, and the nulls they are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from benchmark.api import Knowledge, Target
from benchmark.data.population import seed_of
from benchmark.entries.registry import Part, Registry
from benchmark.errors import UserError
from benchmark.metrics import Bools
from benchmark.networks.access import GuardedTarget
from benchmark.run.audit.attacks import READS, Bench, Live, NotRun, Released, failed, of_kind
from benchmark.run.audit.images import Images
from benchmark.run.audit.model import Model
from benchmark.run.audit.paired import difference
from benchmark.run.audit.predictions import Ints
from benchmark.run.audit.report import Gain, Left, Measured, OtherAttack, OtherKind
from benchmark.targets.store import Tensors, digest

CPU = torch.device("cpu")


class Outcome(NamedTuple):
    """What one attack came to."""

    metrics: dict[str, float]
    intervals: Mapping[str, tuple[float, float]]
    hits: Bools
    """(m,): whether it was right, on each record that the kind's metric counts."""
    queries: int


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of attack on a model and its records. A subclass is a module of this package, named after the task."""

    name: ClassVar[Literal["stealing", "attribute", "inversion"]]
    title: ClassVar[str]
    """As in a sentence."""
    metric: ClassVar[str]
    """The metric by which an attack is held against its null."""

    bench: Bench
    images: Images
    registry: Registry
    released: Released
    skipped: str = ""
    """Why it was not asked for; "" where it was."""

    @cached_property
    def listed(self) -> list[tuple[Part, bool]]:
        """The attacks, each with whether it is a null row."""
        return self.pool()

    def pool(self) -> list[tuple[Part, bool]]:
        """The attacks as the pool has them."""
        return of_kind(self.registry, self.name)

    # --- What a kind says of itself ---

    def unmet(self) -> str:
        """Why none of its attacks can be run; "" for nothing."""
        raise NotImplementedError

    def lacking(self, part: Part) -> str:
        """Why an attack can't be run; "" for nothing."""
        return ""

    def passes(self, part: Part) -> tuple[int, int]:
        """What an attack costs, in forward passes of one image: of the audited model, and of networks that it trains."""
        raise NotImplementedError

    def work(self, part: Part) -> Tensors:
        """Run an attack: all that its metrics need, and `queries`."""
        raise NotImplementedError

    def measure(self, part: Part, made: Tensors) -> Outcome:
        """The metrics of what `work` made."""
        raise NotImplementedError

    def made_from(self) -> list[Any]:
        """What `work` depends on besides the attack, the model, the images and the seed."""
        raise NotImplementedError

    def strata(self) -> Ints:
        """(m,): the metric is the mean over them of the share of hits."""
        raise NotImplementedError

    def counts(self) -> tuple[int, int]:
        """Images that the attacks know, and what they are measured on."""
        raise NotImplementedError

    def found(self, best: OtherAttack, null: OtherAttack) -> str:
        """One sentence on the attack that gains most over its null."""
        raise NotImplementedError

    # --- What they share ---

    @property
    def live(self) -> Live:
        assert self.bench.live is not None
        return self.bench.live

    @property
    def model(self) -> Model:
        return self.live.model

    @property
    def seed(self) -> int:
        return self.bench.seed

    def others(self, what: str) -> Ints:
        """The non-members in an order that the seed and `what` draw."""
        rows: Ints = np.flatnonzero(~self.images.members)
        return np.random.default_rng(seed_of(what, self.seed)).permutation(rows)

    def knowledge(self, part: Part, target: Target, **more: Any) -> Knowledge:
        """What an attack may learn from: the images that the kind gives it, and no world with members."""
        return replace(self.bench.knowledge(part, target), shadow=None, partial=None, **more)

    def target(self, part: Part) -> GuardedTarget:
        found = self.bench.target(part)
        assert isinstance(found, GuardedTarget)
        return found

    def plan(self) -> tuple[list[Part], list[NotRun]]:
        """The attacks and nulls that will run, and all others of this kind, with the reason."""
        why, parts, left = self.skipped or self.unmet(), [], []
        for part, null in self.listed:
            if reason := why or self.lacking(part):
                left += [] if null else [NotRun(part.name, _title(part), reason)]
            else:
                parts.append(part)
        if all(null for part, null in self.listed if part in parts):
            parts = []  # nulls alone say nothing
        named = {part.entry.id for part, _ in self.listed}
        for (kind, id), entry in self.registry.entries.items():
            if kind == "attack" and entry.task == self.name and id not in named and entry.card and not entry.error:
                reason = "learns from known members; here images of non-members are known" if "partial" in entry.needs else "is not in the pool of audits"  # fmt: skip
                left.append(NotRun(id, entry.card.title, reason))
        return parts, left

    def run(self, track: Callable[[list[Part]], Any]) -> OtherKind:
        """Run what can be run, and hold it against its nulls."""
        parts, left = self.plan()
        outcomes: dict[str, Outcome] = {}
        for part in track(parts):
            try:
                outcomes[part.name] = self.measure(part, self._kept(part))
            except (UserError, InterruptedError):
                raise
            except Exception as error:
                if part.entry.access != "white-box":
                    raise
                left.append(failed(part, error))
        reasons = [Left(name=x.name, title=x.title, reason=x.reason) for x in left]
        attacks = self._attacks([(part, null) for part, null in self.listed if part.name in outcomes], outcomes)
        known, scored = self.counts() if attacks else (0, 0)
        kind = OtherKind(
            kind=self.name, sentence="", metric=self.metric, known=known, scored=scored, attacks=attacks, left=reasons
        )
        return kind.model_copy(update={"sentence": self._sentence(kind)})

    def _kept(self, part: Part) -> Tensors:
        """What the attack made; from the store where it is there."""
        live = self.live
        if live.store is None or not live.model.key:
            return self.work(part)
        key = digest(
            f"audit {self.name}", live.model.key, live.data, part.key, self.seed, *self.made_from(),
            f"torch {torch.__version__}",
        )  # fmt: skip
        return live.store.get("audit", key, lambda: self.work(part))

    def _attacks(self, ran: list[tuple[Part, bool]], outcomes: Mapping[str, Outcome]) -> list[OtherAttack]:
        level = 0.05 / max(1, sum(not null for _, null in ran))
        nulls = [part for part, null in ran if null]
        return [self._attack(part, null, outcomes, nulls, level) for part, null in ran]

    def _attack(
        self, part: Part, null: bool, outcomes: Mapping[str, Outcome], nulls: list[Part], level: float
    ) -> OtherAttack:
        outcome, card, entry = outcomes[part.name], part.entry.card, part.entry
        gain, beside = None, [n for n in nulls if _width(n.entry.access) <= _width(entry.access)]
        if not null and beside:
            strata = self.strata()
            over = max(beside, key=lambda n: outcomes[n.name].metrics[self.metric])
            found = difference(outcome.hits, outcomes[over.name].hits, strata, level)
            gain = Gain(over=over.name, **found._asdict())
        return OtherAttack(
            name=part.name, title=_title(part), reference=card.reference if card else "", null=null, access=entry.access,  # type: ignore[arg-type]
            counts=entry.access in READS[self.released], queries=outcome.queries,
            metrics={m: _measured(v, outcome.intervals.get(m)) for m, v in outcome.metrics.items()}, gain=gain,
        )  # fmt: skip

    def _sentence(self, kind: OtherKind) -> str:
        if able := kind.counting or sorted((a for a in kind.attacks if a.gain), key=lambda a: -a.gain.value):  # type: ignore[union-attr]
            best = able[0]
            assert best.gain is not None
            said = self.found(best, next(a for a in kind.attacks if a.name == best.gain.over))
            return said if best.counts else f"{said} It does not count: it reads more than is released."
        reasons = list(dict.fromkeys(x.reason for x in kind.left if x.name in {p.name for p, _ in self.listed}))
        return f"{self.title[0].upper()}{self.title[1:]} was not measured: {reasons[0] if reasons else 'no attack is in the pool'}."


def _width(access: str) -> int:
    return READS["weights"].index(access)


def _title(part: Part) -> str:
    return part.entry.card.title if part.entry.card else ""


def _measured(value: float, interval: tuple[float, float] | None) -> Measured:
    low, high = interval or (None, None)
    return Measured(value=value, low=low, high=high)


def percent(value: float) -> str:
    return f"{value:.1%}"


def points(gain: Gain) -> str:
    """A gain in points, with its interval."""
    return f"{100 * gain.value:.1f} points (95 %: {100 * gain.low:.1f} to {100 * gain.high:.1f})"
