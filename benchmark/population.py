"""Who is where: the parts, the candidates, what is known beforehand, and the banks of one seed.

Members and non-members always come from one pool. Candidates come shuffled, in balanced numbers, under
ids that mean nothing. Everything here is drawn from the protocol's seed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import datasets
from benchmark.api import Samples
from benchmark.datasets.data import Data
from benchmark.datasets.splits import indices_digest, split
from benchmark.errors import UserError
from benchmark.protocol import Protocol

Indices = NDArray[np.int64]


def seed_of(*parts: object, secret: bytes | None = None) -> int:
    """63 bits from names and numbers: one independent stream for every purpose; with a secret, unforeseeable."""
    text = "/".join(map(str, parts)).encode()
    found = hashlib.sha256(text).digest() if secret is None else hmac.digest(secret, text, "sha256")
    return int.from_bytes(found[:8], "little") >> 1


def digest_of(indices: Indices) -> str:
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:40]


@dataclass(frozen=True)
class Population:
    """The draws of one (protocol, seed); indices point into `data`."""

    protocol: Protocol
    seed: int
    data: Data
    parts: dict[str, Indices]
    secret: bytes | None = field(default=None, repr=False)

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(seed_of(self.protocol.dataset, self.seed, name, secret=self.secret)))

    @cached_property
    def _known(self) -> dict[str, Indices]:
        size = round(self.protocol.split.known_fraction * len(self.parts["target-train"]))
        return {
            part: self.parts[part][self._rng(f"known/{part}").permutation(len(self.parts[part]))]
            for part in ("target-train", "target-test")
        } | {"size": np.array([size])}

    @property
    def known_members(self) -> Indices:
        """Members that partial knowledge reserves: the same for all entries, never scored."""
        return self._known["target-train"][: self._known["size"][0]]

    @property
    def known_nonmembers(self) -> Indices:
        return self._known["target-test"][: self._known["size"][0]]

    @cached_property
    def candidates(self) -> Indices:
        """What is scored: the rest of target-train and of target-test, shuffled."""
        size = self._known["size"][0]
        pool = np.concatenate([self._known["target-train"][size:], self._known["target-test"][size:]])
        return pool[self._rng("candidates").permutation(len(pool))]

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Membership of the candidates. It stays with the judge."""
        return np.isin(self.candidates, self.parts["target-train"])

    def indices(self, role: str, k: int) -> Indices:
        """The training set of a network: role target, shadow, online, offline or evaluator.

        Bank models come in pairs, a random half of the pool and the other half: each is as large as the
        target's training set, and every sample is in exactly half of them.
        """
        if role == "target":
            return self.parts["target-train"]
        if role == "shadow":
            return self.parts["shadow-train"]
        if role == "evaluator":
            return self.parts["shadow-test"]
        world = {"online": "target", "offline": "shadow"}[role]
        pool = np.concatenate([self.parts[f"{world}-train"], self.parts[f"{world}-test"]])
        order = pool[self._rng(f"{role}/{k // 2}").permutation(len(pool))]
        half = len(pool) // 2
        return order[:half] if k % 2 == 0 else order[half : 2 * half]

    def bank_members(self, role: str, m: int) -> NDArray[np.bool_]:
        """(m, candidates): who was in the training set of which bank model."""
        return np.stack([np.isin(self.candidates, self.indices(role, k)) for k in range(m)])

    def reference(self, world: str) -> tuple[Indices, Indices]:
        """The reference part of a world, and the fifth of it that is for choosing checkpoints."""
        part = self.parts.get(f"{world}-reference", np.zeros(0, np.int64))
        cut = len(part) - len(part) // 5
        return part[:cut], part[cut:]

    def samples(self, indices: Indices) -> Samples:
        rows = torch.from_numpy(indices)
        return Samples(self.data.x[rows].float() / 255, self.data.y[rows])


def populate(protocol: Protocol, seed: int, secret: bytes | None = None) -> Population:
    """Load, split, and hold both to the digests that the protocol pins; a secret split has a digest of its own."""
    data = datasets.load(protocol.dataset)
    _pinned(protocol.name, "data_digest", protocol.data_digest, data.digest)
    if seed not in protocol.split.digests:
        raise UserError(f"{protocol.name}: seed: expected one of {sorted(protocol.split.digests)}, given {seed}")
    try:
        parts = split(protocol.split.scheme, len(data), seed, protocol.split.size, secret)
    except ValueError as error:
        raise UserError(f"{protocol.name}: split: {error}") from None
    if secret is None:
        _pinned(protocol.name, f"split.digests.{seed}", protocol.split.digests[seed], indices_digest(parts))
    return Population(protocol, seed, data, parts, secret)


def _pinned(protocol: str, field: str, pinned: str, found: str) -> None:
    if pinned != found:
        raise UserError(
            f"{protocol}: {field}: expected {pinned[:16]}…, given data with {found[:16]}…; "
            "this is not the data that the protocol was pinned on"
        )
