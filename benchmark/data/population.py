"""Who is where: the parts, the candidates, what is known beforehand, and the reference models of one seed.

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
from torch import Tensor

from benchmark import data as datasets
from benchmark.api import Candidates, Samples
from benchmark.data.dataset import Data
from benchmark.data.splits import indices_digest, mirrored, split
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
    own: int
    """How many samples of `data` are the target's; those after them are another data set's, for the shadow world."""
    secret: bytes | None = field(default=None, repr=False)

    def _rng(self, name: str) -> np.random.Generator:
        """The mirror of a seed has the seed's own streams."""
        seed = seed_of(self.protocol.dataset, abs(self.seed), name, secret=self.secret)
        return np.random.Generator(np.random.PCG64(seed))

    @cached_property
    def _shuffled(self) -> dict[str, Indices]:
        shuffled = {}
        for part in ("target-train", "target-test"):
            stream = mirrored(part) if self.seed < 0 else part  # the same samples are reserved on both sides
            shuffled[part] = self.parts[part][self._rng(f"known/{stream}").permutation(len(self.parts[part]))]
        return shuffled

    @property
    def _reserved(self) -> int:
        """How many samples of either part partial knowledge reserves."""
        return round(self.protocol.split.known_fraction * len(self.parts["target-train"]))

    @property
    def known_members(self) -> Indices:
        """Members that partial knowledge reserves: the same for all entries, never scored."""
        return self._shuffled["target-train"][: self._reserved]

    @property
    def known_nonmembers(self) -> Indices:
        return self._shuffled["target-test"][: self._reserved]

    @cached_property
    def candidates(self) -> Indices:
        """What is scored: the rest of target-train and of target-test, shuffled; or the canaries."""
        if self.protocol.canaries:
            return self.canaries
        sides = [self._shuffled[part][self._reserved :] for part in ("target-train", "target-test")]
        pool = np.concatenate(sides[::-1] if self.seed < 0 else sides)  # a mirror has its seed's candidates, in order
        return pool[self._rng("candidates").permutation(len(pool))]

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Membership of the candidates. It stays with the judge."""
        return np.isin(self.candidates, self.indices("target", 0))

    def scored(self, access: str) -> NDArray[np.int64]:
        """Positions among the candidates that an attack of this access is scored on, in the order in which it gets them.

        All of them, as they are; for label access the protocol may take as many members as non-members, the first ones
        (RULES 15). What was chosen by membership is shuffled anew: in their old order the last ones would be of one side.
        """
        n = len(self.candidates)
        if self.protocol.label_only is None or access != "label":
            return np.arange(n)
        half = self.protocol.label_only // 2
        chosen = np.sort(np.concatenate([np.flatnonzero(self.members == side)[:half] for side in (True, False)]))
        return chosen[self._rng("scored by label").permutation(len(chosen))]

    def ids(self, n: int) -> Tensor:
        """Names (n,) int64 of what an attack is to score: numbers below n, by a draw of their own."""
        return torch.from_numpy(self._rng("ids").permutation(n))

    def presented(self, access: str) -> Candidates:
        """What an attack of this access is to score, as it gets it: but for the image nothing tells of membership."""
        samples = self.samples(self.candidates[self.scored(access)])
        return Candidates(samples.x, samples.y, self.ids(len(samples)))

    @cached_property
    def canaries(self) -> Indices:
        """Samples of no part, shuffled: planted mislabelled in the training sets of the target and the online reference models."""
        assert self.protocol.canaries is not None
        return self.outside[self._rng("canaries").permutation(len(self.outside))][: self.protocol.canaries.count]

    @cached_property
    def labels(self) -> Tensor:
        """Labels of all data (n,), the canaries' wrong ones among them."""
        y = self.data.y.clone()
        if self.protocol.canaries:
            rows = torch.from_numpy(self.canaries)
            shift = self._rng("wrong labels").integers(1, self.data.classes, len(rows))
            y[rows] = (y[rows] + torch.from_numpy(shift)) % self.data.classes
        return y

    @property
    def outside(self) -> Indices:
        """Samples of the target's data that are in no part, ascending."""
        return np.setdiff1d(np.arange(self.own), np.concatenate(list(self.parts.values())))

    def apart(self, i: int, m: int) -> NDArray[np.bool_]:
        """(m,): which of m online models tell nothing of who is in model i but by what they learnt.

        Pairs are complementary, so the other half goes with its model; canaries are planted independently.
        """
        models: Indices = np.arange(m)
        size = 1 if self.protocol.canaries else 2
        return np.not_equal(models // size, i // size)

    def indices(self, role: str, k: int) -> Indices:
        """The training set of a network: role target, shadow, online, offline or evaluator.

        With canaries, the target and the online reference models share target-train, and each draws canaries of its own.
        Otherwise reference models come in pairs, a random half of the pool and the other half: each is as large as the
        target's training set, and every sample is in exactly half of them.
        """
        if self.protocol.canaries and role in ("target", "online"):
            planted = (self._rng(f"planted/{role}/{k}").random(len(self.canaries)) < 0.5) ^ (self.seed < 0)
            return np.concatenate([self.parts["target-train"], self.canaries[planted]])
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

    def reference_members(self, role: str, m: int) -> NDArray[np.bool_]:
        """(m, candidates): who was in the training set of which reference model."""
        return np.stack([np.isin(self.candidates, self.indices(role, k)) for k in range(m)])

    def reference(self, world: str) -> tuple[Indices, Indices]:
        """The reference part of a world, and the fifth of it that is for choosing checkpoints."""
        part = self.parts.get(f"{world}-reference", np.zeros(0, np.int64))
        cut = len(part) - len(part) // 5
        return part[:cut], part[cut:]

    def rows(self, part: str) -> Indices:
        """A part of the split, or the candidates, in the fixed order in which answers are stored."""
        return self.candidates if part == "candidates" else self.parts[part]

    def part(self, name: str) -> Samples:
        return self.samples(self.rows(name))

    def samples(self, indices: Indices) -> Samples:
        rows = torch.from_numpy(indices)
        return Samples(self.data.x[rows].float() / 255, self.labels[rows])


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
    own = len(data)
    if protocol.adversary and protocol.adversary.dataset:
        data, parts = _with_other_shadow(protocol, seed, data, parts, secret)
    found = Population(protocol, seed, data, parts, own, secret)
    if protocol.canaries and len(found.outside) < protocol.canaries.count:
        raise UserError(
            f"{protocol.name}: canaries.count: expected at most {len(found.outside)}, the samples that are in no part, "
            f"given {protocol.canaries.count}"
        )
    return found


def _with_other_shadow(
    protocol: Protocol, seed: int, data: Data, parts: dict[str, Indices], secret: bytes | None
) -> tuple[Data, dict[str, Indices]]:
    """The target's data with the adversary's after it, from which the shadow world's parts now come."""
    assert protocol.adversary and protocol.adversary.dataset and protocol.adversary.data_digest
    other = datasets.load(protocol.adversary.dataset)
    _pinned(protocol.name, "adversary.data_digest", protocol.adversary.data_digest, other.digest)
    if other.classes > data.classes:
        raise UserError(
            f"{protocol.name}: adversary.dataset: expected at most {data.classes} classes, given {other.classes}"
        )
    theirs = split(protocol.split.scheme, len(other), seed, None, secret)
    size = min(len(parts["shadow-train"]), len(theirs["shadow-train"]))
    shadow = {name: rows[:size] + len(data) for name, rows in theirs.items() if name.startswith("shadow")}
    return data.followed_by(other), parts | shadow


def _pinned(protocol: str, field: str, pinned: str, found: str) -> None:
    if pinned != found:
        raise UserError(
            f"{protocol}: {field}: expected {pinned[:16]}…, given data with {found[:16]}…; "
            "this is not the data that the protocol was pinned on"
        )
