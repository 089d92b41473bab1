"""SVHN (Netzer et al. 2011): cropped house numbers, 99,289 colour images (32x32), in MATLAB's format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.data.dataset import DataError
from benchmark.data.layouts import first_folder, pairs
from benchmark.data.source import Item, Source

source = Source(
    title="SVHN, cropped digits",
    terms="non-commercial use only",
    get="train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/; --from names their folder",
    views={"32": (3, 32, 32)},
    classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    simple={"pad": 4, "flip": False},
    expected={"images": 99_289, "classes": 10, "train": 73_257, "test": 26_032},
)


def read(folder: Path) -> Iterator[Item]:
    """The training images, then the test images; the file's label 10 is the digit 0."""
    from scipy.io import loadmat  # slow to import

    base = first_folder(folder, "test_32x32.mat", ".", "svhn")
    for part in ("train", "test"):
        path = base / f"{part}_32x32.mat"
        try:
            found = loadmat(path, variable_names=("X", "y"))
            x, y = found["X"].transpose(3, 0, 1, 2), found["y"].reshape(-1).astype(int) % 10
        except Exception as error:  # damaged files raise many kinds
            raise DataError(f"{path}: expected X (32, 32, 3, n) and y, given: {error}; fetch it again") from error
        yield from pairs(x, y, part, str(path))
