"""Conditions on an audit, such as `tpr_at_fpr_0.01 > 0.05`, for the release of a model: the interval decides."""

from __future__ import annotations

import re
from typing import NamedTuple

from benchmark.errors import UserError, suggest
from benchmark.run.audit.predicted import METRIC_NAMES
from benchmark.run.audit.report import Audit, Decision
from benchmark.text import plain


class Condition(NamedTuple):
    """The worst case of a metric is above a bound (or, `reached`, at it)."""

    text: str
    metric: str
    reached: bool
    bound: float


def condition(text: str) -> Condition:
    """A condition as it is given, METRIC > NUMBER or METRIC >= NUMBER. Raises UserError."""
    found = re.fullmatch(r"\s*([A-Za-z0-9_.]+)\s*(>=?)\s*(\d*\.?\d+)\s*", text)
    if not found:
        raise UserError(
            f"--fail-if: expected METRIC > NUMBER, such as 'tpr_at_fpr_0.01 > 0.05', given {plain(text, 60)!r}"
        )
    if found[1] not in METRIC_NAMES:
        raise UserError(f"--fail-if: unknown metric {plain(found[1], 40)!r}{suggest(found[1], METRIC_NAMES)}")
    bound = float(found[3])
    if bound > 1:
        raise UserError(f"--fail-if: expected a bound from 0 to 1, given {found[3]}; 5 % is 0.05")
    return Condition(f"{found[1]} {found[2]} {found[3]}", found[1], found[2] == ">=", bound)


def decide(audit: Audit, asked: Condition) -> Decision:
    """fails where the whole interval of the worst case meets the condition, passes where none of it does; else it cannot be told.

    It cannot be told either where members and non-members differ without the model, or where the records don't resolve the
    metric.
    """
    case = audit.worst.get(asked.metric)
    if audit.verdict.state == "unclear":
        return Decision(condition=asked.text, outcome="cannot tell", reason="it is unclear what the model leaks")
    if case is None:
        return Decision(condition=asked.text, outcome="cannot tell", reason="too few records for this metric")
    interval = f"the worst case is {case.value:.4g}, its 95 % interval {case.low:.4g} to {case.high:.4g}"
    if case.low > asked.bound or (asked.reached and case.low == asked.bound):
        return Decision(condition=asked.text, outcome="fails", reason=interval)
    if case.high < asked.bound or (not asked.reached and case.high == asked.bound):
        return Decision(condition=asked.text, outcome="passes", reason=interval)
    return Decision(condition=asked.text, outcome="cannot tell", reason=f"{interval}: more records make it narrower")
