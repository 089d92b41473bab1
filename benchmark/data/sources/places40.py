"""The first 40 classes of Places365 (Zhou et al. 2017), 60,000 images in all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.data.layouts import places
from benchmark.data.source import Item, Source

source = Source(
    title="Places365, 40 classes of 1,500 images",
    terms="research; the images belong to third parties",
    get="train_256_places365standard.tar from http://places2.csail.mit.edu/, unpacked (class folders under a letter each), or any folder of class folders",
    views={"32": (3, 32, 32)},
    expected={"images": 60_000, "classes": 40},
)


def read(folder: Path) -> Iterator[Item]:
    """The first classes in alphabetical order, and the first images of each by name."""
    return places(folder, classes=40, each=1500)
