"""Canaries planted into a user's training data, and the secret of who is in.

A canary is an image that is taken out of the data (`mislabelled`) or made of noise (`noise`), with a label drawn at random: a
wrong one for an image that has a true one. Models can only learn it by heart, which is the worst placed record there is (Aerni,
Zhang, Tramèr 2024). A fair coin of its own says of each canary whether it is in the training set (RULES 13). Everything is drawn
from the secret's seed, so that the same data and secret give the same files.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark import reading
from benchmark.data import layouts
from benchmark.data.dataset import DataError
from benchmark.data.population import seed_of
from benchmark.errors import UserError
from benchmark.run.audit.canary_secret import LEAST, SECRET, Kind, Secret
from benchmark.run.audit.epsilon import GUESSED, planned
from benchmark.run.audit.predictions import LARGEST
from benchmark.text import plain

MANY = 1000
"""Canaries, if nothing else is asked for."""
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass(frozen=True)
class Planted:
    """What was written, and where."""

    secret: Secret
    train: Path
    canaries: Path
    secret_file: Path
    images: int
    """Images in the training set, those of included canaries among them."""


@dataclass(frozen=True)
class _Drawn:
    """What chance decided of m canaries."""

    rows: NDArray[np.int64]
    """Images (m,) that they are taken from; for noise, whose size they have."""
    classes: NDArray[np.int64]
    """Positions (m,) of their labels among the classes."""
    included: NDArray[np.bool_]


def plant(
    data: Path,
    count: int | None,
    folder: Path,
    seed: str,
    kind: Kind = "mislabelled",
    share: float = GUESSED,
    track: Track = lambda items, what, total: items,
) -> Planted:
    """Write the training set, the canaries and the secret into `folder`, which must be new or empty.

    data: class folders, or an .npz with images and labels. count: None for MANY, or as many as the data have images for. seed: 32
    random bytes in hexadecimal. share: of the canaries whose inclusion will be guessed. Raises UserError for data that can't be read, too many canaries, and a folder that is in use.
    """
    if count is not None and count < LEAST:
        raise UserError(f"--canaries: expected at least {LEAST}, given {count}: fewer show nothing")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected a new or an empty folder, given one that holds something")
    write = _plant_arrays if data.suffix == ".npz" else _plant_folders
    try:
        return write(data, count, folder, seed, kind, share, track)
    except OSError as error:
        raise UserError(
            f"{plain(str(error.filename or folder), 200)}: expected a file that can be read, or written, given: {error.strerror}"
        ) from None


def _draw(y: NDArray[np.int64], count: int | None, seed: str, kind: Kind) -> _Drawn:
    """Draw canaries among images of the classes y (n,), numbered from 0. Raises UserError for too many of them."""
    k = int(y.max()) + 1
    if k < 2:
        raise UserError("--data: expected images of at least 2 classes, given 1: no label is wrong")
    most = min(len(y) // 2, len(y) - k)
    count = (min(MANY, most) if kind == "mislabelled" else MANY) if count is None else count
    if count < LEAST:
        raise UserError(
            f"--data: expected images for at least {LEAST} canaries, given {len(y)} of {k} classes; or --kind noise"
        )
    if kind == "mislabelled" and count > most:
        raise UserError(
            f"--canaries: expected at most {most} for {len(y)} images of {k} classes, given {count}; or --kind noise"
        )

    def rng(name: str) -> np.random.Generator:
        return np.random.default_rng(seed_of(name, secret=bytes.fromhex(seed)))

    if kind == "noise":
        rows, classes = rng("canaries").integers(len(y), size=count), rng("labels").integers(k, size=count)
    else:
        order = rng("canaries").permutation(len(y))
        rows = np.delete(order, np.unique(y[order], return_index=True)[1])[:count]  # every class keeps an image
        classes = (y[rows] + rng("labels").integers(1, k, count)) % k
    return _Drawn(rows, classes, rng("coins").random(count) < 0.5)


def _seal(folder: Path, drawn: _Drawn, labels: NDArray[Any], seed: str, kind: Kind, share: float, files: list[Path]) -> Secret:  # fmt: skip
    """Write the secret, for its owner alone."""
    digests = {}
    for path in files:
        with path.open("rb") as stream:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    secret = Secret(
        kind=kind, seed=seed, guesses=planned(len(labels), share), labels=[int(y) for y in labels],
        included=drawn.included.astype(int).tolist(), files=digests,
    ).sealed()  # fmt: skip
    handle = os.open(folder / SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(secret.model_dump_json() + "\n")
    return secret


# --- Arrays -----------------------------------------------------------------------------------------


def _plant_arrays(
    data: Path, count: int | None, folder: Path, seed: str, kind: Kind, share: float, track: Track
) -> Planted:
    """The training set as train.npz, whose arrays have the given names, and the canaries as canaries.npz."""
    arrays, shown = _arrays(data), plain(data.name, 120)
    found = next(((pair, p) for p in layouts.ARRAY_PARTS[:2] if (pair := layouts.named([*arrays], p))), None)
    if found is None:
        raise UserError(
            f"{shown}: expected the arrays images and labels (or x and y, or x_train and y_train), given {plain(', '.join(arrays), 200)}"
        )
    (images, labels), part = found
    known = {images, labels} | {n for p in layouts.ARRAY_PARTS if p != part for n in layouts.named([*arrays], p) or ()}
    if unknown := [name for name in arrays if name not in known]:
        raise UserError(
            f"{shown}: expected images and labels alone, for other arrays would no longer fit them, given {plain(unknown[0], 60)!r} too"
        )
    x, y = arrays[images], arrays[labels]
    y = y.reshape(-1) if y.size == len(y) else y
    if x.dtype.kind not in "fiu" or not x.size or not np.isfinite(x).all():
        raise UserError(f"{shown}: {images}: expected finite numbers, given {x.dtype} of shape {x.shape}")
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0:
        raise UserError(
            f"{shown}: {labels}: expected {len(x)} whole numbers from 0, given {y.dtype} of shape {y.shape}"
        )
    classes, numbers = np.unique(y, return_inverse=True)
    drawn = _draw(numbers.astype(np.int64), count, seed, kind)
    count = len(drawn.rows)
    rng = np.random.default_rng(seed_of("pixels and order", secret=bytes.fromhex(seed)))
    if kind == "noise":
        low, high, shape = x.min(), x.max(), (count, *x.shape[1:])
        whole = x.dtype.kind in "iu"
        planted = rng.integers(low, high, shape, x.dtype, endpoint=True) if whole else rng.uniform(low, high, shape).astype(x.dtype)  # fmt: skip
        kept = np.arange(len(x))
    else:
        planted, kept = x[drawn.rows], np.setdiff1d(np.arange(len(x)), drawn.rows)
    wrong = classes[drawn.classes]
    all_x = np.concatenate([x[kept], planted[drawn.included]])
    order = rng.permutation(len(all_x))  # their place must not mark canaries
    all_y = np.concatenate([y[kept], wrong[drawn.included]])
    folder.mkdir(parents=True, exist_ok=True)
    train, canaries = folder / "train.npz", folder / "canaries.npz"
    written: dict[str, Any] = {**arrays, images: all_x[order], labels: all_y[order]}
    asked: dict[str, Any] = {images.removesuffix(part): planted, labels.removesuffix(part): wrong}
    np.savez(train, **written)
    np.savez(canaries, **asked)
    secret = _seal(folder, drawn, wrong, seed, kind, share, [train, canaries])
    return Planted(secret, train, canaries, folder / SECRET, len(all_x))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    data = reading.content(path, LARGEST, "an npz of images and labels")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > 2 * LARGEST:
                raise UserError(f"{plain(path.name, 120)}: expected at most {2 * LARGEST:,} bytes unpacked, given more")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for a damaged file
        raise UserError(f"{plain(path.name, 120)}: expected an npz of plain arrays, given: {plain(str(error), 160)}") from None  # fmt: skip


# --- Class folders ----------------------------------------------------------------------------------


def _plant_folders(
    data: Path, count: int | None, folder: Path, seed: str, kind: Kind, share: float, track: Track
) -> Planted:
    """The training set as class folders in train/, and the canaries as files in canaries/, in the order of canaries.csv.

    Images that are no canaries are hard links to the given ones where the file system allows, else copies.
    """
    try:
        items = list(layouts.class_folders(data))
    except DataError as error:
        raise UserError(str(error)) from None
    if items[0].part:
        raise UserError(f"{data}: expected class folders, given {items[0].part}/ and the like; name that one: --data {data / items[0].part}")  # fmt: skip
    names = sorted({str(item.label) for item in items})
    y = np.array([names.index(str(item.label)) for item in items], np.int64)
    drawn = _draw(y, count, seed, kind)
    count = len(drawn.rows)
    train, canaries = folder / "train", folder / "canaries"
    for name in names:
        (train / name).mkdir(parents=True)
    canaries.mkdir()
    gone = {*drawn.rows.tolist()} if kind == "mislabelled" else set()
    paths = [Path(str(item.image)) for item in items]
    stay = [path for i, path in enumerate(paths) if i not in gone]
    for path in track(stay, "images", len(stay)):
        target = train / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, target)
    rng = np.random.default_rng(seed_of("pixels and order", secret=bytes.fromhex(seed)))
    tags = rng.bytes(8 * count).hex()  # names that say nothing
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["file", "label", "class"])
    for i, (row, label, inside) in enumerate(zip(drawn.rows, drawn.classes, drawn.included, strict=True)):
        source = paths[row]
        file = canaries / f"{i:06d}{'.png' if kind == 'noise' else source.suffix.lower()}"
        if kind == "noise":
            _noise_like(source, rng).save(file)
        else:
            shutil.copyfile(source, file)
        table.writerow([file.name, int(label), names[label]])
        if inside:
            shutil.copyfile(file, train / names[label] / f"{tags[16 * i : 16 * i + 16]}{file.suffix}")
    listed = folder / "canaries.csv"
    listed.write_text(stream.getvalue(), "utf-8", newline="")
    secret = _seal(folder, drawn, drawn.classes, seed, kind, share, [listed])
    return Planted(secret, train, listed, folder / SECRET, len(stay) + int(drawn.included.sum()))


def _noise_like(path: Path, rng: np.random.Generator) -> Image.Image:
    """Uniform noise, as large as an image and as grey or coloured."""
    try:
        with Image.open(path) as image:
            width, height, grey = *image.size, image.mode in ("1", "L", "LA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: expected an image that can be decoded, given: {plain(str(error), 160)}") from None
    return Image.fromarray(rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8))
