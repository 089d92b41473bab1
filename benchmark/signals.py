"""Signals and thresholds that the field's attacks share."""

from __future__ import annotations

import torch
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

    "signal > threshold means member" has the best balanced accuracy there, on signal (n,), labels y (n,) and
    member (n,) bool; of equally good thresholds, the largest. A class without members, or without others, gets
    the threshold of all together (Song and Mittal 2021, section 3.2.2; one sort for all classes).
    """
    order = signal.argsort(descending=True, stable=True)
    overall = _best_threshold(signal[order], member[order])
    found = overall.repeat(classes + 1)
    order = order[y[order].argsort(stable=True)]
    sizes = y.bincount(minlength=classes).tolist()
    for c, (s, m) in enumerate(zip(signal[order].split(sizes), member[order].split(sizes), strict=True)):
        if m.any() and not m.all():
            found[c] = _best_threshold(s, m)
    return found


def _best_threshold(signal: Tensor, member: Tensor) -> Tensor:
    """The best threshold () of a signal (n,) in descending order, halfway between two of its values."""
    hits, alarms = member.cumsum(0), (~member).cumsum(0)
    below = torch.cat([signal[1:], signal[-1:]])
    gain = hits / hits[-1].double() - alarms / alarms[-1].double()
    gain[signal == below] = -1  # equal signals cannot be parted; the last row, which parts nothing, is one of them
    return ((signal + below) / 2)[gain.argmax()]
