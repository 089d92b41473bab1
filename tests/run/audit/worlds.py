"""Made-up answers: of a model that never saw the members, of one that looks them up, and of one that leaks a little."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from benchmark.entries.registry import Registry
from benchmark.metrics import Floats
from benchmark.run.audit.predictions import Predictions, predictions
from tests.conftest import SUBMISSIONS


@cache
def registry() -> Registry:
    """The entries of the package."""
    return Registry(SUBMISSIONS)


def logits(rng: np.random.Generator, y: Any, k: int) -> Floats:
    """Logits (n, k) of a model that is right more often than not, surer of some records than of others."""
    z: Floats = 1.5 * rng.normal(size=(len(y), k))
    z[np.arange(len(y)), y] += rng.exponential(2, size=len(y))
    return z


def world(seed: int, n: int = 200, k: int = 5, leak: float = 0.0, lookup: bool = False, **more: Any) -> Predictions:
    """n members and n non-members of k classes. leak: how much surer the model is of members. lookup: it finds them in a table."""
    rng = np.random.default_rng([seed, n, k])
    y, members = rng.integers(0, k, 2 * n), rng.permutation(np.arange(2 * n) < n)
    z = logits(rng, y, k)
    z[np.arange(2 * n), y] += leak * members * rng.exponential(1, size=2 * n)
    if lookup:
        z[members] = 12.0 * (np.arange(k) == y[members][:, None]) + 0.1 * rng.normal(size=(n, k))
    return predictions(z, y, members, form="logits", **more)
