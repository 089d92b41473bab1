"""Checks of the question itself: do members and non-members differ by the model's training alone?

A classifier that never asks the model, and tells members all the same, says that the two sides were drawn differently: then an
attack's success is no measure of leakage. Blind baselines of this kind beat the published attacks on many data sets (Das et al.
2024, arXiv:2406.16201).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.data.population import seed_of
from benchmark.metrics import Bools, Curve, Floats, resolves
from benchmark.run.audit.predictions import Predictions

State = Literal["ok", "warning", "broken", "not checked"]
_PERMUTATIONS = 999
_COLUMNS, _ROWS = 256, 20_000
"""Numbers of an input, and records, that the classifier on the inputs learns from at most."""
_SAME = 0.01
"""The share of the smaller side from which equal answers on both sides are a warning."""
_MOST_SAME = 0.5
"""The share of it from which they are the same records, where no other record of their side has their answer."""
_DIGITS = 0.5
"""The share of answers with a probability of exactly 0 or 1 from which they are a warning."""


class Check(NamedTuple):
    """A check's state, what was found, and what it means for the verdict. "broken": the verdict is no measure of leakage."""

    name: str
    state: State
    found: str
    effect: str
    why: str = ""
    """Of a broken one: why it is unclear what the model leaks."""


def checks(given: Predictions, seed: int, level: float) -> list[Check]:
    """All checks of these answers. level: how often chance may be taken for a difference."""
    return [
        _blind("Labels and subgroups without the model", _by_shares, given, seed, level),
        _blind("Inputs without the model", _by_inputs, given, seed, level),
        _equal_answers(given),
        _balance(given),
        _size(given),
        _digits(given),
    ]


Score = Callable[[Predictions, Bools, np.random.Generator], Floats | None]


def _blind(name: str, score: Score, given: Predictions, seed: int, level: float) -> Check:
    """Learn on one half to tell members from non-members, and look on the other half how well that works."""
    rng = np.random.default_rng(seed_of(name, seed))
    learns = np.zeros(len(given), bool)
    for side in (True, False):
        rows = rng.permutation(np.flatnonzero(given.members == side))
        learns[rows[: len(rows) // 2]] = True
    found = score(given, learns, rng)
    if found is None:
        return Check(
            name,
            "not checked",
            "The file holds no inputs (columns x_..., array inputs).",
            "A shift of the inputs would go unseen.",
        )
    scores, members = found[~learns], given.members[~learns]
    auc = _auc(scores, members)
    null = _null_aucs(scores, members, rng)
    p = (1 + np.count_nonzero(null >= auc)) / (1 + len(null))
    limit = float(np.quantile(null, 1 - level, method="weibull"))
    text = f"AUC {auc:.3f}; by chance it stays below {limit:.3f} in {1 - level:.0%} of cases."
    if p <= level:
        return Check(
            name,
            "broken",
            text,
            "What attacks find may be that difference. Draw both sides from one pool, and audit again.",
            "members and non-members differ without it",
        )
    return Check(name, "ok", text, "")


def _auc(scores: Floats, members: Bools) -> float:
    return float(Curve.of(scores, members, ~members).auc())


def _null_aucs(scores: Floats, members: Bools, rng: np.random.Generator) -> Floats:
    """AUCs under permuted memberships; by the sum of ranks (Mann and Whitney), for one order serves them all."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal scores
    ranks, inside, n = middle[inverse], int(members.sum()), len(members)
    sums = np.array([rng.permutation(ranks)[:inside].sum() for _ in range(_PERMUTATIONS)])
    aucs: Floats = (sums - inside * (inside + 1) / 2) / (inside * (n - inside))
    return aucs


def _by_shares(given: Predictions, learns: Bools, rng: np.random.Generator) -> Floats:
    """Log-odds of membership (n,) by the shares of labels and of subgroups, as if they were independent (naive Bayes)."""
    total = np.zeros(len(given))
    for values in (given.y, *given.groups.values()):
        _, codes = np.unique(values, return_inverse=True)
        k = int(codes.max()) + 1
        inside, outside = (
            np.bincount(codes[learns & side], minlength=k) + 1.0 for side in (given.members, ~given.members)
        )
        total += np.log(inside / inside.sum() / (outside / outside.sum()))[codes]
    return total


def _by_inputs(given: Predictions, learns: Bools, rng: np.random.Generator) -> Floats | None:
    """The score (n,) of boosted trees on the inputs; None without any."""
    if given.inputs is None:
        return None
    from sklearn.ensemble import HistGradientBoostingClassifier

    width = given.inputs.shape[1]
    columns = np.sort(rng.choice(width, min(width, _COLUMNS), replace=False))
    rows = np.flatnonzero(learns)
    rows = rng.permutation(rows)[:_ROWS]
    trees = HistGradientBoostingClassifier(max_iter=50, random_state=int(rng.integers(2**31)))
    trees.fit(given.inputs[np.ix_(rows, columns)], given.members[rows])
    scores: Floats = trees.decision_function(given.inputs[:, columns])
    return scores


def _equal_answers(given: Predictions) -> Check:
    """Records of one label on either side with the same answer, to the last digit."""
    name = "Equal answers on both sides"
    rows = pd.DataFrame(np.column_stack([given.log_posteriors, given.y]))
    hashes = pd.util.hash_pandas_object(rows, index=False).to_numpy()
    both = np.intersect1d(hashes[given.members], hashes[~given.members])
    mine = np.isin(hashes, both)
    # An answer that many records have, such as a probability of exactly 1, says nothing about duplicates.
    spread = (given.log_posteriors > -np.inf).sum(1) > 1
    count = int((mine & spread & given.members).sum())
    smaller = int(min(given.members.sum(), (~given.members).sum()))
    share = count / smaller
    text = f"{count:,} members have the answer and the label of a non-member to the last digit."
    # Of records that share their answer with no other one of their side, few have that of one of the other side by chance.
    own = [
        values[counts == 1]
        for side in (given.members, ~given.members)
        for values, counts in [np.unique(hashes[side & spread], return_counts=True)]
    ]
    same = len(np.intersect1d(*own))
    if same >= _MOST_SAME * smaller:
        return Check(
            name, "broken", f"{text} {same:,} of these answers are there once on either side.",
            "Both sides hold the same records: no attack can tell them apart. Give records that the model was not trained on.",
            "members and non-members are the same records",
        )  # fmt: skip
    if share < _SAME:
        return Check(name, "ok", text, "")
    return Check(
        name,
        "warning",
        text,
        "If they are the same images, no attack can tell them apart, and every number is too small.",
    )


def _balance(given: Predictions) -> Check:
    inside, outside = (np.bincount(given.y[side], minlength=given.classes) for side in (given.members, ~given.members))
    empty = int(((inside == 0) | (outside == 0)).sum())
    distance = float(np.abs(inside / inside.sum() - outside / outside.sum()).sum() / 2)
    text = f"{distance:.1%} of one side would have to change class to have the other's shares; {_classes(inside, outside)}."
    if empty:
        return Check(
            "Class balance",
            "warning",
            text,
            f"{empty} of {given.classes} classes lack members or non-members: nothing is said about them.",
        )
    return Check("Class balance", "ok", text, "")


def _classes(*sides: NDArray[np.int64]) -> str:
    words = [
        f"{name} {s.min():,} to {s.max():,} a class" for name, s in zip(("members", "non-members"), sides, strict=True)
    ]
    return ", ".join(words)


def _size(given: Predictions) -> Check:
    inside, outside = int(given.members.sum()), int((~given.members).sum())
    text = f"{inside:,} members and {outside:,} non-members."
    lost = [f"TPR at {100 * rate:g} % FPR" for rate in (0.01, 0.001) if not resolves(outside, rate)]
    rough = [
        f"TPR at {100 * rate:g} % FPR"
        for rate in (0.01, 0.001)
        if resolves(outside, rate) and not resolves(outside, rate / 10)
    ]
    if lost or rough:
        effect = "; ".join(filter(None, [
            f"{' and '.join(lost)} cannot be measured" if lost else "",
            f"{' and '.join(rough)} is rough, and does not enter the test" if rough else "",
        ]))  # fmt: skip
        return Check(
            "Enough records for low rates",
            "warning",
            text,
            f"{effect}: a rate needs 1/rate non-members to be shown, ten times as many to be tested.",
        )
    return Check("Enough records for low rates", "ok", text, "")


def _digits(given: Predictions) -> Check:
    """What tells members lies in the last digits: a probability that is 0 or 1 has none."""
    lost = np.isneginf(given.log_posteriors).any(1) | (given.log_posteriors == 0).any(1)
    text = f"{lost.mean():.1%} of the answers hold a probability of exactly 0 or 1."
    if lost.mean() < _DIGITS:
        return Check("Digits of the answers", "ok", text, "")
    return Check(
        "Digits of the answers",
        "warning",
        text,
        "If the model answers like this, fine; if they were rounded on the way, attacks find too little: give logits.",
    )


def broken(found: Iterable[Check]) -> Iterator[Check]:
    """The checks by which the verdict is no measure of leakage."""
    return (c for c in found if c.state == "broken")
