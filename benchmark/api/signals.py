"""Signals and thresholds that the field's attacks share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def logit_margin(log_posteriors: Tensor, y: Tensor) -> Tensor:
    """log p_y - log sum of the other posteriors, (..., n) float64 (Carlini et al. 2022, section IV-C).

    log_posteriors (..., n, k), y (n,). Computed from the others' log-sum-exp, so that it stays exact
    where p_y rounds to 1.
    """
    index = y.expand(log_posteriors.shape[:-1]).unsqueeze(-1)
    others = log_posteriors.scatter(-1, index, float("-inf")).logsumexp(-1)
    # A guard may return exact zeros and ones: the clamp keeps the margin finite.
    return (log_posteriors.gather(-1, index).squeeze(-1) - others).clamp(-1e3, 1e3)


def best_thresholds(signal: Tensor, y: Tensor, member: Tensor, classes: int) -> Tensor:
    """Thresholds (classes + 1,): of each class, and at the end the one of all classes together.

    "signal > threshold means member" has the best balanced accuracy there, on finite signals (n,), labels y (n,) and
    member (n,) bool; of equally good thresholds, the largest. Where no cut between two signals is better than calling
    everybody a member, or nobody, that is the largest signal: nobody. A class without members, or without others, gets
    the threshold of all together (Song and Mittal 2021, section 3.2.2; one sort for all classes).
    """
    # Halfway between two whole numbers is none, and NumPy has neither negative truths nor bfloat16.
    exact = signal if signal.dtype in (torch.float32, torch.float64) else signal.double()
    # NumPy sorts five times as fast as torch here, and the sorting is most of the work.
    values, members, labels = (t.numpy(force=True) for t in (exact, member, y))
    labels = labels.astype(np.min_scalar_type(classes))  # of few bits are sorted in one pass
    order = np.argsort(-values)
    overall = _best_threshold(values[order], members[order])
    found = np.full(classes + 1, overall, values.dtype)
    order = order[labels[order].argsort(kind="stable")]
    ends = np.bincount(labels, minlength=classes).cumsum()[:-1]
    for c, (s, m) in enumerate(zip(np.split(values[order], ends), np.split(members[order], ends), strict=True)):
        if m.any() and not m.all():
            found[c] = _best_threshold(s, m)
    return torch.from_numpy(found).to(signal.device)


def _best_threshold(signal: NDArray[Any], member: NDArray[np.bool_]) -> Any:
    """The best threshold of a signal (n,) in descending order: its largest value, or halfway between two values."""
    n, hits, below = len(signal), member.cumsum(), np.append(signal[1:], signal[-1:])
    # hits / members - alarms / others, in whole numbers: ties are exact, and to call all or none a member is worth 0.
    gain = hits * n - np.arange(1, n + 1) * hits[-1]
    gain[signal == below] = -n * n  # equal signals cannot be parted; the last row, which parts nothing, is one of them
    best = gain.argmax()
    if gain[best] <= 0:
        return signal[0]
    middle = signal[best] / 2 + below[best] / 2  # the sum of two large values may be infinite
    return middle if middle < signal[best] else below[best]  # neighbours have nothing between them
