"""From a model and images to what an audit works on: the model's answers to all records, asked for once, and what attacks will cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from benchmark.data.population import seed_of
from benchmark.entries.registry import Part, Registry
from benchmark.networks.access import ask
from benchmark.run.audit.attacks import QUERIES, Bench, Live, NotRun, costs, pool
from benchmark.run.audit.images import Images
from benchmark.run.audit.model import Model
from benchmark.run.audit.predictions import Predictions, predictions
from benchmark.targets.store import Store, digest, tensor_digest


class Asked(NamedTuple):
    """A model's answers to the records, what attacks ask further, and the seconds that an image took."""

    given: Predictions
    live: Live
    seconds: float


class Plan(NamedTuple):
    """What an audit will run: the attacks, how many records those are measured on that cost too much for all, by name, what is not
    run, and forward passes in all."""

    parts: Sequence[Part]
    partly: Mapping[str, int]
    left: Sequence[NotRun]
    passes: int


def ask_all(
    model: Model, images: Images, registry: Registry, seed: int, store: Store | None = None, queries: int = QUERIES
) -> Asked:
    """Ask a model about all records, members and non-members in one random order: last digits depend on who is in a batch.

    Raises UserError where the model fails, answers with NaN, or where answers or labels cannot be such.
    """
    y, members = torch.from_numpy(images.y), torch.from_numpy(images.members)
    data = tensor_digest(images.x, y, members)

    def answers() -> dict[str, torch.Tensor]:
        return {"answers": ask(model.predict, images.x, np.random.default_rng(seed_of("records", seed)))}

    start = time.perf_counter()
    if store is not None and model.key:
        key = digest("audit answers", model.key, data, seed)
        found = store.get("audit", key, answers)["answers"]
        seconds = float(store.info("audit", key)["seconds"])
    else:
        found = answers()["answers"]
        seconds = time.perf_counter() - start
    given = predictions(
        found.numpy(), images.y, images.members, form="log-probabilities", ids=images.ids, inputs=images.cells(), where=model.name,
        sources=(*model.sources, *images.sources),
    )  # fmt: skip
    live = Live(model, images.x, costs(registry), queries, store, data)
    return Asked(replace(given, form="logits"), live, seconds / len(images.x))


def plan(given: Predictions, live: Live, registry: Registry, seed: int) -> Plan:
    """What an audit of this model will run."""
    bench = Bench(given, seed, live)
    parts, left = pool(registry, given, bench)
    partly = {p.name: int(bench.counted(p).sum()) for p in parts if bench.most_of(p) is not None}
    return Plan(parts, partly, left, sum(map(bench.passes, parts)))
