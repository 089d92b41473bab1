"""Stand-ins for data sets that are not here: random images of the right shape, classes, attributes and parts, as few as asked for.

They are written as prepared data sets (`benchmark.data.prepared`), so that a rehearsal reads them as a run reads the real ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import data as datasets
from benchmark.data.prepared import MANIFEST, Prepared, digest_of, stamps
from benchmark.data.source import Source, find
from benchmark.data.splits import draw
from benchmark.errors import UserError
from benchmark.protocol import Split


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before it is here: shape (c, h, w), numbers of classes and of images, and of images by part."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    images: int
    parts: dict[str, int]
    source: Source | None = None


def facts(name: str) -> Facts:
    """Of a data set that is here, its own; else what its source expects. Raises UserError where neither says it."""
    datasets.refresh()
    id, _, view = name.partition("/")
    if not view or name in datasets.names():
        data = datasets.load(name)
        parts = {part: len(rows) for part, rows in data.published.items()}
        return Facts(name, data.shape, data.classes, len(data), parts, find(id).source if view else None)
    source = find(id).source
    assert source is not None
    classes = len(source.classes) or source.expected.get("classes", 0)
    if view not in source.views:
        raise UserError(f"{name}: expected one of the views {', '.join(source.views)}, given {view}")
    if not classes or "images" not in source.expected:
        raise UserError(
            f'{name}: expected data that is prepared, or expected={{"images": NUMBER, "classes": NUMBER}} in its source, given neither'
        )
    parts = {part: n for part, n in source.expected.items() if part in ("train", "test")}
    return Facts(name, source.views[view], classes, source.expected["images"], parts, source)


def write(folder: Path, known: Facts, split: Split, seed: int, size: int) -> None:
    """Write a stand-in of `size` samples a part into `folder`/ID/VIEW; in every part the classes take turns."""
    rng = np.random.default_rng(0)
    sides = (
        {"train": 2 * size, "test": size}
        if split.scheme == "official" and split.size
        else {"train": size, "test": size}
    )
    n = sum(sides.values()) if split.scheme == "official" else size * len(split.parts)
    official = np.repeat(np.arange(2), list(sides.values())) if split.scheme == "official" else np.zeros(n, np.int64)
    parts = ("train", "test") if split.scheme == "official" else ("",)
    x = rng.integers(0, 256, (n, *known.shape), dtype=np.uint8)
    y = np.zeros(n, np.int64)
    simple = dict(known.source.simple) if known.source else {"pad": 1, "flip": False}
    values = known.source.attributes if known.source else {}
    images, labels, part = (torch.from_numpy(a) for a in (x, y, official))
    made = Prepared(known.name, images, labels, labels, known.classes, simple, 0, {}, part, parts, {})
    asked = split if split.size is None else split.model_copy(update={"size": size})
    for rows in draw(asked, made, seed).values():
        y[rows] = np.arange(len(rows)) % known.classes
    target = folder / known.name
    (target / "attributes").mkdir(parents=True)
    arrays: dict[str, NDArray[Any]] = {"x": x, "y": y, "attribute": rng.integers(0, 2, n), "official": official}
    arrays |= {f"attributes/{name}": rng.integers(0, k, n) for name, k in values.items()}
    for file, array in arrays.items():
        np.save(target / f"{file}.npy", array)
    manifest = {
        "images": n, "shape": list(known.shape), "classes": [str(i) for i in range(known.classes)], "simple": simple,
        "duplicates": 0, "parts": list(parts), "attributes": list(values),
        "attribute_counts": {a: np.bincount(arrays[f"attributes/{a}"], minlength=k).tolist() for a, k in values.items()},
    }  # fmt: skip
    (target / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    manifest |= {"digest": digest_of(target), "files": stamps(target)}
    (target / MANIFEST).write_text(json.dumps(manifest), "utf-8")
