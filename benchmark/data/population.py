"""Which samples are what for one seed: parts of the split, candidates, known members, training sets of all networks.

Members and non-members always come from one pool. Candidates are shuffled, half of them members (but for canaries), with
ids that mean nothing. Everything here is drawn from the protocol's seed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import data as datasets
from benchmark.api import Candidates, Samples
from benchmark.data.dataset import Data
from benchmark.data.splits import draw, indices_digest, mirrored, split
from benchmark.errors import UserError
from benchmark.protocol import Protocol

Indices = NDArray[np.int64]


def seed_of(*parts: object, secret: bytes | None = None) -> int:
    """A seed of 63 bits hashed from names and numbers, so that each purpose has a stream of its own.

    With a secret, nobody can compute it from the names (official scoring).
    """
    text = "/".join(map(str, parts)).encode()
    hashed = hashlib.sha256(text).digest() if secret is None else hmac.digest(secret, text, "sha256")
    return int.from_bytes(hashed[:8], "little") >> 1


def digest_of(indices: Indices) -> str:
    """Digest of sample indices in their order, for keys of the store."""
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:40]


@dataclass(frozen=True)
class Population:
    """Everything that is drawn for one (protocol, seed). Indices are positions in `data`."""

    protocol: Protocol
    seed: int
    data: Data
    parts: dict[str, Indices]
    target_samples: int
    """The first so many samples of `data` are of the target's data set; the shadow world's, if it differs, follows them."""
    secret: bytes | None = field(default=None, repr=False)

    def _rng(self, name: str) -> np.random.Generator:
        """The stream of this name. Seed -s, the mirror of s, has the streams of s."""
        seed = seed_of(self.protocol.dataset, abs(self.seed), name, secret=self.secret)
        return np.random.Generator(np.random.PCG64(seed))

    @cached_property
    def _shuffled(self) -> dict[str, Indices]:
        """target-train and target-test in the order in which the first samples are reserved."""
        shuffled = {}
        for part in ("target-train", "target-test"):
            stream = mirrored(part) if self.seed < 0 else part  # seed and mirror reserve the same samples
            shuffled[part] = self.parts[part][self._rng(f"known/{stream}").permutation(len(self.parts[part]))]
        return shuffled

    @property
    def _reserved(self) -> int:
        """How many samples of each of the two parts partial knowledge reserves (RULES 5)."""
        return round(self.protocol.split.known_fraction * min(len(p) for p in self._shuffled.values()))

    def known(self, k: int = 0) -> tuple[Indices, Indices]:
        """Members and as many non-members of target k that partial knowledge gives away.

        They are among the reserved samples, which are the same for all entries and targets and never scored (RULES 5).
        """
        reserved = np.concatenate([self._shuffled[part][: self._reserved] for part in ("target-train", "target-test")])
        inside = np.isin(reserved, self.indices("target", k))
        least = min(inside.sum(), (~inside).sum())
        return reserved[inside][:least], reserved[~inside][:least]

    @cached_property
    def candidates(self) -> Indices:
        """The samples that attacks score: what is not reserved of target-train and target-test, shuffled; or the canaries.

        The protocol may take fewer of each part (`split.scored`).
        """
        if self.protocol.canaries:
            return self.canaries
        few = self.protocol.split.scored
        sides = [self._shuffled[part][self._reserved :][:few] for part in ("target-train", "target-test")]
        pool = np.concatenate(sides[::-1] if self.seed < 0 else sides)  # a mirror keeps the candidates in their order
        return pool[self._rng("candidates").permutation(len(pool))]

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """The membership labels (candidates,) in target 0, the split's own."""
        return self.members_of("target", 0)

    def members_of(self, role: str, k: int) -> NDArray[np.bool_]:
        """The membership labels (candidates,) in network k of a role. Only the judge sees a target's."""
        return np.isin(self.candidates, self.indices(role, k))

    def scored(self, access: str) -> NDArray[np.int64]:
        """Positions among the candidates that an attack of this access is scored on, in the order in which it gets them.

        All, in order. For label access the protocol may take fewer: target 0's first members and as many non-members
        (RULES 15).
        These are shuffled again. In the old order, the last ones would all be members, or all be non-members, and give their
        membership away.
        """
        n = len(self.candidates)
        if self.protocol.label_only is None or access != "label":
            return np.arange(n)
        half = self.protocol.label_only // 2
        positions = np.sort(np.concatenate([np.flatnonzero(self.members == side)[:half] for side in (True, False)]))
        return positions[self._rng("scored by label").permutation(len(positions))]

    def ids(self, n: int) -> Tensor:
        """Ids (n,) int64 for what an attack scores: a permutation of the numbers below n, with a stream of its own."""
        return torch.from_numpy(self._rng("ids").permutation(n))

    def presented(self, access: str) -> Candidates:
        """The candidates as an attack of this access gets them: nothing but the images can tell members."""
        samples = self.samples(self.candidates[self.scored(access)])
        return Candidates(samples.x, samples.y, self.ids(len(samples)))

    @cached_property
    def canaries(self) -> Indices:
        """Samples that are in no part, shuffled. Mislabelled, they are planted in the networks of the population."""
        assert self.protocol.canaries is not None
        return self.outside[self._rng("canaries").permutation(len(self.outside))][: self.protocol.canaries.count]

    @cached_property
    def labels(self) -> Tensor:
        """Labels (n,) int64 of all data; those of the canaries are wrong."""
        y = self.data.y.clone()
        if self.protocol.canaries:
            rows = torch.from_numpy(self.canaries)
            shift = self._rng("wrong labels").integers(1, self.data.classes, len(rows))
            y[rows] = (y[rows] + torch.from_numpy(shift)) % self.data.classes
        return y

    @property
    def outside(self) -> Indices:
        """Samples of the target's data that are in no part, ascending."""
        return np.setdiff1d(np.arange(self.target_samples), np.concatenate(list(self.parts.values())))

    def indices(self, role: str, k: int) -> Indices:
        """The training set of network k of a role: target, shadow, offline, evaluator or second-evaluator.

        The networks of the population are the targets. They come in pairs: targets 2j and 2j + 1 have a half of the pool
        (target-train and target-test) and the other half; the first pair has the split's own halves, the others random
        ones. So all training sets are equally large, and every sample is in exactly half of them. With canaries, all
        targets share target-train, and each draws canaries of its own. Offline reference models come in such pairs too,
        of random halves of the shadow world's pool.
        """
        if role == "target" and self.protocol.canaries:
            planted = (self._rng("planted/{}/{}".format(*self.stream(role, k))).random(len(self.canaries)) < 0.5) ^ (
                self.seed < 0
            )
            return np.concatenate([self.parts["target-train"], self.canaries[planted]])
        if (role == "target" and k < self.protocol.pair) or role in ("shadow", "evaluator", "second-evaluator"):
            part = {
                "target": ("target-train", "target-test")[k % 2],
                "shadow": "shadow-train",
                "evaluator": "shadow-test",
                "second-evaluator": "target-test",
            }
            return self.parts[part[role]]
        world = {"target": "target", "offline": "shadow"}[role]
        pool = np.concatenate([self.parts[f"{world}-train"], self.parts[f"{world}-test"]])
        name, number = self.stream(role, k)
        order = pool[self._rng(f"{name}/{number // 2}").permutation(len(pool))]
        half = len(pool) // 2
        return order[:half] if k % 2 == 0 else order[half : 2 * half]

    def stream(self, role: str, k: int) -> tuple[str, int]:
        """The name and number under which network k of a role has its random streams.

        Targets beyond the first pair were once reference models alone, and keep the streams of these.
        """
        first = self.protocol.pair
        return ("online", k - first) if role == "target" and k >= first else (role, k)

    def references_of(self, k: int, models: Sequence[int]) -> list[int]:
        """Which of these targets were drawn independently of target k: all outside of its pair."""
        pair = self.protocol.pair
        return [m for m in models if m // pair != k // pair]

    def reference(self, world: str) -> tuple[Indices, Indices]:
        """The reference part of a world in two: four fifths as reference data, one fifth as validation data (RULES 6)."""
        part = self.parts.get(f"{world}-reference", np.zeros(0, np.int64))
        cut = len(part) - len(part) // 5
        return part[:cut], part[cut:]

    def rows(self, part: str) -> Indices:
        """Indices of a part of the split, or of "candidates", in the order in which answers to them are stored."""
        return self.candidates if part == "candidates" else self.parts[part]

    def part(self, name: str) -> Samples:
        """The samples of a part of the split, or of "candidates"."""
        return self.samples(self.rows(name))

    def samples(self, indices: Indices) -> Samples:
        """Images in [0, 1], and labels, of indices."""
        rows = torch.from_numpy(indices)
        return Samples(self.data.x[rows].float() / 255, self.labels[rows])


def populate(protocol: Protocol, seed: int, secret: bytes | None = None) -> Population:
    """The population of a protocol and a seed: loads and splits the data, and checks both against the pinned digests.

    A secret split is checked against none. Raises UserError for a seed without digest, for other data or another split than the
    pinned ones, and for sizes that do not fit; DataError for data that can't be loaded.
    """
    data = datasets.load(protocol.dataset)
    _check_digest(protocol.name, "data_digest", protocol.data_digest, data.digest)
    if seed not in protocol.split.digests:
        raise UserError(f"{protocol.name}: seed: expected one of {sorted(protocol.split.digests)}, given {seed}")
    try:
        parts = draw(protocol.split, data, seed, secret)
    except ValueError as error:
        raise UserError(f"{protocol.name}: split: {error}") from None
    if secret is None:
        _check_digest(protocol.name, f"split.digests.{seed}", protocol.split.digests[seed], indices_digest(parts))
    target_samples = len(data)
    if protocol.adversary and protocol.adversary.dataset:
        data, parts = _with_other_shadow(protocol, seed, data, parts, secret)
    population = Population(protocol, seed, data, parts, target_samples, secret)
    if (scored := protocol.split.scored) and len(population.candidates) < 2 * scored:
        raise UserError(
            f"{protocol.name}: split.scored: expected at most what is not reserved of target-train and of target-test, "
            f"{len(population.candidates) - scored} of the smaller one, given {scored}"
        )
    if protocol.canaries and len(population.outside) < protocol.canaries.count:
        raise UserError(
            f"{protocol.name}: canaries.count: expected at most {len(population.outside)}, the samples that are in no part, "
            f"given {protocol.canaries.count}"
        )
    return population


def _with_other_shadow(
    protocol: Protocol, seed: int, data: Data, parts: dict[str, Indices], secret: bytes | None
) -> tuple[Data, dict[str, Indices]]:
    """The target's data with the adversary's data set appended, and the parts with those of the shadow world taken from it."""
    assert protocol.adversary and protocol.adversary.dataset and protocol.adversary.data_digest
    other = datasets.load(protocol.adversary.dataset)
    _check_digest(protocol.name, "adversary.data_digest", protocol.adversary.data_digest, other.digest)
    if other.classes > data.classes:
        raise UserError(
            f"{protocol.name}: adversary.dataset: expected at most {data.classes} classes, given {other.classes}"
        )
    other_parts = split(protocol.split.scheme, len(other), seed, None, secret)
    size = min(len(parts["shadow-train"]), len(other_parts["shadow-train"]))
    shadow = {name: rows[:size] + len(data) for name, rows in other_parts.items() if name.startswith("shadow")}
    return data.followed_by(other), parts | shadow


def _check_digest(protocol: str, field: str, pinned: str, computed: str) -> None:
    if pinned != computed:
        raise UserError(
            f"{protocol}: {field}: expected {pinned[:16]}…, given data with {computed[:16]}…; "
            "this is not the data that the protocol was pinned on"
        )
