"""Metrics of the tasks other than membership, with 95 % bootstrap intervals over samples."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.metrics import ece
from benchmark.uncertainty import at_least_binomial

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
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


def _means(values: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Bootstrap means of 0/1 values (n,): a binomial count, which is what resampling them gives."""
    return rng.binomial(len(values), values.mean(), size=resamples) / len(values)


def _interval(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
