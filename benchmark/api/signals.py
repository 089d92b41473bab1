"""Signals and thresholds that attacks of several papers share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def logit_margin(log_posteriors: Tensor, y: Tensor) -> Tensor:
    """log p_y - log sum of the other posteriors, (..., n) float64 (Carlini et al. 2022, section IV-C).

    log_posteriors (..., n, k), y (n,) int64. Computed from the log-sum-exp of the other classes, so that it stays exact where p_y
    rounds to 1. Clamped to [-1000, 1000].
    """
    index = y.expand(log_posteriors.shape[:-1]).unsqueeze(-1)
    others = log_posteriors.scatter(-1, index, float("-inf")).logsumexp(-1)
    # A guard may return posteriors of exactly 0 and 1: the clamp keeps the margin finite.
    return (log_posteriors.gather(-1, index).squeeze(-1) - others).clamp(-1e3, 1e3)


def best_thresholds(signal: Tensor, y: Tensor, member: Tensor, classes: int) -> Tensor:
    """Thresholds (classes + 1,) of the rule "signal > threshold means member": one for each class, then one for all together.

    Each has the best balanced accuracy on finite signals (n,) with labels y (n,) and member (n,) bool; of equally good ones
    it is the largest. Where no cut is better than calling everybody a member, or nobody, it is the largest signal: nobody
    is called one. A class without members, or without non-members, gets the threshold of all classes together. Source: Song
    and Mittal 2021, section 3.2.2.
    """
    # In float64, for thresholds lie between whole numbers, and NumPy can negate no bools and has no bfloat16.
    exact = signal if signal.dtype in (torch.float32, torch.float64) else signal.double()
    # NumPy sorts five times as fast as torch here, and the sorting is most of the work.
    values, members, labels = (t.numpy(force=True) for t in (exact, member, y))
    labels = labels.astype(np.min_scalar_type(classes))  # small integers are sorted in one pass (radix sort)
    order = np.argsort(-values)
    overall = _best_threshold(values[order], members[order])
    thresholds = np.full(classes + 1, overall, values.dtype)
    order = order[labels[order].argsort(kind="stable")]
    ends = np.bincount(labels, minlength=classes).cumsum()[:-1]
    for c, (class_signal, class_member) in enumerate(
        zip(np.split(values[order], ends), np.split(members[order], ends), strict=True)
    ):
        if class_member.any() and not class_member.all():
            thresholds[c] = _best_threshold(class_signal, class_member)
    return torch.from_numpy(thresholds).to(signal.device)


def _best_threshold(signal: NDArray[Any], member: NDArray[np.bool_]) -> Any:
    """The best threshold of a descending signal (n,): its largest value, or the middle between two neighbours."""
    n, true_positives, next_lower = len(signal), member.cumsum(), np.append(signal[1:], signal[-1:])
    # TPR - FPR times a constant, in whole numbers: ties are exact, and calling everybody or nobody a member is worth 0.
    gain = true_positives * n - np.arange(1, n + 1) * true_positives[-1]
    gain[signal == next_lower] = -n * n  # no cut between equal signals, and none behind the last one
    best = gain.argmax()
    if gain[best] <= 0:
        return signal[0]
    middle = signal[best] / 2 + next_lower[best] / 2  # the sum of two large values may be infinite
    return middle if middle < signal[best] else next_lower[best]  # adjacent floats have nothing between them
