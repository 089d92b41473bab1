"""Divides a data set into disjoint parts, by a permutation drawn from a seed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmark import protocol
from benchmark.data.dataset import Data

Split = dict[str, NDArray[np.int64]]

SCHEMES = {
    # He et al. 2022 (MEMBERSHIP-DOCTOR) and Liu et al. 2022 (ML-DOCTOR).
    "six-way": tuple(f"{world}-{part}" for world in ("target", "shadow") for part in ("train", "test", "reference")),
    "four-way": tuple(f"{world}-{part}" for world in ("target", "shadow") for part in ("train", "test")),
}

_TARGET_PARTS = ("target-train", "target-test", "target-reference")
"""The parts of the schemes without a shadow world."""

_MIRROR = {"train": "test", "test": "train"}


def draw(given: protocol.Split, data: Data, seed: int, secret: bytes | None = None) -> Split:
    """The parts that a protocol asks for: those of `split`, or of a scheme without a shadow world.

    `sizes` (Peng et al. 2025, DIFFENCE): `size` members, as many non-members, and at most as many reference samples of the rest.
    `official` (Song et al. 2019): members from the publisher's train part, non-members from its test part, all of them; with a
    size so many of each, and at most as many reference samples of what is left of the train part.
    Raises ValueError for a size that doesn't fit, and for `official` where the data has no such parts.
    """
    if given.scheme in SCHEMES:
        return split(given.scheme, len(data), seed, given.size, secret)
    order, size = _order(given.scheme, len(data), abs(seed), secret), given.size
    train = test = order
    if given.scheme == "official":
        published = data.published
        if not all(len(published.get(part, ())) for part in ("train", "test")):
            names = ", ".join(published) or "none"
            raise ValueError(f"official: expected data with the published parts train and test, given {names}")
        train, test = (order[np.isin(order, published[part])] for part in ("train", "test"))
    largest = len(order) // 2 if train is test else min(len(train), len(test))
    if size is not None and size > largest:
        raise ValueError(f"{given.scheme} parts of {len(data)} samples have 1 to {largest} samples, not {size}")
    if size is None:
        sides = (train, test, train[:0])
    elif train is test:
        sides = (order[:size], order[size : 2 * size], order[2 * size : 3 * size])
    else:
        sides = (train[:size], test[:size], train[size : 2 * size])
    parts = {name: rows for name, rows in zip(_TARGET_PARTS, sides, strict=True) if len(rows)}
    return {mirrored(name): rows for name, rows in parts.items()} if seed < 0 else parts


def _order(scheme: str, n: int, entropy: int, secret: bytes | None) -> NDArray[np.int64]:
    """The permutation of n samples that `split` draws."""
    if secret is not None:
        entropy = int.from_bytes(hmac.digest(secret, f"{scheme}/{n}/{entropy}".encode(), "sha256"), "little")
    return np.argsort(np.random.PCG64(entropy).random_raw(n), kind="stable").astype(np.int64)


def split(scheme: str, n: int, seed: int, size: int | None = None, secret: bytes | None = None) -> Split:
    """The parts of n samples by name, each an int64 array of `size` indices (default: the largest size).

    A smaller size takes the first samples of the same parts. With a secret, the seed does not reveal the split (official
    scoring). Seed -s mirrors seed s: train and test of each world change places, so that samples which are easy for every
    model favour neither members nor non-members in the mean of both. Raises ValueError for an unknown scheme or a size that
    doesn't fit.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown split {scheme!r}; there are {', '.join(SCHEMES)}")
    names = SCHEMES[scheme]
    largest = n // len(names)
    size = largest if size is None else size
    if not 0 < size <= largest:
        raise ValueError(f"{scheme} parts of {n} samples have 1 to {largest} samples, not {size}")
    entropy = abs(seed)
    if secret is not None:
        entropy = int.from_bytes(hmac.digest(secret, f"{scheme}/{n}/{entropy}".encode(), "sha256"), "little")
    # Sorting the raw stream gives the same permutation on every version of NumPy; Generator.permutation may not.
    order = np.argsort(np.random.PCG64(entropy).random_raw(n), kind="stable")
    parts = {name: order[i * largest :][:size].astype(np.int64) for i, name in enumerate(names)}
    return {mirrored(name): rows for name, rows in parts.items()} if seed < 0 else parts


def mirrored(part: str) -> str:
    """The part that changes places with this one in a mirrored split: target-train -> target-test; reference parts stay."""
    world, side = part.split("-")
    return f"{world}-{_MIRROR.get(side, side)}"


def indices_digest(parts: Mapping[str, NDArray[np.int64]]) -> str:
    """SHA-256 (hex) of a split's part names and indices, which a protocol pins; the order of the parts does not count."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(f"{name}/{len(parts[name])}/".encode())
        digest.update(parts[name].astype("<i8").tobytes())
    return digest.hexdigest()
