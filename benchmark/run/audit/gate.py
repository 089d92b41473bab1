"""Conditions on an audit, such as `tpr_at_fpr_0.01 > 0.05`, for the release of a model: the interval decides."""

from __future__ import annotations

import re
from typing import NamedTuple

from benchmark.errors import UserError, suggest
from benchmark.run.audit.predicted import METRIC_NAMES
from benchmark.run.audit.report import Audit, Decision
from benchmark.text import plain

GAINS = {f"{kind}_gain": kind for kind in ("stealing", "attribute", "inversion")}
"""By metric, the kind of attack whose largest gain over its null is meant."""


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
    if found[1] not in (known := (*METRIC_NAMES, *GAINS)):
        raise UserError(f"--fail-if: unknown metric {plain(found[1], 40)!r}{suggest(found[1], known)}")
    bound = float(found[3])
    if bound > 1:
        raise UserError(f"--fail-if: expected a bound from 0 to 1, given {found[3]}; 5 % is 0.05")
    return Condition(f"{found[1]} {found[2]} {found[3]}", found[1], found[2] == ">=", bound)


def decide(audit: Audit, asked: Condition) -> Decision:
    """fails where the whole interval of the worst case meets the condition, passes where none of it does; else it cannot be told.

    It cannot be told either where members and non-members differ without the model, or where the records don't resolve the
    metric.
    """
    if asked.metric in GAINS:
        return _of_gain(audit, asked)
    case = audit.worst.get(asked.metric)
    if audit.verdict.state == "unclear":
        return Decision(condition=asked.text, outcome="cannot tell", reason="it is unclear what the model leaks")
    if case is None:
        return Decision(condition=asked.text, outcome="cannot tell", reason="too few records for this metric")
    return _decided(asked, "the worst case", case.value, case.low, case.high)


def _of_gain(audit: Audit, asked: Condition) -> Decision:
    """By the largest gain of the attacks that count: intervals hold for all of a kind at once, and so do their largest ends."""
    kind = next((k for k in audit.others if k.kind == GAINS[asked.metric]), None)
    gains = [a.gain for a in kind.counting if a.gain] if kind else []
    if not gains:
        reason = kind.sentence if kind else "other kinds of attack need the model itself"
        return Decision(condition=asked.text, outcome="cannot tell", reason=reason)
    value, low, high = (max(getattr(gain, end) for gain in gains) for end in ("value", "low", "high"))
    return _decided(asked, "the largest gain over a null", value, low, high)


def _decided(asked: Condition, what: str, value: float, low: float, high: float) -> Decision:
    interval = f"{what} is {value:.4g}, its 95 % interval {low:.4g} to {high:.4g}"
    if low > asked.bound or (asked.reached and low == asked.bound):
        return Decision(condition=asked.text, outcome="fails", reason=interval)
    if high < asked.bound or (not asked.reached and high == asked.bound):
        return Decision(condition=asked.text, outcome="passes", reason=interval)
    return Decision(condition=asked.text, outcome="cannot tell", reason=f"{interval}: more records make it narrower")
