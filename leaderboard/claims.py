"""Tests of the papers' claims on our records: each is a paired comparison with a margin that was set beforehand.

A claim compares two scores on the same seeds by one-sided t-tests of their difference (two tests for "equal"). There
are many claims, so p-values are adjusted by Benjamini and Hochberg's method (1995). A claim holds, fails, or stays
unresolved, which is common with three seeds. Networks and data are smaller than the papers', so claims are about
directions, not about their numbers.
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
from leaderboard.comparison import Estimate, Floats, estimate, false_discovery_rates, leave_one_out

_Table = dict[tuple[str, str], dict[int, dict[str, float]]]
"""By (attack, defense), then by seed: metrics and costs by name. Attack "": the utility of the defense."""

LEVEL = 0.05
"""The share of wrong verdicts by chance, at most, among those of one kind (the false discovery rate)."""
Verdict = Literal["holds", "fails", "unresolved", "not scored"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantity(_Strict):
    """One number for each target: a metric of an attack; with several attacks that of the best, or the worst, of them.

    Which attack that is, is chosen for each seed on the other seeds (RULES 17). The attack "" is a target's utility.
    """

    attacks: Annotated[tuple[str, ...], Field(min_length=1)]
    metric: str
    of_several: Literal["best", "worst"] = "best"
    minus: Quantity | None = None
    """A quantity that is subtracted."""


class Score(Quantity):
    """One number for each seed: the quantity on a defense; or, over several settings, a trade-off or a correlation."""

    protocol: str
    defense: str
    settings: tuple[str, ...] = ()
    """Further settings of the defense. With them the score is the area that the front of all settings dominates, in
    test accuracy and the quantity (`metrics.hypervolume`)."""
    against: Quantity | None = None
    """With another quantity the score is Spearman's rank correlation of both over all settings."""


class Claim(_Strict):
    """A statement on first - second: "above" the margin, "not below" minus the margin, or "equal" to 0 within it."""

    id: str
    says: str
    first: Score
    second: Score | None = None
    """None: `first` is compared with 0, as for a correlation."""
    relation: Literal["above", "not below", "equal"]
    margin: Annotated[float, Field(ge=0)]
    """In the units of the metric; set before the comparison was made."""
    note: str = ""
    """Where it does not hold here: the reason, or what speaks for one."""

    @property
    def scores(self) -> tuple[Score, ...]:
        """The one or two scores that are compared."""
        return (self.first, self.second) if self.second else (self.first,)

    @property
    def expected(self) -> str:
        """What the difference should be, in words."""
        return {"above": "above ", "not below": "at least -", "equal": "within ±"}[self.relation] + f"{self.margin:g}"

    def p_values(self, difference: Floats) -> tuple[float, float]:
        """P-values by seed-paired differences (s,): of the claim's opposite (small: it holds) and of the claim (small:
        it fails).

        "equal" is two one-sided tests (TOST) against its opposite.
        """
        d, m = difference, self.margin
        if self.relation == "above":
            return _p_value(d, m), _p_value(-d, -m)
        if self.relation == "not below":
            return _p_value(d, -m), _p_value(-d, m)
        return max(_p_value(d, -m), _p_value(-d, -m)), min(1.0, 2 * min(_p_value(d, m), _p_value(-d, m)))


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim, with both scores and their difference."""

    claim: Claim
    verdict: Verdict
    first: Estimate | None = None
    second: Estimate | None = None
    difference: Estimate | None = None
    missing: tuple[str, ...] = ()
    """Protocols that have to be run before there is a verdict."""
    p: float | None = None
    """The adjusted p-value of the claim's opposite: below LEVEL the claim holds."""
    alone: Verdict = "not scored"
    """The verdict if it were the only claim: without a correction for their number."""


def load() -> tuple[Claim, ...]:
    """The claims of `claims.yaml`. It names the entries, so that the code names none. Raises ValidationError."""
    content = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text("utf-8"))
    return TypeAdapter(tuple[Claim, ...]).validate_python(content)


def check(claims: Sequence[Claim], results: Callable[[str], Iterable[Result]]) -> list[Finding]:
    """A verdict on each claim; results(protocol) gives the records of a protocol.

    P-values are adjusted over all claims that have scores, the two kinds apart.
    """
    tables = {name: by_entry(results(name)) for name in {s.protocol for c in claims for s in c.scores}}
    pairs = {c.id: pair for c in claims if (pair := _paired(c, tables))}
    raw = np.array([c.p_values(pairs[c.id][0] - pairs[c.id][1]) for c in claims if c.id in pairs]).reshape(-1, 2)
    adjusted = dict(
        zip(pairs, zip(raw, np.stack([false_discovery_rates(p) for p in raw.T], 1), strict=True), strict=True)
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
    """The verdict by the p-values of a claim's opposite (`held`) and of the claim (`failed`)."""
    return "holds" if held < LEVEL else "fails" if failed < LEVEL else "unresolved"


def _paired(claim: Claim, tables: dict[str, _Table]) -> tuple[Floats, Floats] | None:
    """Both scores (s,) on the seeds that both have; None if there is no such seed."""
    first, *rest = (by_seed(tables[s.protocol], s) for s in claim.scores)
    second = rest[0] if rest else dict.fromkeys(first, 0.0)
    seeds = sorted(first.keys() & second.keys())
    return (np.array([first[s] for s in seeds]), np.array([second[s] for s in seeds])) if seeds else None


def _p_value(values: Floats, least: float) -> float:
    """P-value by a t-test of "the mean of values (s,) is at most `least`"; 1 with fewer than two values."""
    if len(values) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return 0.0 if values[0] > least else 1.0
    return float(stats.ttest_1samp(values, least, alternative="greater").pvalue)


def by_entry(results: Iterable[Result]) -> _Table:
    """Metrics and costs of the records with status ok, by attack and defense, then by seed."""
    table: _Table = {}
    for r in results:
        if r.status == "ok":
            table.setdefault((r.attack, r.defense), {})[r.seed] = r.metrics | r.cost
    return table


def by_seed(table: _Table, score: Score) -> dict[int, float]:
    """The score by seed, for the seeds that all its attacks and settings have."""
    if not score.settings:
        return _on_defense(table, score, score.defense)
    beside = score.against or Quantity(attacks=("",), metric="test_accuracy")
    settings = (score.defense, *score.settings)
    pairs = [(_on_defense(table, beside, defense), _on_defense(table, score, defense)) for defense in settings]
    seeds = sorted(set.intersection(*(set(side) for pair in pairs for side in pair)))
    points_by_seed = {seed: [(other[seed], own[seed]) for other, own in pairs] for seed in seeds}
    if score.against is None:
        return {seed: hypervolume(points) for seed, points in points_by_seed.items()}
    return {seed: float(stats.spearmanr(points).statistic) for seed, points in points_by_seed.items()}


def _on_defense(table: _Table, quantity: Quantity, defense: str) -> dict[int, float]:
    """The quantity on one defense, by seed."""
    own = _of_attacks(table, quantity, defense)
    if quantity.minus is None:
        return own
    other = _on_defense(table, quantity.minus, defense)
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
