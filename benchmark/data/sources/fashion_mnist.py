"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images (28x28) of clothes, the training set first.

The published training and test sets are one pool here, because members and non-members must come from
one distribution (RULES 1).
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dataset import Data, DataError, make
from benchmark.data.source import Item, Source

source = Source(
    title="Fashion-MNIST",
    terms="MIT",
    get="`apt install dataset-fashion-mnist`, or the four IDX files (.gz) from https://github.com/zalandoresearch/fashion-mnist",
    views={"28": (1, 28, 28), "32": (1, 32, 32)},
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    simple={"pad": 2, "flip": True},
    installed=True,
    expected={"images": 70_000, "classes": 10, "train": 60_000, "test": 10_000},
)  # fmt: skip

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
LAYOUTS = (".", "fashion-mnist", "FashionMNIST/raw", "raw")
"""Where below the user's folder the files may lie: in it, where a download puts them here, or where torchvision puts them."""
_PARTS = ("train", "t10k")
_FILES = tuple(f"{part}-{kind}-ubyte" for part in _PARTS for kind in ("images-idx3", "labels-idx1"))


def load() -> Data:
    """Both published sets, from files or a download. Simple augmentation flips: a mirrored shirt is a shirt. Raises DataError."""
    folder = _folder()
    images, labels = zip(*(_part(folder, part) for part in _PARTS), strict=True)
    return make("fashion_mnist", np.concatenate(images), np.concatenate(labels), {"pad": 2, "flip": True})


def read(folder: Path | None) -> Iterator[Item]:
    """The training images, then the test images. The folder holds the four files; with none named they are looked for as `load` does."""
    if folder is None:
        base = _folder()
    else:
        base = next((folder / name for name in LAYOUTS if all(_file(folder / name, n) for n in _FILES)), folder)
    for part, name in zip(_PARTS, ("train", "test"), strict=True):
        images, labels = _part(base, part)
        for image, label in zip(images[:, 0], labels.tolist(), strict=True):
            yield Item(image, label, {}, name)


def _folder() -> Path:
    """The folder with the four files: the user's own, Debian's, or the user's own after a download.

    Where LEAKBOARD_DATA is set, no other folder is tried: that other files were read would go unnoticed.
    """
    named = os.environ.get("LEAKBOARD_DATA")
    own = Path(named or "~/.cache/leakboard").expanduser()
    for folder in [own / layout for layout in LAYOUTS] + ([] if named else [DEBIAN]):
        if all(_file(folder, name) for name in _FILES):
            return folder
    destination = own / "fashion-mnist"
    try:
        _download(destination)
    except (OSError, RuntimeError) as error:
        places = ", ".join(f"{own / layout}" for layout in LAYOUTS)
        debian = "unset LEAKBOARD_DATA after `apt install" if named else "`apt install"
        raise DataError(
            f"no Fashion-MNIST: expected {', '.join(f'{n}.gz' for n in _FILES)} (or without .gz) in one of {places}; a download to {destination} failed "
            f"({error}). Put them there, let torchvision download them (this needs a network), or {debian} "
            "dataset-fashion-mnist`"
        ) from error
    return destination


def _file(folder: Path, name: str) -> Path | None:
    """The file of this name, gzipped or plain; None where there is neither."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _download(folder: Path) -> None:
    """Download the four files, check their MD5, and move them into the folder together; a failure leaves nothing behind."""
    from torchvision.datasets import FashionMNIST  # slow to import, seldom needed
    from torchvision.datasets.utils import download_url

    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            for name, md5 in FashionMNIST.resources:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, Path(scratch, name))  # downloaded again if its MD5 is wrong
                download_url(FashionMNIST.mirrors[0] + name, scratch, md5=md5)
            for name, _ in FashionMNIST.resources:
                os.replace(Path(scratch, name), folder / name)
    except BaseException:
        for path in created:
            with contextlib.suppress(OSError):  # not empty, or of another user
                path.rmdir()
        raise


def _part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = (
        read_idx(_file(folder, f"{part}-{kind}-ubyte") or folder, dimensions)
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1))
    )
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or labels.max(initial=0) > 9:
        raise DataError(f"{folder}: {part} holds images {images.shape} and labels {labels.shape}; fetch it again")
    return images[:, None], labels.astype(np.int64)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, gzipped or plain. Raises DataError if it is damaged."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}; fetch it again") from error
    header = 4 + 4 * dimensions
    if raw[:4] != bytes((0, 0, 8, dimensions)) or len(raw) < header:  # 8: unsigned byte
        raise DataError(f"{path}: no IDX file of bytes in {dimensions} dimensions; fetch it again")
    shape = np.frombuffer(raw, ">u4", dimensions, 4).tolist()
    if len(raw) != header + math.prod(shape):
        raise DataError(f"{path}: {len(raw)} bytes, but its header says {shape}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
