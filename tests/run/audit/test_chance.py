"""Chance over many attacks, and the interval of their worst case: against the judge's own numbers, and by coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from benchmark.judge.bootstrap import membership_report
from benchmark.metrics import Bools, Curve, Floats
from benchmark.run.audit import chance as chance_module
from benchmark.run.audit.attacks import Scored
from benchmark.run.audit.chance import LEVEL, Cells, Drawn, Draws, chance, drawn, worst
from tests.curves import auc, tpr_at

PART: Any = None
"""What was scored does not depend on which attack scored it."""


def scored(scores: Floats, calls: Bools | None = None) -> Scored:
    rows = np.arange(scores.shape[-1])
    return Scored(PART, rows, np.atleast_2d(scores), rows, None if calls is None else np.atleast_2d(calls))


def sides(n: int, m: int) -> Bools:
    return np.arange(n + m) < n


def attacks(rng: np.random.Generator, members: Bools, shifts: list[float]) -> list[Drawn]:
    """Attacks of these binormal shifts, which share half of their noise."""
    common = rng.normal(size=len(members))
    draws = Draws.of(members, np.zeros(len(members), bool), rng)
    return [
        drawn(scored((common + rng.normal(size=len(members))) / np.sqrt(2) + shift * members), draws)
        for shift in shifts
    ]


@pytest.mark.parametrize("kind", ["smooth", "ties", "apart", "two values"])
def test_cells_give_the_curves_own_metrics(kind: str) -> None:
    """Of 30,000 records: TPRs at low rates and decisions exactly, AUC within 1e-4."""
    rng, members = np.random.default_rng(1), sides(14_000, 16_000)
    scores = rng.normal(size=len(members)) + 0.5 * members
    scores = {"smooth": scores, "ties": scores.round(1), "apart": scores + 4 * members, "two values": np.sign(scores)}[
        kind
    ]
    cells = Cells.of(scores, members, np.arange(30_000))
    assert kind != "smooth" or len(cells.starts) < 7500, "that is why it is quick"
    weights = np.array([np.bincount(rng.integers(0, 14_000, 14_000), minlength=30_000) for _ in range(3)])
    weights[:, 14_000:] = [np.bincount(rng.integers(0, 16_000, 16_000), minlength=16_000) for _ in range(3)]
    permuted = np.array([rng.permutation(members) for _ in range(3)])
    for quick, inside, outside in (
        (cells.permuted(permuted), permuted, ~permuted),
        (cells.resampled(weights.astype(np.uint8)), weights * members, weights * ~members),
    ):
        exact = Curve.of(scores, inside, outside)
        assert np.allclose(quick.auc(), exact.auc(), rtol=0, atol=1e-4)
        for curve, other in ((quick, exact), (quick.negated(), exact.negated())):
            for rate in (0.01, 0.001):
                assert (curve.tpr_at(rate) == other.tpr_at(rate)).all()


def test_values_are_the_judges() -> None:
    """What was observed to the last digit; intervals and nulls as far as other draws allow."""
    rng, members = np.random.default_rng(2), sides(400, 600)
    scores = rng.normal(size=(2, 1000)) + 0.6 * members
    report = membership_report(scores, members, 0.3, rng=rng, null_rng=rng, nulls=400)
    found = drawn(scored(scores, scores >= 0.3), Draws.of(members, np.zeros(1000, bool), rng))
    for name in ("auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.01_reversed", "balanced_accuracy"):
        value = found.value(name)
        assert value.value == report.metrics[name], name
        assert np.allclose((value.low, value.high), report.intervals[name], atol=0.012), name
    assert "tpr_at_fpr_0.001" not in found.observed, "600 non-members don't resolve it"
    null = found.value("auc")
    assert np.allclose(
        (null.null_low, null.null_high), np.quantile(report.null_auc, (LEVEL / 2, 1 - LEVEL / 2)), atol=0.02
    )


def test_draws_keep_each_stratum_and_side() -> None:
    rng, members = np.random.default_rng(3), sides(30, 50)
    strata = np.arange(80) % 3 == 0
    draws = Draws.of(members, strata, rng)
    for stratum in (strata, ~strata):
        assert (draws.permuted[:, stratum].sum(1) == members[stratum].sum()).all()
        for side in (members, ~members):
            assert (draws.resampled[:, stratum & side].sum(1) == (stratum & side).sum()).all()
    assert len(np.unique(draws.permuted, axis=0)) == len(draws.permuted) == 999
    assert abs(draws.permuted.mean(0) - np.where(strata, members[strata].mean(), members[~strata].mean())).max() < 0.08


def test_the_worst_case_is_the_maximum_and_knows_its_sign() -> None:
    rng, members = np.random.default_rng(4), sides(300, 300)
    found = attacks(rng, members, [0.1, -1.0, 0.5])
    case = worst(found, "auc")
    assert case and case.attack == 1 and case.reversed and case.value == 1 - found[1].observed["auc"]
    assert case.low < case.value < case.high and case.p == 0.001
    assert case.high == max(d.value(n).high for d in found for n in ("auc", "auc_reversed"))
    assert worst(found, "tpr_at_fpr_0.001") is None


def test_more_attacks_ask_for_more() -> None:
    """The null of the maximum grows with the number of attacks, and the lower end of the same winner falls."""
    rng, members = np.random.default_rng(5), sides(200, 200)
    found = attacks(rng, members, [0.8, *[0.0] * 11])
    one, all_of_them = worst(found[:1], "auc"), worst(found, "auc")
    assert one and all_of_them and one.value == all_of_them.value
    assert all_of_them.null > one.null + 0.005 and all_of_them.low < one.low - 0.002
    assert chance(found, 200) == 0.001


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 480 attacks are drawn
def test_the_worst_case_lies_in_its_interval_and_chance_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four equal attacks, the hardest case: their maximum is larger than the truth on average. 60 worlds of 300 + 300."""
    monkeypatch.setattr(chance_module, "DRAWS", (199, 199))
    worlds, shift, members = 60, 0.4, sides(300, 300)
    rng = np.random.default_rng(6)
    truth = {"auc": norm.cdf(shift / np.sqrt(2)), "tpr_at_fpr_0.01": norm.sf(norm.isf(0.01) - shift)}
    covered, values = dict.fromkeys(truth, 0), []
    for _ in range(worlds):
        found = attacks(rng, members, [shift] * 4)
        for name, true in truth.items():
            case = worst(found, name)
            assert case
            covered[name] += case.low <= true <= case.high
            values.append(case.value - true if name == "auc" else 0)
    assert np.mean(values) > 0, "the maximum is biased upwards: an interval around it alone would be off"
    # 95 % or more, less what 60 worlds may miss by chance (RULES 28): 53 is the 1 % quantile of a binomial.
    assert min(covered.values()) >= 53, covered
    ps = np.array([chance(attacks(rng, members, [0.0] * 4), 300) for _ in range(worlds)])
    assert (ps <= 0.1).sum() <= 13 and (ps <= 0.5).sum() in range(20, 41), "6 and 30 are expected"


def test_ties_and_constant_scores_are_no_leak() -> None:
    members = sides(100, 100)
    draws = Draws.of(members, np.zeros(200, bool), np.random.default_rng(7))
    found = [drawn(scored(np.zeros(200), np.zeros(200, bool)), draws)]
    case = worst(found, "auc")
    assert case and case.value == 0.5 == auc(np.zeros(200), members) and case.p == 1 == chance(found, 100)
    assert found[0].observed["tpr_at_fpr_0.01"] == 0 == tpr_at(np.zeros(200), members, 0.01)
    assert found[0].observed["balanced_accuracy"] == 0.5


def test_an_attack_on_a_part_makes_the_worst_case_only_where_it_surely_does() -> None:
    """It strays far by chance, and must not widen what chance gives the others."""
    rng = np.random.default_rng(20)
    members = np.arange(800) < 400
    few = np.sort(np.r_[rng.permutation(400)[:20], 400 + rng.permutation(400)[:20]])
    draws = Draws.of(members, np.isin(np.arange(800), few), rng)
    whole = drawn(Scored(PART, np.arange(800), rng.normal(size=(1, 800)) + 0.3 * members, np.arange(0), None), draws)

    def on_few(shift: float) -> Drawn:
        return drawn(Scored(PART, few, rng.normal(size=(1, 40)) + shift * members[few], few[:0], None, True), draws)

    alone = worst([whole], "auc")
    lucky, sure = on_few(0.6), on_few(4.0)
    assert set(lucky.observed) == {"auc", "auc_reversed"}, "so few say nothing of low rates"
    assert alone and lucky.observed["auc"] > whole.observed["auc"]
    case = worst([whole, lucky], "auc")
    assert case and (case.attack, case.value, case.null, case.p, case.high) == (
        0,
        alone.value,
        alone.null,
        alone.p,
        alone.high,
    )
    certain = worst([whole, sure], "auc")
    assert certain and certain.attack == 1 and certain.value == sure.observed["auc"] and certain.null > alone.null
    only = worst([lucky], "auc")
    assert only and only.attack == 0, "where nothing was measured on all records"
    assert chance([whole, sure], 400) <= 0.01, "in the one test all count"


def test_scores_that_do_not_overlap_have_an_interval() -> None:
    """25 and 25 records that are told apart do not show that all are: of 25 right ones the exact lower end is 0.863."""
    members = sides(25, 25)
    draws = Draws.of(members, np.zeros(50, bool), np.random.default_rng(8))
    value = drawn(scored(members.astype(float)), draws).value("auc")
    assert value.value == 1 == value.high and value.low == pytest.approx(0.025 ** (1 / 25))
