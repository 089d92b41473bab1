"""Readers of the common layouts of images on disk, for the files of data sets: each yields `Item`s in a fixed order.

return class_folders(folder)     one folder a class, images in it, at any depth
return arrays(folder)            .npz, or images.npy and labels.npy
return parquet(folder)           Parquet with image bytes, as data sets of Hugging Face lie on disk
return any_layout(folder)        whichever of these it is
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dataset import DataError
from benchmark.data.source import Item

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jfif"))
"""Suffixes of image files, in small letters."""
PARTS = ("train", "test", "val", "valid", "validation")
"""Names that publishers give their parts."""

ARRAY_PARTS = ("", "_train", "_val", "_test")
"""What the names of a part's arrays in an .npz end in."""


def any_layout(folder: Path) -> Iterable[Item]:
    """Whichever of the layouts the folder (or the one .npz or .parquet file) has. Raises DataError for none of them."""
    if _files(folder, ".parquet"):
        return parquet(folder)
    if _files(folder, ".npz") or (folder / "images.npy").is_file():
        return arrays(folder)
    return class_folders(folder)


def existing(folder: Path, *layouts: str) -> Path:
    """The first of these folders or files below `folder` that exists. Raises DataError where none does."""
    for layout in layouts:
        if (folder / layout).exists():
            return folder / layout
    raise DataError(
        f"{folder}: expected {' or '.join(layouts)} in it, given none of them; --from names the folder that holds it"
    )


def first_folder(folder: Path, marker: str, *layouts: str) -> Path:
    """The first of these folders below `folder` ("." is itself) that holds `marker`. Raises DataError where none does."""
    return existing(folder, *(f"{layout}/{marker}".removeprefix("./") for layout in layouts)).parents[marker.count("/")]


def image_files(folder: Path) -> list[Path]:
    """The image files at any depth, in the order of their paths as text; hidden ones are passed over.

    Raises DataError for a folder that can't be read.
    """
    found = [
        os.path.join(inside, name)
        for inside, _, names in os.walk(folder, onerror=_unreadable)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGES and not name.startswith(".")
    ]
    paths = [Path(path) for path in found if os.path.isfile(path)]
    return sorted(paths, key=Path.as_posix)


def _unreadable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        return  # no images, which callers name
    raise DataError(f"{error.filename}: expected a folder that can be read, given: {error.strerror}") from error


def class_folders(folder: Path, classes: Sequence[str] = (), part: str = "") -> Iterator[Item]:
    """One folder a class. Where `folder` holds publishers' parts (train/, test/), theirs.

    `classes`: these folders alone. Raises DataError where there is no image.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder of class folders, given {'a file' if folder.exists() else 'none'}"
        )
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not part and names and set(names) <= set(PARTS):
        for name in sorted(names, key=PARTS.index):
            yield from class_folders(folder / name, classes, name)
        return
    if missing := sorted(set(classes) - set(names)):
        raise DataError(f"{folder}: expected a folder {missing[0]}/ (and {len(missing) - 1} more), given none")
    empty = True
    for name in classes or names:
        for path in image_files(folder / name):
            empty = False
            yield Item(path, name, {}, part)
    if empty:
        given = f"the folders {', '.join(names[:5])}" if names else f"{len(image_files(folder))} images and no folders"
        raise DataError(f"{folder}: expected one folder a class with images in it, given {given}")


def arrays(folder: Path) -> Iterator[Item]:
    """Images and labels from one .npz, or from images.npy and labels.npy, which are mapped into memory and not read whole.

    In an .npz: images, x, X or data; labels, y, label or targets; or x_train, y_train, x_test, y_test. Arrays are uint8, (n, h, w),
    (n, h, w, 3) or (n, 3, h, w). Raises DataError for others.
    """
    if (folder / "images.npy").is_file():
        x, y = (_npy(folder / f"{name}.npy") for name in ("images", "labels"))
        yield from pairs(x, y, "", str(folder / "images.npy"))
        return
    files = _files(folder, ".npz")
    if len(files) != 1:
        raise DataError(f"{folder}: expected one .npz, or images.npy and labels.npy, given {len(files)} .npz files")
    try:
        with np.load(files[0], allow_pickle=False) as archive:
            names = archive.files
            found = False
            for part in ARRAY_PARTS:
                if pair := named(names, part):
                    images, labels = pair
                    found = True
                    yield from pairs(archive[images], archive[labels], part[1:], f"{files[0]}: {images}")
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{files[0]}: expected arrays of numbers, given: {error}") from error
    if not found:
        raise DataError(
            f"{files[0]}: expected the arrays images and labels (or x and y), given {', '.join(names) or 'none'}"
        )


def named(names: Sequence[str], part: str) -> tuple[str, str] | None:
    """The names of images and labels of a part among the names of an .npz's arrays; None where it lacks either."""
    images = next((n + part for n in ("images", "x", "X", "data") if n + part in names), None)
    labels = next((n + part for n in ("labels", "y", "label", "targets") if n + part in names), None)
    return (images, labels) if images and labels else None


def pairs(x: NDArray[Any], y: NDArray[Any], part: str, name: str) -> Iterator[Item]:
    """Images of an array with their labels. Raises DataError for arrays of another type or shape."""
    if x.dtype != np.uint8:
        raise DataError(f"{name}: expected uint8 (grey levels 0 to 255), given {x.dtype}")
    y = y.reshape(-1) if y.size == len(y) else y
    if x.ndim == 4 and x.shape[3] not in (1, 3) and x.shape[1] in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)):
        raise DataError(f"{name}: expected images (n, h, w), (n, h, w, 3) or (n, 3, h, w), given {x.shape}")
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{name}: expected {len(x)} whole numbers as labels, given {y.dtype} {y.shape}")
    for image, label in zip(x, y.tolist(), strict=True):
        yield Item(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image, label, {}, part)


def parquet(folder: Path, attributes: Sequence[str] = ()) -> Iterator[Item]:
    """Parquet files with a column of encoded images: bytes, or a record of `bytes` and `path`, as data sets of Hugging Face have.

    The label is the column label, labels, fine_label or class; names of classes are taken from the schema. The part is the
    beginning of the file's name: train-00000-of-00002.parquet. `attributes` names columns of whole numbers.
    """
    import pyarrow.parquet as pq
    from pyarrow import types
    from pyarrow.lib import ArrowException

    for path in _files(folder, ".parquet"):
        try:
            file = pq.ParquetFile(path)
            schema = file.schema_arrow
            images = [
                f.name
                for f in schema
                if types.is_binary(f.type)
                or types.is_large_binary(f.type)
                or (types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0)
            ]
            label = next((n for n in ("label", "labels", "fine_label", "class") if n in schema.names), None)
            missing = [n for n in attributes if n not in schema.names]
            if not images or label is None or missing:
                raise DataError(
                    f"{path}: expected a column of image bytes, a column label{''.join(f', {n}' for n in attributes)}; "
                    f"given {', '.join(schema.names)}"
                )
            names = _class_names(schema.metadata, label)
            part = path.name.split("-")[0].split(".")[0]
            for batch in file.iter_batches(64, columns=[images[0], label, *attributes]):
                for row in batch.to_pylist():
                    image = row[images[0]]
                    image = image["bytes"] if isinstance(image, dict) else image
                    if image is None:
                        raise DataError(
                            f"{path}: {images[0]}: expected the bytes of images, given a path to another file"
                        )
                    value = row[label]
                    known = names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
                    yield Item(image, known, {n: row[n] for n in attributes}, part if part in PARTS else "")
        except (ArrowException, OSError) as error:
            raise DataError(f"{path}: expected a Parquet file, given: {error}") from error


def columns(folder: Path) -> list[str]:
    """The names of the columns of Parquet files, by the first of them; [] for other layouts. Raises DataError for a damaged file."""
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    files = _files(folder, ".parquet")
    try:
        return list(pq.read_schema(files[0]).names) if files else []
    except (ArrowException, OSError) as error:
        raise DataError(f"{files[0]}: expected a Parquet file, given: {error}") from error


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str]:
    """Names of classes in the schema of a data set of Hugging Face; [] where it has none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return []


class _Unpickler(pickle.Unpickler):
    """Admits arrays of NumPy beside dicts, lists, texts, bytes and numbers: a pickle of anything else could run any code."""

    _ADMITTED = {
        (module, name)
        for core in ("numpy.core", "numpy._core")
        for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.numeric", "_frombuffer"))
    } | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise DataError(
                f"expected arrays, dicts, lists and texts alone, given the object {module}.{name}; nothing of it was run"
            )
        return super().find_class(module, name)


def unpickled(path: Path) -> dict[str, Any]:
    """A pickled dict, such as a batch of CIFAR: no object but NumPy's arrays is made. Raises DataError for what is none."""
    try:
        value = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # damaged pickles raise whatever they like
        raise DataError(
            f"{path}: expected a pickled batch, given: {type(error).__name__}: {error}; fetch it again"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a pickled dict, given {type(value).__name__}; fetch it again")
    return value


def _npy(path: Path) -> NDArray[Any]:
    try:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: expected an array, given: {error}") from error
    return mapped


def _files(folder: Path, suffix: str) -> list[Path]:
    """The files of this suffix in the folder and in its data/, by name; or the file itself."""
    if folder.is_file():
        return [folder] if folder.suffix == suffix else []
    return sorted(folder.glob(f"*{suffix}")) or sorted((folder / "data").glob(f"*{suffix}"))


def places(folder: Path, classes: int, each: int) -> Iterator[Item]:
    """Places365: the first classes in alphabetical order, the first images of each by name.

    `folder` holds class folders, as they are or under a letter each (a/airfield, also below data_256/ or data_256_standard/).
    """
    for name in ("data_256_standard", "data_256", "data_large", "data_large_standard", "train"):
        if (folder / name).is_dir():
            folder = folder / name
    tops = [p for p in sorted(folder.iterdir()) if p.is_dir()] if folder.is_dir() else []
    lettered = bool(tops) and all(len(p.name) == 1 for p in tops)
    found = sorted(p for top in tops for p in top.iterdir() if p.is_dir()) if lettered else tops
    if len(found) < classes:
        raise DataError(f"{folder}: expected {classes} class folders, given {len(found)}")
    for path in found[:classes]:
        for image in image_files(path)[:each]:
            yield Item(image, path.name)
