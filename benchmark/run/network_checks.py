"""The checks of a user's own network, run by `leakboard check FILE`: a few steps on 1 and 3 channels, at its least size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from benchmark import networks, reading
from benchmark.api.network import Network
from benchmark.errors import UserError, error_line, message_of, printable
from benchmark.networks import own
from benchmark.networks.architecture import Architecture, Shape
from benchmark.networks.cost import cost
from benchmark.run.checks import READABLE, TOLERANCE, Broken, Check

CLASSES, IMAGES, STEPS, RATE = 3, 6, 2, 0.01
"""Of the made-up data, and of the training by plain gradient descent."""


def applies(path: Path) -> bool:
    """Whether a file is meant as a network."""
    try:
        return own.is_network(reading.text(path, own.LARGEST))
    except UserError:
        return False  # the checks of submissions say what is wrong


@dataclass(frozen=True)
class Subject:
    """A network of a file, which may lie anywhere."""

    name: str
    known: Architecture
    trained: dict[int, Network] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> list[Shape]:
        return [(channels, self.known.least, self.known.least) for channels in (1, 3)]

    def train(self, shape: Shape) -> Network:
        """A network after STEPS steps on made-up images of this shape."""
        network = networks.build(self.name, CLASSES, shape, 0)
        x, y = _images(shape), torch.arange(IMAGES) % CLASSES
        for _ in range(STEPS):
            network.zero_grad()
            logits = network(x)
            if logits.shape != (IMAGES, CLASSES):
                raise Broken(f"expected logits ({IMAGES}, {CLASSES}), given {tuple(logits.shape)}")
            nn.functional.cross_entropy(logits, y).backward()
            for name, p in network.named_parameters():
                if p.grad is None:
                    raise Broken(
                        f"expected a gradient of every parameter, given none of {name}: take it out of the network"
                    )
                p.data -= RATE * p.grad
        if not all(torch.isfinite(t).all() for t in network.state_dict().values()):
            raise Broken(
                f"expected finite weights after {STEPS} steps of {RATE}, given others: check the initialisation"
            )
        return network


def check_file(path: Path) -> Iterator[Check]:
    """The results of all rules on one file, each as soon as it is known. The file is run in this process."""
    try:
        text = reading.text(path, own.LARGEST)
        networks.discover()
        networks.use({n: t for n, t in networks.own_texts.items() if n != path.stem} | {path.stem: text})
        if path.stem in networks.broken:
            raise UserError(networks.broken[path.stem])
    except UserError as problem:
        yield Check(READABLE, False, printable(str(problem)))
        return
    yield Check(READABLE, True)
    subject, failed = Subject(path.stem, networks.about(path.stem)), ""
    for name, rule in RULES.items():
        if failed:
            yield Check(name, False, "not tried", failed)
            continue
        try:
            yield Check(name, True, rule(subject))
        except Exception as problem:
            mine = isinstance(problem, Broken | UserError)
            detail = message_of(problem) if mine else error_line(type(problem).__name__, message_of(problem))
            yield Check(name, False, printable(detail))
            failed = name


def _trains(subject: Subject) -> str:
    for shape in subject.shapes:
        subject.trained[shape[0]] = subject.train(shape)
    return f"{STEPS} steps on images of 1 and 3 channels, {subject.known.least}x{subject.known.least}"


def _embeds(subject: Subject) -> str:
    for shape in subject.shapes:
        network, x = subject.trained[shape[0]].eval(), _images(shape)
        with torch.no_grad():
            embedding = network.embed(x)
            if embedding.shape != (IMAGES, network.head.in_features):
                raise Broken(
                    f"expected embeddings ({IMAGES}, {network.head.in_features}), given {tuple(embedding.shape)}"
                )
            if not torch.equal(network.head(embedding), network(x)):
                raise Broken("expected logits of head(embed(x)), given others: leave forward as Network has it")
    return f"d = {network.head.in_features}"


def _seeded(subject: Subject) -> str:
    shape = subject.shapes[0]
    first, second = subject.trained[1].state_dict(), subject.train(shape).state_dict()
    if differing := [name for name in first if not torch.equal(first[name], second[name])]:
        raise Broken(
            f"{differing[0]} and {len(differing) - 1} more differ between two trainings: draw from PyTorch's global random state "
            "in build alone, and take Dropout from benchmark.networks.dropout"
        )
    one, other = (networks.build(subject.name, CLASSES, shape, seed) for seed in (0, 1))
    if all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)):
        raise Broken("expected other weights for another seed, given the same")
    return ""


def _same_answer(subject: Subject) -> str:
    shape = subject.shapes[1]
    network, x = subject.trained[3].eval(), _images(shape)
    with torch.no_grad():
        whole, single = network(x).softmax(1), torch.cat([network(image) for image in x.split(1)]).softmax(1)
    gap = float((whole - single).abs().max())
    if gap > TOLERANCE:
        raise Broken(f"posteriors move by {gap:.3g} between batches of {IMAGES} and of 1 in eval mode")
    return f"{gap:.1g} between batches"


def _costs(subject: Subject) -> str:
    side = max(32, subject.known.least)
    found = cost(subject.name, 10, (3, side, side))
    return f"{found.parameters:,} parameters, {found.multiply_adds:,} multiply-adds on 3x{side}x{side}"


RULES: dict[str, Callable[[Subject], str]] = {
    "trains": _trains,
    "embeddings lead to the logits": _embeds,
    "the same seed gives the same weights": _seeded,
    "one query gets one answer, in any batch": _same_answer,
    "parameters and FLOPs can be counted": _costs,
}


def _images(shape: Shape) -> torch.Tensor:
    return torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0))
