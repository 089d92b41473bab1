"""What the papers claim, held against our records: each claim a paired comparison with a margin set beforehand.

A claim compares two scores on the same seeds by a one-sided t-test of their difference. Claims are many, so the p-values
are adjusted by Benjamini and Hochberg's method (1995). A claim holds, fails, or stays unresolved, which with three seeds is no rare verdict.
Numbers of papers are never expected here: networks and data are smaller; only directions are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from scipy import stats

from benchmark.metrics import hypervolume
from benchmark.result import Result
from leaderboard.comparison import Estimate, Floats, estimate, leave_one_out

_Table = dict[tuple[str, str], dict[int, dict[str, float]]]

LEVEL = 0.05
"""The share of wrong verdicts by chance, at most, among those that a claim holds, and among those that it fails."""
Verdict = Literal["holds", "fails", "unresolved", "not scored"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantity(_Strict):
    """One number a target: a metric of an attack; of several attacks the best, or the worst, of them.

    Which one that is, is chosen for each seed on the others (RULES 17). The attack "" stands for a target's utility.
    """

    attacks: Annotated[tuple[str, ...], Field(min_length=1)]
    metric: str
    of_several: Literal["best", "worst"] = "best"
    minus: Quantity | None = None
    """What is subtracted."""


class Score(Quantity):
    """One number a seed: the quantity on a defense; or, over several settings of it, a trade-off or a correlation."""

    protocol: str
    defense: str
    settings: tuple[str, ...] = ()
    """With more settings the score is the area that the front of all of them dominates, on test accuracy and the
    quantity (`metrics.hypervolume`)."""
    against: Quantity | None = None
    """With another quantity it is Spearman's rank correlation of the two over all settings."""


class Claim(_Strict):
    """ "above": first - second exceeds the margin; "not below": it exceeds minus the margin; "equal": it is within it."""

    id: str
    says: str
    first: Score
    second: Score | None = None
    """None: 0, as for a correlation."""
    relation: Literal["above", "not below", "equal"]
    margin: Annotated[float, Field(ge=0)]
    """In the units of the metric; set before the comparison was made."""
    note: str = ""
    """Where it does not hold here: what was found to be the reason, or what speaks for one."""

    @property
    def scores(self) -> tuple[Score, ...]:
        """What it compares."""
        return (self.first, self.second) if self.second else (self.first,)

    @property
    def expected(self) -> str:
        """What the difference should be, in words."""
        return {"above": "above ", "not below": "at least -", "equal": "within ±"}[self.relation] + f"{self.margin:g}"

    def chances(self, difference: Floats) -> tuple[float, float]:
        """P-values of seed-paired differences (s,): against the claim's opposite, and against the claim."""
        d, m = difference, self.margin
        if self.relation == "above":
            return _above(d, m), _above(-d, -m)
        if self.relation == "not below":
            return _above(d, -m), _above(-d, m)
        return max(_above(d, -m), _above(-d, -m)), min(1.0, 2 * min(_above(d, m), _above(-d, m)))


@dataclass(frozen=True)
class Finding:
    """What became of a claim."""

    claim: Claim
    verdict: Verdict
    first: Estimate | None = None
    second: Estimate | None = None
    difference: Estimate | None = None
    missing: tuple[str, ...] = ()
    """Protocols that have to be run first."""
    p: float | None = None
    """The adjusted p-value of its opposite: below LEVEL the claim holds."""
    alone: Verdict = "not scored"
    """The verdict if it were the only claim: without a correction for their number."""


def load() -> tuple[Claim, ...]:
    """The claims of `claims.yaml`, which names the entries: code here names none."""
    content = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text("utf-8"))
    return TypeAdapter(tuple[Claim, ...]).validate_python(content)


def check(claims: Sequence[Claim], results: Callable[[str], Iterable[Result]]) -> list[Finding]:
    """A verdict on each claim; `results(protocol)` gives the records of a protocol."""
    tables = {name: by_entry(results(name)) for name in {s.protocol for c in claims for s in c.scores}}
    pairs = {c.id: pair for c in claims if (pair := _paired(c, tables))}
    chances = np.array([c.chances(pairs[c.id][0] - pairs[c.id][1]) for c in claims if c.id in pairs]).reshape(-1, 2)
    adjusted = dict(
        zip(pairs, zip(chances, np.stack([adjusted_for_many(p) for p in chances.T], 1), strict=True), strict=True)
    )
    findings = []
    for claim in claims:
        if claim.id not in pairs:
            lacking = [s.protocol for s in claim.scores if not by_seed(tables[s.protocol], s)]
            findings.append(Finding(claim, "not scored", missing=tuple(lacking)))
            continue
        own, corrected = adjusted[claim.id]
        first, second = pairs[claim.id]
        estimates = estimate(first), estimate(second), estimate(first - second)
        findings.append(Finding(claim, _verdict(*corrected), *estimates, p=float(corrected[0]), alone=_verdict(*own)))
    return findings


def _verdict(held: float, failed: float) -> Verdict:
    """By the p-values of a claim's opposite and of the claim."""
    return "holds" if held < LEVEL else "fails" if failed < LEVEL else "unresolved"


def _paired(claim: Claim, tables: dict[str, _Table]) -> tuple[Floats, Floats] | None:
    """Both scores (s,) on the seeds that both have; None without any."""
    first, *others = (by_seed(tables[s.protocol], s) for s in claim.scores)
    second = others[0] if others else dict.fromkeys(first, 0.0)
    seeds = sorted(first.keys() & second.keys())
    return (np.array([first[s] for s in seeds]), np.array([second[s] for s in seeds])) if seeds else None


def adjusted_for_many(p: Floats) -> Floats:
    """P-values (n,) adjusted for the false discovery rate (Benjamini and Hochberg 1995)."""
    return np.asarray(stats.false_discovery_control(p, method="bh")) if len(p) else p


def _above(values: Floats, least: float) -> float:
    """P-value of "the mean is at most `least`" on values (s,); with one seed nothing is known."""
    if len(values) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return 0.0 if values[0] > least else 1.0
    return float(stats.ttest_1samp(values, least, alternative="greater").pvalue)


def by_entry(results: Iterable[Result]) -> _Table:
    """Metrics and costs of each attack and defense by seed."""
    table: _Table = {}
    for r in results:
        if r.status == "ok":
            table.setdefault((r.attack, r.defense), {})[r.seed] = r.metrics | r.cost
    return table


def by_seed(table: _Table, score: Score) -> dict[int, float]:
    """The score by seed, on the seeds that all its attacks and settings have."""
    if not score.settings:
        return _on(table, score, score.defense)
    beside = score.against or Quantity(attacks=("",), metric="test_accuracy")
    settings = (score.defense, *score.settings)
    pairs = [(_on(table, beside, defense), _on(table, score, defense)) for defense in settings]
    seeds = sorted(set.intersection(*(set(side) for pair in pairs for side in pair)))
    found = {seed: [(other[seed], own[seed]) for other, own in pairs] for seed in seeds}
    if score.against is None:
        return {seed: hypervolume(points) for seed, points in found.items()}
    return {seed: float(stats.spearmanr(points).statistic) for seed, points in found.items()}


def _on(table: _Table, quantity: Quantity, defense: str) -> dict[int, float]:
    """The quantity on one defense, by seed."""
    own = _of_attacks(table, quantity, defense)
    if quantity.minus is None:
        return own
    other = _on(table, quantity.minus, defense)
    return {seed: own[seed] - other[seed] for seed in own.keys() & other.keys()}


def _of_attacks(table: _Table, quantity: Quantity, defense: str) -> dict[int, float]:
    rows = [
        {s: m[quantity.metric] for s, m in table.get((a, defense), {}).items() if quantity.metric in m}
        for a in quantity.attacks
    ]
    seeds = sorted(set.intersection(*map(set, rows)))
    if not seeds:
        return {}
    sign = 1 if quantity.of_several == "best" else -1
    chosen = sign * leave_one_out(sign * np.array([[row[s] for s in seeds] for row in rows]))[0]
    return dict(zip(seeds, chosen.tolist(), strict=True))
