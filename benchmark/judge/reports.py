"""Metrics of the tasks other than membership, with 95 % bootstrap intervals over samples; and faults of guards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from benchmark.api import Samples
from benchmark.judge.bootstrap import at_least_binomial
from benchmark.metrics import ece

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Estimates = tuple[dict[str, float], dict[str, tuple[float, float]]]
"""Values by metric, and 95 % intervals by metric."""


def inversion_metrics(images: torch.Tensor, means: torch.Tensor) -> dict[str, float]:
    """MSE and SSIM of reconstructions (k, c, h, w) in [0, 1] to the mean image of each class, means over classes."""
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


def recognised(first: Floats, second: Floats, y: Ints) -> dict[str, float]:
    """How often two evaluators give images the class asked for, from log-posteriors (n, k) of each and classes y (n,).

    Each alone, both at once, and, with more than ten classes, each among its five likeliest.
    """
    right = [(answers.argmax(1) == y).astype(np.float64) for answers in (first, second)]
    metrics = {
        "evaluator_accuracy": float(right[0].mean()),
        "second_evaluator_accuracy": float(right[1].mean()),
        "both_evaluators": float((right[0] * right[1]).mean()),
    }
    if first.shape[1] > 10:
        for name, answers in (("evaluator_top5", first), ("second_evaluator_top5", second)):
            above = (answers > np.take_along_axis(answers, y[:, None], 1)).sum(1)
            metrics[name] = float((above < 5).mean())
    return metrics


def nearest_metrics(
    images: torch.Tensor, y: torch.Tensor, members: Samples, nonmembers: Samples
) -> tuple[dict[str, float], torch.Tensor]:
    """Distances of images (n, c, h, w) to the nearest member and non-member of their class y (n,); and the members' rows (n,).

    A distance is the root mean square over pixels. Of each class, as many members as non-members are searched, so that images that depend
    on no membership are nearer to a member in half of the cases. Classes that lack either are left out; their rows are -1.
    """
    inside, outside = torch.full((2, len(images)), torch.nan, dtype=torch.float64)
    nearest = torch.full((len(images),), -1)
    for c in y.unique().tolist():
        asked, (rows, others) = y == c, ((samples.y == c).nonzero().squeeze(1) for samples in (members, nonmembers))
        least = min(len(rows), len(others))
        if not least:
            continue
        x = images[asked].flatten(1).double()
        away = torch.cdist(x, members.x[rows[:least]].flatten(1).double())
        inside[asked], closest = away.min(1)
        outside[asked] = torch.cdist(x, nonmembers.x[others[:least]].flatten(1).double()).amin(1)
        nearest[asked] = rows[closest]
    known, scale = nearest >= 0, images[0].numel() ** 0.5
    if not known.any():
        return {}, nearest
    inside, outside = inside[known] / scale, outside[known] / scale
    return {
        "nearest_member_distance": float(inside.mean()),
        "nearest_nonmember_distance": float(outside.mean()),
        "nearest_is_member": float(((inside < outside).double() + (inside == outside).double() / 2).mean()),
    }, nearest


def frechet_distance(first: Floats, second: Floats) -> float:
    """Square of the Frechet distance between Gaussians of features (n, d) and (m, d) (Heusel et al. 2017, equation 6).

    Covariances of few samples have no full rank: they are shrunk towards a multiple of the identity, as far as Ledoit and Wolf (2004)
    find best.
    """
    from sklearn.covariance import ledoit_wolf  # slow to import

    def gaussian(features: Floats) -> tuple[Floats, Floats]:
        d = features.shape[1]
        return features.mean(0), ledoit_wolf(features)[0] if len(features) > 1 else np.zeros((d, d))

    (mean, covariance), (other_mean, other) = gaussian(first), gaussian(second)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    common = np.sqrt(
        np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)
    ).sum()  # the trace of the root of their product
    distance = ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other) - 2 * common
    return float(max(0.0, distance))


def feature_distance(features: Floats, y: Ints, members: Floats, members_y: Ints) -> float:
    """Mean distance of features (n, d) to those of the nearest member of their class (Zhang et al. 2020, section 4.3: KNN Dist).

    Classes without members are left out; NaN where there are no others.
    """
    distances = [cdist(features[y == c], members[members_y == c]).min(1) for c in np.intersect1d(y, members_y)]
    return float(np.concatenate(distances).mean()) if distances else float("nan")


def attribute_metrics(guess: Ints, truth: Ints, rng: np.random.Generator, resamples: int = 1000) -> Estimates:
    """Accuracy, balanced accuracy and macro F1 of guessed attributes (n,), and the accuracy of the majority guess.

    Values are whole numbers from 0. Balanced accuracy is the mean recall of the values that occur. Macro F1 is the mean F1 of the
    values that occur or are guessed, as scikit-learn and ML-DOCTOR have it.
    """
    correct = (guess == truth).astype(np.float64)
    by_value = [correct[truth == v] for v in np.unique(truth)]
    metrics = {
        "attribute_accuracy": float(correct.mean()),
        "attribute_balanced_accuracy": float(np.mean([values.mean() for values in by_value])),
        "attribute_macro_f1": float(_macro_f1(guess, truth, np.ones((1, len(truth))))[0]),
        "attribute_majority": float(np.bincount(truth).max() / len(truth)),
    }
    balanced_draws = np.mean([_means(values, rng, resamples) for values in by_value], axis=0)
    intervals = {
        "attribute_accuracy": _interval(_means(correct, rng, resamples)),
        "attribute_balanced_accuracy": _interval(balanced_draws),
    }
    pairs, counts = np.unique(np.stack([guess, truth]), axis=1, return_counts=True)
    draws = rng.multinomial(len(truth), counts / len(truth), size=resamples)
    intervals["attribute_macro_f1"] = _interval(_macro_f1(pairs[0], pairs[1], draws))
    return metrics, intervals


def _macro_f1(guess: Ints, truth: Ints, times: NDArray[Any]) -> Floats:
    """Macro F1 (r,) of pairs of guess and truth (n,), in r samples in which each pair occurs `times` (r, n)."""
    either = np.unique(np.concatenate([guess, truth]))
    guessed, true = (values[:, None] == either for values in (guess, truth))
    hits, occurrences = times @ (guessed & true), times @ (guessed.astype(np.int64) + true)
    with np.errstate(invalid="ignore"):  # a value that neither occurs nor is guessed has none
        scores: Floats = np.nanmean(2 * hits / occurrences, axis=1)
    return scores


def stealing_metrics(copy: Ints, target: Ints, y: Ints, rng: np.random.Generator, resamples: int = 1000) -> Estimates:
    """Agreement of the copy's labels with the target's, on all samples and where the target errs, and the copy's accuracy.

    All from labels (n,). Where the target errs nowhere, there is no agreement on its errors.
    """
    agrees = (copy == target).astype(float)
    rows = {"agreement": agrees, "stolen_accuracy": (copy == y).astype(float)}
    if (target != y).any():
        rows["agreement_on_errors"] = agrees[target != y]
    return shares(rows, rng, resamples)


def utility_metrics(
    train: Floats, train_y: Ints, test: Floats, test_y: Ints, rng: np.random.Generator, resamples: int = 1000
) -> Estimates:
    """Accuracy on members and on target-test, and ECE on target-test (no interval), of log-posteriors (n, k)."""
    rows = {
        "train_accuracy": (train.argmax(1) == train_y).astype(float),
        "test_accuracy": (test.argmax(1) == test_y).astype(float),
    }
    metrics, intervals = shares(rows, rng, resamples)
    return metrics | {"ece": float(ece(test, test_y))}, intervals


def shares(rows: dict[str, Floats], rng: np.random.Generator, resamples: int = 1000) -> Estimates:
    """The share of ones among 0/1 values (n,), by name; intervals contain the exact binomial ones."""
    return (
        {name: float(v.mean()) for name, v in rows.items()},
        # Near 0 or 1 the bootstrap alone gives intervals that are too narrow.
        {
            name: at_least_binomial(_interval(_means(v, rng, resamples)), float(v.mean()), len(v))
            for name, v in rows.items()
        },
    )


_MOVED_BY, _PER_BIN = 1e-3, 20
"""The change of a posterior from which an answer counts as moved; and the answers in a bin of confidence."""
UNEVEN, _WORSE_BY, DEVIATIONS = 0.05, 0.0, 4
"""By how much members and non-members may differ, beyond DEVIATIONS standard errors: in the rate at which guards change
equally confident answers (UNEVEN), and in accuracy, where members have the lower one (_WORSE_BY)."""


def moved_answers(
    members: Floats, members_bare: Floats, nonmembers: Floats, nonmembers_bare: Floats
) -> tuple[dict[str, float], str]:
    """Shares of answers that guards leave unchanged, and faults: by what they treat members differently; "" for none.

    Log-posteriors (n, k) of members and of non-members, behind the guards and of the network alone (`_bare`). A guard
    that reads nothing but the answer changes equally confident answers equally often, whether of a member or not. So
    the rates are compared within bins of the network's confidence (the difference of rates by Mantel and Haenszel).
    """
    sides = (members, members_bare), (nonmembers, nonmembers_bare)
    unchanged = [(served == bare).all(1) for served, bare in sides]
    moved = [np.abs(np.exp(served) - np.exp(bare)).max(1) > _MOVED_BY for served, bare in sides]
    confidences = [_confidence(bare) for _, bare in sides]
    pooled = np.sort(np.concatenate(confidences))
    edges = np.unique(pooled[_PER_BIN::_PER_BIN])
    bins = [np.searchsorted(edges, values, side="right") for values in confidences]
    faults = []
    for description, events in (("left alone", unchanged), (f"moved by more than {_MOVED_BY:g}", moved)):
        difference, error = rate_difference(*events, *bins)
        if abs(difference) - DEVIATIONS * error > UNEVEN:
            faults.append(
                f"{events[0].mean():.1%} of members' answers are {description}, {events[1].mean():.1%} of others'"
            )
    rates = {
        f"left_alone_{name}": float(rows.mean())
        for name, rows in zip(("members", "nonmembers"), unchanged, strict=True)
    }
    return rates, "; ".join(faults)


def worse_at_members(train: Floats, train_y: Ints, test: Floats, test_y: Ints) -> str:
    """The fault of log-posteriors (n, k) that are correct less often for members than for others; "" for none.

    Training makes answers to members better. A defense that makes them worse treats members differently. A
    difference counts beyond DEVIATIONS standard errors.
    """
    members_correct, others_correct = (train.argmax(1) == train_y), (test.argmax(1) == test_y)
    error = np.sqrt(members_correct.var() / len(members_correct) + others_correct.var() / len(others_correct))
    accuracy, other_accuracy = members_correct.mean(), others_correct.mean()
    if other_accuracy - accuracy - DEVIATIONS * error <= _WORSE_BY:
        return ""
    return f"members are answered right less often than others, {accuracy:.1%} against {other_accuracy:.1%}"


def rate_difference(first: Bools, second: Bools, first_bin: Ints, second_bin: Ints) -> tuple[float, float]:
    """The difference of two rates within bins, by the weights of Mantel and Haenszel, and its standard error.

    Events (n,) and (m,) bool with the bins (n,) and (m,) int64 that they lie in. (0, 0) where no bin holds both.
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


def _confidence(log_posteriors: Floats) -> Floats:
    """Log-odds (n,) of the answered label, of log-posteriors (n, k)."""
    ranked = np.sort(np.maximum(log_posteriors, -1e3), axis=1)
    log_odds: Floats = ranked[:, -1] - logsumexp(ranked[:, :-1], axis=1)
    return log_odds


def _means(values: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Bootstrap means (resamples,) of 0/1 values (n,). Their sum is binomial, so that it is drawn directly."""
    return rng.binomial(len(values), values.mean(), size=resamples) / len(values)


def _interval(draws: Floats) -> tuple[float, float]:
    """The central 95 % of bootstrap draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
