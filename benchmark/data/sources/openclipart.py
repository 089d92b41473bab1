"""Ten kinds of drawings from the Open Clip Art Library, as Debian packages them: small, in colour, in the public domain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.data.layouts import existing, image_files
from benchmark.data.source import Item, Source

source = Source(
    title="Open Clip Art, ten classes",
    terms="public domain",
    get="`apt install openclipart-png`, or the folder usr/share/openclipart/png of that package",
    views={"32": (3, 32, 32), "32-grey": (1, 32, 32)},
    classes=(
        "animals",
        "computer",
        "food",
        "geography",
        "office",
        "people",
        "recreation",
        "signs_and_symbols",
        "tools",
        "transportation",
    ),
    installed=True,
)
INSTALLED = Path("/usr/share/openclipart/png")
EACH = 480
"""Images of a class at most, the first by name."""
HUGE = "stop_sign_right_font_mig_.png"
"""One drawing of 623 million pixels, which would take 2.5 GB to decode."""


def read(folder: Path | None) -> Iterator[Item]:
    """The drawings by class. Folders of stars, which are hundreds of one shape, are passed over."""
    if folder is None:
        folder = existing(INSTALLED.parent, INSTALLED.name)
    for name in source.classes:
        files = [p for p in image_files(existing(folder, name)) if "stars" not in p.parts and p.name != HUGE]
        for path in files[:EACH]:
            yield Item(path, name)
