"""Gates on what other kinds of attack gain over their nulls."""

from __future__ import annotations

import pytest

from benchmark.errors import UserError
from benchmark.run.audit import gate
from benchmark.run.audit.predicted import audit
from benchmark.run.audit.report import Audit, Gain, Measured, OtherAttack, OtherKind
from tests.run.audit.worlds import registry, world


def attack(name: str, low: float, value: float, high: float, counts: bool = True) -> OtherAttack:
    return OtherAttack(
        name=name, title="", reference="", null=False, access="label", counts=counts, queries=9, metrics={"agreement": Measured(value=0.5)},
        gain=Gain(over="steal_null", value=value, low=low, high=high),
    )  # fmt: skip


@pytest.fixture(scope="module")
def report() -> Audit:
    attacks = [attack("a", 0.02, 0.05, 0.08), attack("b", 0.03, 0.04, 0.05), attack("c", 0.5, 0.6, 0.7, counts=False)]
    kinds = [
        OtherKind(kind="stealing", sentence="Copied.", metric="agreement", attacks=attacks),
        OtherKind(
            kind="attribute", sentence="Attribute inference was not measured: the images have no attribute.", metric="x"
        ),
    ]
    return audit(world(1, n=60), registry(), when="")[0].model_copy(update={"others": kinds})


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        ("stealing_gain > 0.02", "fails", "the largest gain over a null is 0.05, its 95 % interval 0.03 to 0.08"),
        ("stealing_gain >= 0.03", "fails", "0.03 to 0.08"),
        ("stealing_gain > 0.03", "cannot tell", "more records make it narrower"),
        ("stealing_gain > 0.08", "passes", "0.03 to 0.08"),
        ("attribute_gain > 0.1", "cannot tell", "the images have no attribute"),
        ("inversion_gain > 0.1", "cannot tell", "other kinds of attack need the model itself"),
    ],
)
def test_a_gain_is_decided_by_its_interval(report: Audit, text: str, outcome: str, reason: str) -> None:
    decision = gate.decide(report, gate.condition(text))
    assert decision.outcome == outcome and reason in decision.reason
    unclear = report.model_copy(update={"verdict": report.verdict.model_copy(update={"state": "unclear"})})
    assert gate.decide(unclear, gate.condition(text)) == decision, "who was a member is another question"


def test_a_metric_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="unknown metric 'stealing_gains'; did you mean 'stealing_gain'"):
        gate.condition("stealing_gains > 0.1")
