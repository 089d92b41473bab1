"""What chance alone reaches over many attacks at once, and how sure their worst case is.

The worst of many attacks is large by luck. So it is held against the same maximum under permuted memberships, permuted alike
for all attacks; and of its interval the lower end is simultaneous (no attack's own lower end may be too high), while the upper
end is the largest of the attacks' upper ends, for the strongest attack's own holds there.

Metrics are the judge's `Curve`, of counts. To be quick on a hundred thousand records, a draw is first counted in cells of
neighbouring scores: single records where a low rate is decided, at either end, and 500 equal parts between. So TPRs at low
rates are exact, and an AUC is off by less than 1e-4; what was observed is computed without cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.judge.bootstrap import at_least_binomial
from benchmark.metrics import Bools, Curve, Floats, resolves
from benchmark.run.audit.attacks import Scored

Ints = NDArray[np.int64]
Counts = NDArray[np.uint8]
LEVEL = 0.01
"""How often chance alone may be taken for a leak: in one audit of a hundred."""
RATES = {"tpr_at_fpr_0.01": 0.01, "tpr_at_fpr_0.001": 0.001}
_MIDDLE = 500
_BLOCK = 16  # draws whose counts are held at once
_SMALL = 20_000
DRAWS, DRAWS_OF_MANY = (999, 1000), (499, 400)
"""Permutations and resamples: up to _SMALL records, and of more."""


class Value(NamedTuple):
    """A metric of an attack: its value, its 95 % interval, and the central 99 % of what permuted memberships give."""

    value: float
    low: float
    high: float
    null_low: float
    null_high: float


class Worst(NamedTuple):
    """The worst case of a metric: the largest value of any attack with either sign. `null`: what chance reaches in 99 of 100 audits."""

    attack: int
    reversed: bool
    value: float
    low: float
    high: float
    null: float
    p: float


@dataclass(frozen=True)
class Draws:
    """Memberships as observed, permuted (p, n), and resampled (b, n): how often each record counts inside and outside.

    `strata` (n,) are permuted and resampled each for itself: the known records, the others, and the parts of them that costly
    attacks are scored on, so that an attack meets as many members among its records in every draw.
    """

    members: Bools
    permuted: Bools
    resampled: Counts

    @classmethod
    def of(cls, members: Bools, strata: NDArray[Any], rng: np.random.Generator) -> Draws:
        n = len(members)
        permutations, resamples = DRAWS if n <= _SMALL else DRAWS_OF_MANY
        permuted = np.repeat(members[None], permutations, 0)
        resampled = np.zeros((resamples, n), np.uint8)
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            permuted[:, rows] = rng.permuted(permuted[:, rows], axis=1)
            for side in (True, False):
                mine = rows[members[rows] == side]
                for draw in resampled if len(mine) else ():
                    draw[mine] = np.bincount(rng.integers(0, len(mine), len(mine)), minlength=len(mine))
        return cls(members, permuted, resampled)


@dataclass(frozen=True)
class Drawn:
    """The metrics of one attack by name: observed, under permuted memberships (p,), and resampled (b,).

    A name ends in `_reversed` where the scores are negated. `shares`: of how many records a metric is a share. `part_of`: whether a
    part of the records was scored.
    """

    observed: Mapping[str, float]
    permuted: Mapping[str, Floats]
    resampled: Mapping[str, Floats]
    shares: Mapping[str, int]
    part_of: bool = False
    records: int = 0
    """Of the smaller side."""

    def value(self, name: str) -> Value:
        low, high = np.quantile(self.resampled[name], (0.025, 0.975), method="weibull")
        interval = float(low), float(high)
        observed = self.observed[name]
        if name in self.shares or observed in (0.0, 1.0):  # scores that do not overlap give a bootstrap nothing to draw
            interval = at_least_binomial(interval, observed, self.shares.get(name, self.records))
        null = np.quantile(self.permuted[name], (LEVEL / 2, 1 - LEVEL / 2), method="weibull")
        return Value(self.observed[name], *interval, float(null[0]), float(null[1]))


def drawn(scored: Scored, draws: Draws) -> Drawn:
    """The metrics of an attack, means over its attack seeds as the judge's. One that scored a part of the records has its AUC alone:
    so few say nothing of low rates, and their wide intervals would be those of the worst case."""
    parts = [_metrics(row, scored.rows, draws, _ranks) for row in scored.scores]
    if scored.calls is not None and {*draws.members[scored.called]} == {True, False}:
        for part, calls in zip(parts, scored.calls, strict=True):
            by_kind = _metrics(calls.astype(np.float64), scored.called, draws, _decisions)
            for values, more in zip(part, by_kind, strict=True):
                values |= more
    observed, permuted, resampled = (
        {name: np.mean([p[kind][name] for p in parts], axis=0) for name in parts[0][kind]} for kind in range(3)
    )
    if scored.part_of:
        observed, permuted, resampled = (
            {name: kind[name] for name in ("auc", "auc_reversed")} for kind in (observed, permuted, resampled)
        )
    inside = int(draws.members[scored.rows].sum())
    shares = {name: inside for name in observed if name.startswith("tpr")}
    return Drawn(
        {name: float(v[0]) for name, v in observed.items()},
        permuted,
        resampled,
        shares,
        scored.part_of,
        min(inside, len(scored.rows) - inside),
    )


def _metrics(
    scores: Floats, rows: Ints, draws: Draws, metrics: Callable[[Curve], dict[str, Floats]]
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """Metrics of scores (m,) of these records: observed (1,), under permutations (p,), and resampled (b,)."""
    members = draws.members[rows]
    cells = Cells.of(scores, members, rows)

    def over(counts: NDArray[Any], curve: Callable[[NDArray[Any]], Curve]) -> dict[str, Floats]:
        found = [metrics(curve(counts[i : i + _BLOCK])) for i in range(0, len(counts), _BLOCK)]
        return {name: np.concatenate([f[name] for f in found]) for name in found[0]}

    exact = Curve.of(scores, members[None], ~members[None])
    return metrics(exact), over(draws.permuted, cells.permuted), over(draws.resampled, cells.resampled)


def _ranks(curve: Curve) -> dict[str, Floats]:
    """The metrics of the order of scores, those that the non-members resolve (RULES 15)."""
    auc, negated, outside = curve.auc(), curve.negated(), int(curve.fp[..., -1].max())
    values = {"auc": auc, "auc_reversed": 1 - auc}
    for name, rate in RATES.items():
        if resolves(outside, rate):
            values |= {name: curve.tpr_at(rate), f"{name}_reversed": negated.tpr_at(rate)}
    return values


def _decisions(curve: Curve) -> dict[str, Floats]:
    return {"balanced_accuracy": curve.decisions(0.5)["balanced_accuracy"]}


@dataclass(frozen=True)
class Cells:
    """Neighbouring scores counted together: `order` (m,) are the records by falling scores, `starts` (g,) where a cell begins in it.

    `values` (g,) are the lowest scores of the cells, `members` (m,) the observed members in the order.
    """

    order: Ints
    starts: Ints
    values: Floats
    members: Bools

    @classmethod
    def of(cls, scores: Floats, members: Bools, rows: Ints) -> Cells:
        """Of scores (m,) of these records with the observed members (m,)."""
        order = np.argsort(-scores, kind="stable")
        falling, inside, n = scores[order], members[order], len(scores)
        ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
        rate = max(RATES.values())
        few = int(2 * rate * n) + 50
        outside = np.flatnonzero(~inside)
        some = int(2 * rate * len(outside)) + 50
        wanted = np.concatenate([
            np.arange(min(few, n)), np.arange(max(0, n - few), n),
            outside[:some], outside[:some] - 1, outside[-some:], outside[-some:] - 1,
            np.linspace(0, n - 1, _MIDDLE).astype(np.int64), [n - 1],
        ])  # fmt: skip
        at = np.searchsorted(ends, wanted[wanted >= 0])
        kept = ends[np.unique(np.concatenate([at, np.maximum(at - 1, 0)]))]
        return cls(rows[order], np.append(0, kept[:-1] + 1), falling[kept], inside)

    def permuted(self, members: Bools) -> Curve:
        """The ROC curve where these are the members, (b, n) of all records."""
        taken = np.take(members, self.order, 1)
        inside = self._counted(taken)
        return Curve.of(self.values, inside, np.diff(self.starts, append=taken.shape[1]) - inside)

    def resampled(self, counts: Counts) -> Curve:
        """The ROC curve where each record counts so often on its side, (b, n) of all records."""
        taken = np.take(counts, self.order, 1)
        inside = self._counted(taken * self.members)
        return Curve.of(self.values, inside, self._counted(taken) - inside)

    def _counted(self, counts: NDArray[Any]) -> Floats:
        return np.add.reduceat(counts, self.starts, axis=1, dtype=np.int32).astype(np.float64)


# --- Over all attacks -------------------------------------------------------------------------------


def worst(found: Sequence[Drawn], metric: str) -> Worst | None:
    """The worst case of a metric over all attacks and both signs; None where no attack resolves it.

    An attack that scored a part of the records strays far by chance, and would widen what chance gives the largest value of all. So
    it counts where even its simultaneous lower end lies above all that was measured on all records.
    """
    signed = [(i, name) for i, d in enumerate(found) for name in (metric, f"{metric}_reversed") if name in d.observed]
    if not signed:
        return None
    values = np.array([found[i].observed[name] for i, name in signed])
    at, boot = _stable(values, metric), _stable(np.stack([found[i].resampled[name] for i, name in signed]), metric)
    spread = np.maximum(boot.std(1), 1e-12)
    far = float(np.quantile(((boot - at[:, None]) / spread[:, None]).max(0), 0.975, method="weibull"))
    own = [found[i].value(name) for i, name in signed]
    lows = np.minimum(_share(at - far * spread, metric), [v.low for v in own])
    whole = np.array([not found[i].part_of for i, _ in signed])
    counts = np.flatnonzero(whole | (lows > values[whole].max(initial=-np.inf)))
    null = np.stack([found[signed[k][0]].permuted[signed[k][1]] for k in counts]).max(0)
    best = counts[values[counts].argmax()]
    attack, name = signed[best]
    p = (1 + np.count_nonzero(null >= values[best])) / (1 + len(null))
    return Worst(
        attack, name.endswith("_reversed"), float(values[best]), max(0.0, float(lows[counts].max())), max(own[k].high for k in counts),
        float(np.quantile(null, 1 - LEVEL, method="weibull")), p,
    )  # fmt: skip


def _stable(values: Floats, metric: str) -> Floats:
    """Small shares on the scale on which their spread hardly depends on them, the arcsine of the root; others unchanged."""
    return np.arcsin(np.sqrt(values.clip(0, 1))) if metric in RATES else values


def _share(stable: Floats, metric: str) -> Floats:
    """What `_stable` made of shares, turned back."""
    return np.sin(stable.clip(0, np.pi / 2)) ** 2 if metric in RATES else stable


def tested(metric: str, outside: int) -> bool:
    """Whether a metric enters the test: AUC, and TPRs that so many non-members can rank (RULES 15)."""
    return metric == "auc" or resolves(outside, RATES[metric] / 10)


def chance(found: Sequence[Drawn], outside: int) -> float:
    """How probable it is, by chance alone, that an attack stands out as far as the one that does most, (0, 1].

    One test over all attacks, both signs, the AUC, and the TPRs that so many non-members can rank (RULES 15): the largest
    distance from the null's mean in its standard deviations, TPRs on the arcsine scale, held against the same maximum of
    each permutation.
    """
    distances = []
    for d in found:
        for metric in filter(lambda m: tested(m, outside), ("auc", *RATES)):
            for name in (metric, f"{metric}_reversed"):
                if name not in d.observed:
                    continue
                values = np.append(d.observed[name], d.permuted[name])
                values = _stable(values, metric)
                spread = values.std()
                distances.append((values - values.mean()) / spread if spread > 0 else np.zeros_like(values))
    largest = np.stack(distances).max(0)
    return float(np.count_nonzero(largest >= largest[0] - 1e-12) / len(largest))
