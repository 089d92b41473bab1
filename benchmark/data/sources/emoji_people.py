"""People of an emoji font: the class is the skin tone, the attribute whether a man or a woman is drawn. A small twin of UTKFace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.data.dataset import DataError
from benchmark.data.source import Item, Source

source = Source(
    title="Emoji people (Noto Color Emoji)",
    terms="SIL Open Font License 1.1",
    get="`apt install fonts-noto-color-emoji unicode-data`, or a folder with NotoColorEmoji.ttf and emoji-test.txt",
    views={"32": (3, 32, 32)},
    classes=("light", "medium-light", "medium", "medium-dark", "dark"),
    attributes={"gender": 2},
    installed=True,
)
INSTALLED = {
    "NotoColorEmoji.ttf": Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    "emoji-test.txt": Path("/usr/share/unicode/emoji/emoji-test.txt"),
}
TONES = range(0x1F3FB, 0x1F400)
GENDERS = ({0x2642, 0x1F468}, {0x2640, 0x1F469})
"""Signs of a man, and of a woman."""
SIZE, CANVAS = 109, (136, 128)
"""The only size that the font has pictures of, and the size of these."""


def read(folder: Path | None) -> Iterator[Item]:
    """All fully qualified sequences of one person: one skin tone, and a man or a woman."""
    from PIL import Image, ImageDraw, ImageFont, features

    if not features.check("raqm"):
        raise DataError(
            "emoji_people: expected Pillow with raqm, which joins sequences into one picture; its wheels have it"
        )
    font_file, names = ((path if folder is None else folder / name) for name, path in INSTALLED.items())
    try:
        font = ImageFont.truetype(font_file, SIZE)
        lines = names.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{font_file} and {names}: expected files that can be read, given: {error}; {source.get}"
        ) from error
    for line in lines:
        codes, _, rest = line.partition(";")
        if not rest.strip().startswith("fully-qualified"):
            continue
        sequence = [int(code, 16) for code in codes.split()]
        tones = [code for code in sequence if code in TONES]
        genders = [i for i, signs in enumerate(GENDERS) if signs & set(sequence)]
        if len(tones) != 1 or len(genders) != 1:
            continue
        picture = Image.new("RGB", CANVAS, "white")
        ImageDraw.Draw(picture).text((0, 0), "".join(map(chr, sequence)), font=font, embedded_color=True)
        yield Item(np.asarray(picture), tones[0] - TONES.start, {"gender": genders[0]})
