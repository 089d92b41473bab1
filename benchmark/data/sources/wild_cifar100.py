"""WildCIFAR100 (He et al. 2022): images from the web for the classes of CIFAR-100. Not published: a folder of your own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmark.data.layouts import any_layout
from benchmark.data.source import Item, Source

source = Source(
    title="WildCIFAR100",
    terms="images of third parties",
    get="not published; --from names a folder of your own with a folder a class",
    views={"32": (3, 32, 32)},
    expected={"images": 55_000, "classes": 100},
)


def read(folder: Path) -> Iterable[Item]:
    """Class folders, an .npz, or Parquet."""
    return any_layout(folder)
