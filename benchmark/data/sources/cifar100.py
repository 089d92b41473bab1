"""CIFAR-100 (Krizhevsky 2009): 60,000 colour images (32x32) of a hundred classes, in two pickled files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.data.layouts import first_folder
from benchmark.data.source import Item, Source
from benchmark.data.sources.cifar10 import batch

source = Source(
    title="CIFAR-100",
    terms="none stated by the publisher",
    get="cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpacked; --from names the folder it was unpacked in",
    views={"32": (3, 32, 32)},
    expected={"images": 60_000, "classes": 100, "train": 50_000, "test": 10_000},
)


def read(folder: Path) -> Iterator[Item]:
    """The training images, then the test images, with their fine labels."""
    base = first_folder(folder, "test", "cifar-100-python", ".")
    for name in ("train", "test"):
        yield from batch(base / name, "fine_labels", name)
