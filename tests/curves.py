"""The figures of one curve from scores and labels, as the tests ask for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmark.metrics import Floats, curve, resolves


def roc(scores: ArrayLike, members: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(fpr, tpr, thresholds), each (g + 1,) for g distinct scores, from (0, 0, inf) to (1, 1, min)."""
    c = curve(scores, members)
    return c.fp / c.fp[-1], c.tp / c.tp[-1], np.append(np.inf, c.values)


def auc(scores: ArrayLike, members: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1]."""
    return float(curve(scores, members).auc())


def tpr_at(scores: ArrayLike, members: ArrayLike, rate: float) -> float | None:
    """Largest attainable TPR with FPR <= rate; None with fewer than 1 / rate non-members."""
    c = curve(scores, members)
    return float(c.tpr_at(rate)) if resolves(int(c.fp[-1]), rate) else None


def tnr_at(scores: ArrayLike, members: ArrayLike, rate: float) -> float | None:
    """Largest attainable TNR with FNR <= rate; None with fewer than 1 / rate members."""
    c = curve(scores, members)
    return float(c.tnr_at(rate)) if resolves(int(c.tp[-1]), rate) else None


def decisions(scores: ArrayLike, members: ArrayLike, threshold: float) -> dict[str, float]:
    """balanced_accuracy, advantage, precision, recall and f1 of `score >= threshold`."""
    return {name: float(value) for name, value in curve(scores, members).decisions(threshold).items()}
