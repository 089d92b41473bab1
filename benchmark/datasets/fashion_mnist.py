"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images (28x28) of clothes, the training set first.

The published training and test sets are one pool here, because members and non-members must come from
one distribution (RULES 1).
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.data import Data, DataError, make

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_PARTS = ("train", "t10k")
_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in _PARTS for kind in ("images-idx3", "labels-idx1"))


def load() -> Data:
    """Flips belong to "simple" here: a mirrored shirt is a shirt. Raises DataError."""
    folder = _folder()
    images, labels = zip(*(_part(folder, part) for part in _PARTS), strict=True)
    return make("fashion_mnist", np.concatenate(images), np.concatenate(labels), {"pad": 2, "flip": True})


def _folder() -> Path:
    """The folder with the four files: the user's own, Debian's, or the user's own after a download."""
    own = Path(os.environ.get("LEAKBOARD_DATA", "~/.cache/leakboard")).expanduser() / "fashion-mnist"
    for folder in (own, DEBIAN):
        if all((folder / name).is_file() for name in _FILES):
            return folder
    try:
        _download(own)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"no Fashion-MNIST ({error}): `apt install dataset-fashion-mnist`, or put {', '.join(_FILES)} "
            f"into {own}, or let torchvision download them there (this needs a network)"
        ) from error
    return own


def _download(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST  # slow to import, seldom needed
    from torchvision.datasets.utils import download_url

    for name, md5 in FashionMNIST.resources:
        download_url(FashionMNIST.mirrors[0] + name, str(folder), md5=md5)


def _part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or labels.max(initial=0) > 9:
        raise DataError(f"{folder}: {part} holds images {images.shape} and labels {labels.shape}; fetch it again")
    return images[:, None], labels.astype(np.int64)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in a gzipped IDX file. Raises DataError if it is damaged."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}; fetch it again") from error
    header = 4 + 4 * dimensions
    if raw[:4] != bytes((0, 0, 8, dimensions)) or len(raw) < header:  # 8: unsigned byte
        raise DataError(f"{path}: no IDX file of bytes in {dimensions} dimensions; fetch it again")
    shape = np.frombuffer(raw, ">u4", dimensions, 4).tolist()
    if len(raw) != header + math.prod(shape):
        raise DataError(f"{path}: {len(raw)} bytes, but its header says {shape}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
