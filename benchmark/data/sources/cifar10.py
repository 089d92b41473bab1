"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images (32x32) of ten classes, in pickled batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.data.dataset import DataError
from benchmark.data.layouts import first_folder, pairs, unpickled
from benchmark.data.source import Item, Source

source = Source(
    title="CIFAR-10",
    terms="none stated by the publisher",
    get="cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpacked; --from names the folder it was unpacked in",
    views={"32": (3, 32, 32)},
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    expected={"images": 60_000, "classes": 10, "train": 50_000, "test": 10_000},
)


def read(folder: Path) -> Iterator[Item]:
    """The five training batches, then the test batch."""
    base = first_folder(folder, "test_batch", "cifar-10-batches-py", ".")
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        yield from batch(base / name, "labels", "test" if name == "test_batch" else "train")


def batch(path: Path, label: str, part: str) -> Iterator[Item]:
    """The images of one pickled batch. Raises DataError where it is none."""
    found = unpickled(path)
    try:
        x, y = found["data"].reshape(-1, 3, 32, 32), found[label]
    except (KeyError, AttributeError, ValueError):
        raise DataError(
            f"{path}: expected data (n, 3072) and {label}, given {', '.join(map(str, found))}; fetch it again"
        ) from None
    yield from pairs(x, np.array(y), part, str(path))
