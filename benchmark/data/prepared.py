"""Prepared data sets: plain arrays in `ID/VIEW/`, mapped into memory and not read.

x.npy           (n, c, h, w) uint8
y.npy           (n,) int64 in [0, classes)
attribute.npy   (n,) int64, what attribute inference asks for where a protocol names no attribute (`benchmark.data.attribute`)
attributes/     a file an attribute of the source: (n,) int64
official.npy    (n,) int64, the publisher's part, an index of `parts` in the manifest
manifest.json   the digest, names, counts, where it comes from
preview.png     some images of each class
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import places
from benchmark.data.dataset import Data, DataError
from benchmark.errors import suggest

MANIFEST = "manifest.json"
BLOCK = 1 << 22
"""Bytes that are hashed at once."""


@dataclass(frozen=True, eq=False)
class Prepared(Data):
    """A prepared data set. Its images are a memory map: only those that are used are read."""

    attributes: Mapping[str, Tensor]
    """The source's attributes (n,) int64 by name."""
    official: Tensor
    """The publisher's part (n,) int64 of each image: an index of `parts`."""
    parts: tuple[str, ...]
    values: Mapping[str, int]
    """How many values each attribute has, by name."""

    @property
    def published(self) -> Mapping[str, NDArray[np.int64]]:
        """The indices of the publisher's parts by name."""
        return {name: np.flatnonzero(self.official.numpy() == i) for i, name in enumerate(self.parts)}

    def followed_by(self, other: Data) -> Data:
        """As `Data.followed_by`; attributes stay that both have, with as many values, and parts are left behind (-1)."""
        alone = Data(self.name, self.x, self.y, self.attribute, self.classes, self.simple, self.duplicates)
        both = alone.followed_by(other)
        theirs = other.attributes if isinstance(other, Prepared) else {}
        shared = {
            name: torch.cat([column, theirs[name]])
            for name, column in self.attributes.items()
            if isinstance(other, Prepared) and other.values.get(name) == self.values[name]
        }
        return Prepared(
            **vars(both), attributes=shared, official=torch.full((len(both),), -1), parts=(),
            values={name: self.values[name] for name in shared},
        )  # fmt: skip


def named_attribute(data: Data, name: str) -> tuple[Tensor, int]:
    """The attribute (n,) int64 of this name, and how many values it has. Raises DataError where the data have none of this name."""
    if isinstance(data, Prepared) and name in data.attributes:
        return data.attributes[name], data.values[name]
    known = data.attributes if isinstance(data, Prepared) else {}
    hint = suggest(name, known) if known else "; without the field, the thickness of shapes within a class is inferred"
    raise DataError(f"attribute: expected an attribute of {data.name}, which has {len(known)}, given {name!r}{hint}")


def load(folder: Path, name: str) -> Prepared:
    """The data set that is prepared in a folder. Its digest is the manifest's where the files are those it was written with, else made anew.

    Raises DataError for a folder that is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        x, y, attribute, official = (
            torch.from_numpy(np.load(folder / f"{file}.npy", mmap_mode="c", allow_pickle=False))
            for file in ("x", "y", "attribute", "official")
        )
        attributes = {
            a: torch.from_numpy(np.load(folder / "attributes" / f"{a}.npy", allow_pickle=False))
            for a in manifest["attributes"]
        }
        data = Prepared(
            name, x, y, attribute, len(manifest["classes"]), manifest["simple"], manifest["duplicates"], attributes, official,
            tuple(manifest["parts"]), {a: len(manifest["attribute_counts"][a]) for a in attributes},
        )  # fmt: skip
        lengths = {len(t) for t in (x, y, attribute, official, *attributes.values())}
        if lengths != {manifest["images"]} or tuple(x.shape[1:]) != tuple(manifest["shape"]):
            raise ValueError(
                f"expected {manifest['images']} images {manifest['shape']}, given {sorted(lengths)} of {tuple(x.shape[1:])}"
            )
        same = stamps(folder) == manifest["files"]
        vars(data)["digest"] = manifest["digest"] if same else digest_of(folder)  # cached_property reads it from there
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: expected a prepared data set, given: {error}; delete the folder, and prepare {name} again"
        ) from error
    return data


def found() -> dict[str, Path]:
    """The folders of all prepared data sets by name, ID/VIEW."""
    root = places.prepared()
    folders = [path.parent for path in sorted(root.glob(f"*/*/{MANIFEST}")) if not path.parent.name.startswith(".")]
    return {f"{folder.parent.name}/{folder.name}": folder for folder in folders}


def stamps(folder: Path) -> dict[str, list[int]]:
    """Size and time of the last change of each array: where they stay, so does the digest."""
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.rglob("*.npy"))
    }


def digest_of(folder: Path) -> str:
    """SHA-256 (hex) of all that a number can depend on: images, labels, attributes, parts, and the augmentation "simple".

    The files are read in blocks, so that memory does not grow with them.
    """
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    digest = hashlib.sha256()
    for path in (
        folder / "x.npy",
        folder / "y.npy",
        *sorted((folder / "attributes").glob("*.npy")),
        folder / "official.npy",
    ):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        for block in _blocks(path):
            digest.update(block)
    named = {name: manifest[name] for name in ("simple", "parts", "attributes")}
    digest.update(json.dumps([len(manifest["classes"]), named], sort_keys=True).encode())
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    """Type and shape of an array file, then its bytes."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    yield f"{array.dtype.str}{array.shape}".encode()
    with path.open("rb") as file:
        file.seek(path.stat().st_size - array.nbytes)
        while block := file.read(BLOCK):
            yield block
