"""Metrics of the tasks other than membership, with 95 % bootstrap intervals over samples."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from benchmark.judge.bootstrap import at_least_binomial
from benchmark.metrics import ece

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Report = tuple[dict[str, float], dict[str, tuple[float, float]]]


def inversion_metrics(images: torch.Tensor, means: torch.Tensor) -> dict[str, float]:
    """MSE and SSIM of reconstructions (k, c, h, w) in [0, 1] to their class's mean image, averaged over classes."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # costs seconds to import

    side = min(images.shape[-2:])
    kernel = min(11, side - 1 + side % 2)  # the usual 11 pixels do not fit into an 8x8 image
    ssim = structural_similarity_index_measure(
        images, means, data_range=1.0, kernel_size=kernel, sigma=kernel * 1.5 / 11, gaussian_kernel=True
    )
    return {
        "mse_to_class_mean": float(((images - means) ** 2).mean()),
        "ssim_to_class_mean": float(ssim),  # type: ignore[arg-type]
    }


def attribute_metrics(guess: Ints, truth: Ints, rng: np.random.Generator, resamples: int = 1000) -> Report:
    """Accuracy, balanced accuracy and the majority guess of attribute labels (n,), 0 or 1."""
    right = (guess == truth).astype(np.float64)
    each = [right[truth == v] for v in (0, 1) if (truth == v).any()]
    found = {
        "attribute_accuracy": float(right.mean()),
        "attribute_balanced_accuracy": float(np.mean([e.mean() for e in each])),
        "attribute_majority": float(max(truth.mean(), 1 - truth.mean())),
    }
    draws = np.mean([_means(e, rng, resamples) for e in each], axis=0)
    intervals = {
        "attribute_accuracy": _interval(_means(right, rng, resamples)),
        "attribute_balanced_accuracy": _interval(draws),
    }
    return found, intervals


def stealing_metrics(copy: Ints, target: Ints, y: Ints, rng: np.random.Generator, resamples: int = 1000) -> Report:
    """Agreement of the copy's labels with the target's, and the copy's accuracy; all (n,)."""
    rows = {"agreement": (copy == target).astype(float), "stolen_accuracy": (copy == y).astype(float)}
    return shares(rows, rng, resamples)


def utility_metrics(
    train: Floats, train_y: Ints, test: Floats, test_y: Ints, rng: np.random.Generator, resamples: int = 1000
) -> Report:
    """Accuracy on members and on target-test, and ECE on target-test, of log-posteriors (n, k)."""
    rows = {
        "train_accuracy": (train.argmax(1) == train_y).astype(float),
        "test_accuracy": (test.argmax(1) == test_y).astype(float),
    }
    found, intervals = shares(rows, rng, resamples)
    return found | {"ece": float(ece(test, test_y))}, intervals


def shares(rows: dict[str, Floats], rng: np.random.Generator, resamples: int = 1000) -> Report:
    """The shares of ones among 0/1 values (n,), each under its name."""
    return (
        {name: float(v.mean()) for name, v in rows.items()},
        # Where nearly all are right, resampling finds nearly no other share.
        {
            name: at_least_binomial(_interval(_means(v, rng, resamples)), float(v.mean()), len(v))
            for name, v in rows.items()
        },
    )


_MOVED, _EACH = 1e-3, 20
"""By what a posterior is moved, to count; and how many answers share a bin."""
UNEVEN, _WORSE, DEVIATIONS = 0.05, 0.0, 4
"""By what share of equally sure answers guards may treat members and non-members apart, beyond so many standard errors."""


def moved_answers(
    members: Floats, members_bare: Floats, nonmembers: Floats, nonmembers_bare: Floats
) -> tuple[dict[str, float], str]:
    """How often guards leave an answer as the network gave it, and what is uneven in that; "" where nothing is.

    Each (n, k) log-posteriors, with the guards and bare. A guard that reads nothing but the answer leaves alone, or moves,
    equally sure answers alike, whoever is a member; so rates are compared within bins of the bare answer's margin
    (Mantel and Haenszel's difference of rates).
    """
    sides = (members, members_bare), (nonmembers, nonmembers_bare)
    alone = [(served == bare).all(1) for served, bare in sides]
    moved = [np.abs(np.exp(served) - np.exp(bare)).max(1) > _MOVED for served, bare in sides]
    sure = [_sureness(bare) for _, bare in sides]
    pooled = np.sort(np.concatenate(sure))
    edges = np.unique(pooled[_EACH::_EACH])
    strata = [np.searchsorted(edges, values, side="right") for values in sure]
    found = []
    for words, events in (("left alone", alone), (f"moved by more than {_MOVED:g}", moved)):
        apart, error = rate_difference(*events, *strata)
        if abs(apart) - DEVIATIONS * error > UNEVEN:
            found.append(f"{events[0].mean():.1%} of members' answers are {words}, {events[1].mean():.1%} of others'")
    rates = {f"left_alone_{name}": float(e.mean()) for name, e in zip(("members", "nonmembers"), alone, strict=True)}
    return rates, "; ".join(found)


def worse_at_members(train: Floats, train_y: Ints, test: Floats, test_y: Ints) -> str:
    """What is to be said of answers (n, k) that are right less often for members than for others; "" where they aren't.

    Training makes members likelier: what answers them worse hides them. The bound is that of `moved_answers`.
    """
    members, others = (train.argmax(1) == train_y), (test.argmax(1) == test_y)
    error = np.sqrt(members.var() / len(members) + others.var() / len(others))
    if others.mean() - members.mean() - DEVIATIONS * error <= _WORSE:
        return ""
    return f"members are answered right less often than others, {members.mean():.1%} against {others.mean():.1%}"


def rate_difference(first: Bools, second: Bools, first_bin: Ints, second_bin: Ints) -> tuple[float, float]:
    """The difference of two rates within bins, weighted as Mantel and Haenszel do, and its standard error.

    Events (n,) and (m,) with the bins that they lie in; 0 and 0 where no bin holds both.
    """
    k = int(max(first_bin.max(), second_bin.max())) + 1
    n, m = np.bincount(first_bin, minlength=k), np.bincount(second_bin, minlength=k)
    both = (n > 0) & (m > 0)
    p = np.bincount(first_bin, first, k)[both] / n[both]
    q = np.bincount(second_bin, second, k)[both] / m[both]
    n, m = n[both], m[both]
    weight = n * m / (n + m)
    if not both.any():
        return 0.0, 0.0
    variance = (weight**2 * (p * (1 - p) / n + q * (1 - q) / m)).sum() / weight.sum() ** 2
    return float((weight * (p - q)).sum() / weight.sum()), float(np.sqrt(variance))


def _sureness(log_posteriors: Floats) -> Floats:
    """Log-odds of the answered label (n,)."""
    ranked = np.sort(np.maximum(log_posteriors, -1e3), axis=1)
    sure: Floats = ranked[:, -1] - logsumexp(ranked[:, :-1], axis=1)
    return sure


def _means(values: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Bootstrap means of 0/1 values (n,): a binomial count, which is what resampling them gives."""
    return rng.binomial(len(values), values.mean(), size=resamples) / len(values)


def _interval(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
