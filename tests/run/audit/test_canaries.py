"""Verdicts on claims: models that look canaries up, and models that never saw them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.metrics import Floats
from benchmark.run.audit import canaries, epsilon
from benchmark.run.audit.canary_report import CanaryAudit, down
from benchmark.run.audit.canary_secret import Secret
from benchmark.run.audit.predictions import Ints

M, K = 400, 5


def secret(m: int = M, share: float = 0.2) -> Secret:
    rng = np.random.default_rng(0)
    return Secret(
        kind="mislabelled", seed="0" * 64, guesses=epsilon.planned(m, share), labels=rng.integers(0, K, m).tolist(),
        included=rng.integers(0, 2, m).tolist(), files={},
    ).sealed()  # fmt: skip


def answers(planted: Secret, known: float = 0.0, seed: int = 1) -> tuple[Floats, Ints]:
    """Log-posteriors of a model that looks up this share of the included canaries; all else is chance."""
    rng, y = np.random.default_rng(seed), np.array(planted.labels)
    p = rng.dirichlet(np.ones(K), len(y))
    recalled = np.flatnonzero(np.array(planted.included, bool) & (rng.random(len(y)) < known))
    p[recalled] = 0
    p[recalled, y[recalled]] = 1
    with np.errstate(divide="ignore"):
        return np.log(p), y


def test_a_lookup_refutes_a_claim() -> None:
    planted = secret()
    report = canaries.audit(*answers(planted, known=1.0), planted, claimed=1.0)
    assert report.verdict.state == "refuted" and report.verdict.sentence.startswith(
        "Refuted: epsilon is claimed to be 1"
    )
    assert (report.canaries, report.guesses, report.included) == (M, 80, sum(planted.included))
    found = epsilon.Guesses(M, 80, report.right)
    by_name = {b.name: b for b in report.bounds}
    assert by_name[canaries.ANY].epsilon == epsilon.any_mechanism(found, 1e-5) > 1
    assert by_name[canaries.PURE].epsilon == epsilon.any_mechanism(found, 0.0) and not by_name[canaries.PURE].judges
    assert by_name[canaries.GAUSSIAN].epsilon == epsilon.gaussian_epsilon(report.mu, 1e-5) == dict(report.curve)[1e-5]
    assert report.p == epsilon.p_value(found, 1.0, 1e-5) < 0.05
    assert all(b.epsilon <= b.most for b in report.bounds) and all(b.assumes and b.source for b in report.bounds)


def test_a_model_that_never_saw_them_refutes_nothing() -> None:
    """Not even an epsilon of a thousandth, but for one model in twenty."""
    planted = secret()
    reports = [canaries.audit(*answers(planted, seed=s), planted, claimed=1e-3) for s in range(20)]
    assert sum(r.verdict.state == "refuted" for r in reports) <= 1
    assert {r.verdict.state for r in reports} <= {"refuted", "not refuted"}


def test_a_claim_between_the_bounds_is_refuted_under_a_gaussian_curve_alone() -> None:
    planted = secret()
    given = answers(planted, known=1.0)
    plain, gaussian = (b.epsilon for b in canaries.audit(*given, planted).bounds[:2])
    between = canaries.audit(*given, planted, claimed=(plain + gaussian) / 2).verdict
    assert between.state == "refuted" and between.sentence.startswith("Refuted under a Gaussian curve:")
    above = canaries.audit(*given, planted, claimed=gaussian + 0.01).verdict
    assert above.state == "not refuted" and "no proof of the claim" in above.more


def test_a_claim_out_of_reach_is_told_with_the_guesses_it_takes() -> None:
    planted = secret()
    found = canaries.audit(*answers(planted, known=1.0), planted, claimed=8.0).verdict
    assert found.state == "not refuted"
    assert "could not have refuted it" in found.more and f"At least {epsilon.needed(8.0):,} guesses" in found.more


def test_a_claim_that_no_audit_can_refute() -> None:
    planted = secret()
    found = canaries.audit(*answers(planted, known=1.0), planted, claimed=1000.0).verdict
    assert found.state == "not refuted" and "No audit can." in found.more


def test_a_pure_claim_is_held_against_pure_epsilon() -> None:
    planted = secret()
    report = canaries.audit(*answers(planted, known=1.0), planted, claimed=1.0, delta=0.0)
    assert [b.name for b in report.bounds if b.judges] == [canaries.PURE] == [b.name for b in report.bounds]
    assert report.verdict.state == "refuted" and "Gaussian" not in report.verdict.sentence + report.verdict.more


def test_without_a_claim_it_says_what_is_shown() -> None:
    planted = secret()
    report = canaries.audit(*answers(planted, known=1.0), planted)
    assert report.verdict.state == "shown" and report.p is None
    assert report.verdict.sentence.startswith(f"Epsilon is at least {down(report.bounds[0].epsilon)} for any mechanism")
    assert CanaryAudit.model_validate_json(report.as_json()) == report
    assert "included" in json.loads(report.as_json()) and planted.seed not in report.as_json()


def test_lower_bounds_are_rounded_down() -> None:
    assert [down(v) for v in (0.999, 1.0, 2.7849, 0.0)] == ["0.99", "1.00", "2.78", "0.00"]


def test_answers_to_others_are_refused() -> None:
    planted = secret()
    log_posteriors, y = answers(planted)
    wrong = y.copy()
    wrong[2] = (wrong[2] + 1) % K
    for given, said in (
        ((log_posteriors[:-1], y[:-1]), "expected answers to 400 canaries, as the secret has, given 399"),
        ((log_posteriors, wrong), "in record 3"),
    ):
        with pytest.raises(UserError, match=said):
            canaries.audit(*given, planted)
    with pytest.raises(UserError, match="expected at least 10 canaries, given 9"):
        canaries.audit(log_posteriors[:9], np.array(secret(9).labels), secret(9))


@pytest.mark.parametrize(
    ("delta", "claimed", "said"),
    [
        (1.0, None, "--delta: expected 0 or more and below 1, given 1"),
        (-1e-9, None, "--delta"),
        (float("nan"), None, "--delta"),
        (0.0, 0.0, "--claimed-epsilon: expected a number above 0, given 0"),
        (0.0, -1.0, "--claimed-epsilon"),
        (0.0, float("nan"), "--claimed-epsilon"),
        (0.0, float("inf"), "--claimed-epsilon"),
    ],
)
def test_claims_that_are_none(delta: float, claimed: float | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        canaries.check(delta, claimed)
