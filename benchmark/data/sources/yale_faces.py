"""The Extended Yale Face Database B, cropped (Lee et al. 2005): 38 people under 64 lights, grey (168x192), in a folder each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from benchmark.data.dataset import DataError
from benchmark.data.layouts import image_files
from benchmark.data.source import Item, Source

source = Source(
    title="Extended Yale Face Database B, cropped",
    terms="research only",
    get="CroppedYale.zip from http://vision.ucsd.edu/~leekc/ExtYaleDatabase/, unpacked; --from names the folder with yaleB01, yaleB02, ...",
    views={"32": (1, 32, 32), "192x168": (1, 192, 168)},
    expected={"images": 2414, "classes": 38, "train": 1900, "test": 514},
)

TRAIN = 50
"""Images of each person in the part "train": 1,900 in all, as Song et al. 2019 train on. Which, is drawn by a hash of the file's name."""


def read(folder: Path) -> Iterator[Item]:
    """The PGM files by person. Pictures of the empty room (Ambient) and files marked .bad are passed over."""
    base = folder / "CroppedYale" if (folder / "CroppedYale").is_dir() else folder
    people = sorted(p for p in base.glob("yaleB*") if p.is_dir())
    if not people:
        raise DataError(f"{folder}: expected the folders yaleB01, yaleB02, ..., given none")
    for person in people:
        faces = [p for p in image_files(person) if p.suffix.lower() == ".pgm" and "Ambient" not in p.name]
        train = set(sorted(faces, key=_drawn)[:TRAIN])
        for path in faces:
            yield Item(path, person.name, {}, "train" if path in train else "test")


def _drawn(path: Path) -> str:
    """An order of the files that is the same everywhere, and has nothing to do with the light."""
    return hashlib.sha256(path.name.encode()).hexdigest()
