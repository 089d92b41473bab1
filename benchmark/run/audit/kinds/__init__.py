"""Kinds of attack on a model besides membership: what of them runs, what does not and why, how long, and what came of it.

Each is a module with a `Kind`. The attacks are the submissions' own code. No verdict is made of them: what an attack gains is held
against a null that uses nothing of what the model has learnt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from benchmark import networks
from benchmark.api import train_copy
from benchmark.entries.registry import Part, Registry
from benchmark.errors import UserError, suggest
from benchmark.run.audit.attacks import Bench, Released
from benchmark.run.audit.images import Images
from benchmark.run.audit.kinds.attribute import Attribute
from benchmark.run.audit.kinds.base import Kind
from benchmark.run.audit.kinds.inversion import Inversion
from benchmark.run.audit.kinds.stealing import COPY, Stealing
from benchmark.run.audit.live import Asked
from benchmark.run.audit.report import OtherKind
from benchmark.text import plain

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Stealing, Attribute, Inversion)}
"""By their name, in the order in which they run."""
MEMBERSHIP = "membership"
BY_ASKING = ("inversion",)
"""Those that run where they are asked for alone: they take minutes."""


def chosen(text: str) -> tuple[str, ...] | None:
    """The kinds that `--kinds` names, without membership; None for "", the default. Raises UserError."""
    names = [word for word in text.replace(",", " ").split() if word]
    known = (MEMBERSHIP, *KINDS)
    for name in names:
        if name not in known:
            raise UserError(f"--kinds: unknown kind {plain(name, 40)!r}{suggest(name, known)}")
    if names and MEMBERSHIP not in names:
        raise UserError(
            f"--kinds: expected {MEMBERSHIP} among them, for the verdict is about it, given {plain(text, 80)}"
        )
    return tuple(name for name in names if name != MEMBERSHIP) if names else None


def planned(
    asked: Asked, images: Images, registry: Registry, seed: int, released: Released, wanted: Sequence[str] | None
) -> list[Kind]:
    """All kinds, those that were not asked for among them, which run nothing. wanted: `chosen`. Raises UserError."""
    bench = Bench(asked.given, seed, asked.live)

    def skipped(name: str) -> str:
        if wanted is None:
            every = ",".join([MEMBERSHIP, *KINDS])
            return f"it takes minutes; --kinds {every} runs it" if name in BY_ASKING else ""
        return "" if name in wanted else "it was not asked for (--kinds)"

    return [kind(bench, images, registry, released, skipped(name)) for name, kind in KINDS.items()]


def seconds(kinds: Sequence[Kind], each: float) -> float:
    """How long they take, about, where a forward pass of the model takes `each` seconds."""
    passes = [kind.passes(part) for kind in kinds for part in kind.plan()[0]]
    asks, trains = (sum(column) for column in zip(*passes, strict=True)) if passes else (0, 0)
    return asks * each + (trains * _pass_of_a_copy(kinds[0]) if trains else 0)


def _pass_of_a_copy(kind: Kind, batch: int = 64, steps: int = 4) -> float:
    """Seconds that a forward pass of one image takes a network that attackers train: a third of a step of training."""
    network = networks.build(COPY, kind.model.classes, kind.model.shape, 0)
    x, answers = torch.zeros(batch * steps, *kind.model.shape), torch.zeros(batch * steps, kind.model.classes)
    for rows in (batch, len(x)):  # the first step of an optimizer imports what it needs
        start = time.perf_counter()
        train_copy(
            network, x[:rows], answers[:rows], loss="logits", epochs=1, learning_rate=0.0, generator=torch.Generator()
        )
    return (time.perf_counter() - start) / (3 * len(x))


def run(
    kinds: Sequence[Kind], track: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, what, total: items
) -> list[OtherKind]:
    """Run them one after the other: networks are built with PyTorch's own generator, of which there is one."""
    total = sum(len(kind.plan()[0]) for kind in kinds)
    steps = iter(track(range(total), "other kinds of attack", total))

    def shown(parts: list[Part]) -> Iterator[Part]:
        for part, _ in zip(parts, steps, strict=False):
            yield part

    found = [kind.run(shown) for kind in kinds]
    next(steps, None)  # the last one is done
    return found
