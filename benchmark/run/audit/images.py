"""Members and non-members as images: folders of class folders, Parquet files with images, or arrays in an npz."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import reading
from benchmark.data import layouts
from benchmark.data.dataset import DataError
from benchmark.data.intake import pixels
from benchmark.errors import UserError, printable
from benchmark.metrics import Bools
from benchmark.run.audit.predictions import LARGEST, LEAST, Ints, Source, Texts, as_array, flags
from benchmark.run.audit.question import Check
from benchmark.text import plain

NUMBERS = 1 << 29
"""Pixels of all images together at most, channels counted: 2 GiB in float32."""
SIDES = ("members", "non-members")
_DECODERS = 2
ATTRIBUTE = "a"
"""The array, or the column, that holds an attribute where no other is named."""
_DIGITS = 18
"""Digits of a class's number at most."""


@dataclass(frozen=True)
class Images:
    """Members, then non-members. Raises UserError where too few, or where an image is on both sides."""

    x: Tensor
    """(n, c, h, w) float32 in [0, 1]"""
    y: Ints
    members: Bools
    ids: Texts | None = None
    sources: tuple[Source, ...] = ()
    attribute: Ints | None = None
    """(n,) whole numbers from 0: what attribute inference asks for; None without one."""

    def __post_init__(self) -> None:
        for what, count in zip(SIDES, (int(self.members.sum()), int((~self.members).sum())), strict=True):
            if count < LEAST:
                raise UserError(f"expected at least {LEAST} {what}, given {count}: fewer show nothing")
        both = np.intersect1d(self.hashes[self.members], self.hashes[~self.members])
        if len(both):
            raise UserError(
                f"expected members that are no non-members, given {len(both):,} images on both sides, equal in every pixel; "
                "leave them out on one"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        c, h, w = self.x.shape[1:]
        return int(c), int(h), int(w)

    @property
    def hashes(self) -> NDArray[np.bytes_]:
        """(n,) a hash of the pixels of each image."""
        return np.array([hashlib.blake2b(image, digest_size=16).hexdigest() for image in self.x.numpy()])

    def cells(self, side: int = 16) -> NDArray[np.float64]:
        """(n, d): the images in at most `side` x `side` cells, for the classifier that tells the sides apart without the model."""
        _, h, w = self.shape
        small = torch.nn.functional.adaptive_avg_pool2d(self.x, (min(h, side), min(w, side)))
        return small.flatten(1).double().numpy()


def load(members: Path, nonmembers: Path, classes: int, view: int | None, channels: int, attribute: str = "") -> Images:
    """The images of both sides. A folder's are cut and scaled to `view` x `view` (by default 32); those of an npz are as they are.

    attribute: the array or column that holds one; by default ATTRIBUTE, where it is there. Raises UserError, in one line, for files
    that can't be used.
    """
    sides = [_side(path, view, channels, attribute) for path in (members, nonmembers)]
    shapes = [x.shape[1:] for x, *_ in sides]
    if shapes[0] != shapes[1]:
        raise UserError(f"expected images of one shape on both sides, given {shapes[0]} and {shapes[1]}")
    if sum(x.size for x, *_ in sides) > NUMBERS:
        raise UserError(
            f"expected at most {NUMBERS:,} pixels of all images together, given more; take a part of the images"
        )
    labels = [*sides[0][1], *sides[1][1]]
    x = torch.cat(
        [torch.from_numpy(x).float().div_(255) if x.dtype == np.uint8 else torch.from_numpy(x) for x, *_ in sides]
    )
    ids = [*sides[0][2], *sides[1][2]]
    return Images(
        x, _numbered(labels, classes), np.arange(len(x)) < len(sides[0][0]), np.array(ids) if all(ids) else None,
        tuple(side[3] for side in sides), _attribute([side[4] for side in sides], attribute or ATTRIBUTE),
    )  # fmt: skip


def of_arrays(x: Any, y: Any, members: Any, attribute: Any = None) -> Images:
    """The images of arrays or tensors: x (n, c, h, w) in [0, 1] or uint8, y (n,), members (n,), attribute (n,). Raises UserError."""
    array = _channels_first(as_array(x, "x"), "x")
    y = as_array(y, "y")
    if y.shape != (len(array),) or y.dtype.kind not in "fiu" or not np.isfinite(y).all() or (y != np.floor(y)).any():
        raise UserError(
            f"y: expected a whole number from 0 for each of {len(array)} images, given {y.dtype} of shape {y.shape}"
        )
    return Images(
        torch.from_numpy(array).float().div_(255) if array.dtype == np.uint8 else torch.from_numpy(array),
        y.astype(np.int64), flags(members, len(array), "members"),
        attribute=None if attribute is None else _attribute([_column(as_array(attribute, "attribute"), len(array), "attribute")], "attribute"),
    )  # fmt: skip


def checks(images: Images, log_posteriors: NDArray[np.float64]) -> list[Check]:
    """Checks of images, with the model's log-posteriors (n, k) of them."""
    hashes = images.hashes
    twice = sum(
        int((np.unique(hashes[side], return_counts=True)[1] - 1).sum()) for side in (images.members, ~images.members)
    )
    found = [Check(
        "Equal images on one side", "warning" if twice else "ok", f"{twice:,} images equal another one of their side in every pixel.",
        "They count twice, and intervals are too narrow: leave them out." if twice else "",
    )]  # fmt: skip
    side = images.members
    accuracy, loss, guess = (
        float((log_posteriors.argmax(1) == images.y)[side].mean()),
        float(-np.median(log_posteriors[side, images.y[side]])),
        float(np.bincount(images.y[images.members]).max() / images.members.sum()),
    )
    uniform = float(np.log(log_posteriors.shape[1]))
    poor, wrong = accuracy <= 1.5 * guess and accuracy < 0.5, loss > 1.5 * uniform
    found.append(Check(
        "Accuracy on members", "broken" if wrong else "warning" if poor else "ok",
        f"The model is right on {accuracy:.1%} of the members, of whom the commonest class is {guess:.1%}; their median loss is {loss:.3g} nats, that of a "
        f"model that knows nothing {uniform:.3g}.",
        "So bad a model is given other images or labels than it was trained on: look at --mean and --std, --view, --channels and "
        "the order of the classes." if poor or wrong else "",
        "it does not know its members" if wrong else "",
    ))  # fmt: skip
    return found


# --- One side ---------------------------------------------------------------------------------------

_Side = tuple[NDArray[Any], list[int | str], list[str], Source, NDArray[Any] | None]
"""Images (n, c, h, w) uint8 or float32, labels, ids ("" for none), where they come from, and their attribute, if they have one."""


def _side(path: Path, view: int | None, channels: int, attribute: str) -> _Side:
    if path.suffix.lower() == ".npz":
        return _of_npz(path, view, attribute)
    if not path.is_dir() and path.suffix.lower() != ".parquet":
        given = "a file" if path.exists() else "none"
        raise UserError(f"{plain(path.name, 120)}: expected a folder of class folders, .npz or .parquet, given {given}")
    side = view or 32
    columns = layouts.columns(path)
    if attribute and attribute not in columns:
        raise UserError(_no_attribute(path, attribute, columns))
    named = attribute or ATTRIBUTE
    items = list(layouts.parquet(path, [named]) if named in columns else layouts.any_layout(path))
    if len(items) * channels * side * side > NUMBERS:
        raise UserError(
            f"{path}: expected at most {NUMBERS:,} pixels, given {len(items):,} images; take a part of them"
        )
    names = [str(item.image) if isinstance(item.image, Path) else "" for item in items]

    def decode(item: Any) -> NDArray[np.uint8] | str:
        try:
            return pixels(item.image, (channels, side, side))[0]
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(_DECODERS) as executor:  # Pillow lets go of the interpreter
        decoded = list(executor.map(decode, items))
    if bad := [i for i, image in enumerate(decoded) if isinstance(image, str)]:
        where = plain(names[bad[0]] or f"{path}: image {bad[0]}", 200)
        raise DataError(f"{where}: {decoded[bad[0]]} ({len(bad)} like it)")
    if not decoded:
        raise UserError(f"{path}: expected images, given none")
    x: NDArray[np.uint8] = np.stack(decoded)  # type: ignore[arg-type]
    labels = [item.label for item in items]
    values = [item.attributes[named] for item in items] if named in columns else []
    sha = hashlib.sha256(
        x.tobytes() + "\0".join(map(str, [*labels, *values])).encode(errors="surrogateescape")
    ).hexdigest()
    source = Source(f"{plain(path.name, 100)} ({len(x):,} images, decoded)", x.nbytes, sha)
    return x, labels, names, source, _column(np.array(values), len(x), attribute) if values else None


def _no_attribute(path: Path, name: str, known: Sequence[str]) -> str:
    given = ", ".join(plain(k, 40) for k in known) or "a folder of class folders"
    return f"--attribute: expected {plain(name, 60)!r} as an array of .npz or a column of .parquet, given {given} in {plain(path.name, 100)}"


def _column(values: NDArray[Any], count: int, what: str) -> NDArray[Any] | None:
    """The attribute (count,) of one side, whole numbers or texts. Raises UserError for others that were asked for by name (`what`)."""
    if values.shape != (count,) or values.dtype.kind not in "biuU":
        if not what:
            return None  # some other array that happens to be called so
        raise UserError(
            f"{plain(what, 60)}: expected a whole number or a text for each of {count} images, given {values.dtype} of shape {values.shape}"
        )
    return values


def _attribute(sides: Sequence[NDArray[Any] | None], name: str) -> Ints | None:
    """Both sides' attribute as whole numbers from 0, in the order of the values; None where neither has one."""
    there = [side for side in sides if side is not None]
    if not there:
        return None
    if len(there) < len(sides):
        one = SIDES[next(i for i, side in enumerate(sides) if side is not None)]
        raise UserError(
            f"expected the attribute {plain(name, 60)!r} on both sides or on none, given it for {one} alone"
        )
    if len({side.dtype.kind in "U" for side in there}) > 1:
        raise UserError(
            f"expected the attribute {plain(name, 60)!r} as numbers or as texts on both sides, given both kinds"
        )
    codes: Ints = np.unique(np.concatenate(there), return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


def _of_npz(path: Path, view: int | None, attribute: str) -> _Side:
    name = plain(path.name, 120)
    data = reading.content(path, LARGEST, "images")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > 4 * NUMBERS:
                raise UserError(f"{name}: expected at most {4 * NUMBERS:,} bytes unpacked, given more")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for a damaged file
        raise UserError(f"{name}: expected an npz of plain arrays, given: {printable(str(error), 120)}") from None
    x = next((found[k] for k in ("x", "images") if k in found), None)
    y = next((found[k] for k in ("y", "labels") if k in found), None)
    if x is None or y is None:
        raise UserError(
            f"{name}: expected arrays x and y (or images and labels), given {', '.join(map(plain, found)) or 'none'}"
        )
    x = _channels_first(x, f"{name}: x")
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{name}: y: expected {len(x)} whole numbers, given {y.dtype} {y.shape}")
    if view and x.shape[2:] != (view, view):
        raise UserError(
            f"{name}: x: expected images {view}x{view} as --view says, given {x.shape[2]}x{x.shape[3]}; arrays are taken as they are"
        )
    if attribute and attribute not in found:
        raise UserError(_no_attribute(path, attribute, [*found]))
    values = found.get(attribute or ATTRIBUTE)
    source = Source(name, len(data), hashlib.sha256(data).hexdigest())
    return (
        x,
        y.tolist(),
        [""] * len(x),
        source,
        None if values is None else _column(values, len(x), attribute),
    )


def _channels_first(x: NDArray[Any], what: str) -> NDArray[Any]:
    """Images (n, c, h, w), uint8 or float32 in [0, 1], of (n, h, w), (n, h, w, c) or (n, c, h, w)."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.size:
        raise UserError(
            f"{what}: expected images (n, h, w), (n, h, w, c) or (n, c, h, w) of 1 or 3 channels, given {x.shape}"
        )
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if x.dtype.kind != "f":
        raise UserError(f"{what}: expected uint8, or floats in [0, 1], given {x.dtype}")
    x = np.ascontiguousarray(x, np.float32)
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{what}: expected pixels in [0, 1], given {low:g} to {high:g}; give them as uint8, and a normalisation by --mean and --std"
        )
    return x


def _numbered(labels: Sequence[int | str], classes: int) -> Ints:
    """Labels (n,): numbers, or names of classes in alphabetical order over both sides, as ImageFolder of torchvision has it."""
    kinds = {type(label) for label in labels}
    if not kinds <= {int, str}:
        odd = next(label for label in labels if type(label) not in (int, str))
        raise UserError(f"expected labels that are whole numbers or names, given {plain(repr(odd), 60)}")
    if all(isinstance(label, int) or (label.isdecimal() and len(label) <= _DIGITS) for label in labels):
        counted = [int(label) for label in labels]
        if min(counted) < 0 or max(counted) >= classes:
            raise UserError(
                f"expected labels from 0 to {classes - 1}, as --classes says, given {min(counted)} to {max(counted)}"
            )
        return np.array(counted, np.int64)
    if int in kinds:
        raise UserError(
            "expected labels of one kind, given numbers for some images and names for others; name the class folders by the numbers"
        )
    names = sorted({str(label) for label in labels})
    if len(names) != classes:
        raise UserError(
            f"expected {classes} class folders over both sides, as --classes says, given {len(names)}: {_few(names)}; where one "
            "is empty, name the folders by the numbers of the classes, from 0"
        )
    return np.array([names.index(str(label)) for label in labels], np.int64)


def _few(names: Iterable[str]) -> str:
    return printable(", ".join(list(names)[:5]), 100)
