"""STL-10 (Coates et al. 2011): 13,000 labelled colour images (96x96) of ten classes, as raw bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.data.dataset import DataError
from benchmark.data.layouts import first_folder, pairs
from benchmark.data.source import Item, Source

source = Source(
    title="STL-10, labelled images",
    terms="research; the images are from ImageNet",
    get="stl10_binary.tar.gz from https://cs.stanford.edu/~acoates/stl10/, unpacked; --from names the folder it was unpacked in",
    views={"32": (3, 32, 32), "96": (3, 96, 96)},
    classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    expected={"images": 13_000, "classes": 10, "train": 5000, "test": 8000},
)


def read(folder: Path) -> Iterator[Item]:
    """The training images, then the test images. A file holds columns of pixels, a channel after the other; labels begin at 1."""
    base = first_folder(folder, "test_X.bin", "stl10_binary", ".")
    for part in ("train", "test"):
        path = base / f"{part}_X.bin"
        try:
            size = path.stat().st_size
            x = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
            y = np.fromfile(base / f"{part}_y.bin", np.uint8).astype(np.int64) - 1
        except OSError as error:
            raise DataError(f"{path}: expected a file that can be read, given: {error}") from error
        if size != len(y) * 3 * 96 * 96:
            raise DataError(
                f"{path}: expected {len(y)} images of 27648 bytes, one a label, given {size} bytes; fetch it again"
            )
        yield from pairs(x.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1), y, part, str(path))
