"""UTKFace (Zhang et al. 2017): over 20,000 faces; age, gender and race are in the names of the files.

As in ML-DOCTOR the class is the race and the attribute the gender; files whose names lack one of the three are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmark.data.dataset import DataError
from benchmark.data.layouts import image_files
from benchmark.data.source import Item, Source

source = Source(
    title="UTKFace, aligned and cropped",
    terms="non-commercial research only",
    get="UTKFace.tar.gz (aligned and cropped faces) from https://susanqq.github.io/UTKFace/, unpacked; --from names the folder of the images",
    views={"32": (3, 32, 32), "200": (3, 200, 200)},
    classes=("White", "Black", "Asian", "Indian", "Others"),
    attributes={"gender": 2},
    expected={"images": 23_705, "classes": 5},
)
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+")


def read(folder: Path) -> Iterator[Item]:
    """The faces by file name: AGE_GENDER_RACE_DATE.jpg."""
    empty = True
    for path in image_files(folder):
        if found := NAME.match(path.name):
            empty = False
            yield Item(path, int(found[3]), {"gender": int(found[2])})
    if empty:
        raise DataError(f"{folder}: expected images named AGE_GENDER_RACE_DATE.jpg, given none")
