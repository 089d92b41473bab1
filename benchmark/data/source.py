"""Data sets as plug-ins: a file `ID.py` in `benchmark/data/sources/`, or in `data/` of the user's project.

    source = Source(title="...", terms="...", get="...", views={"32": (3, 32, 32)})

    def read(folder):
        yield Item(path, label, {"gender": 1}, "train")

The call `Source(...)` has literals alone and is read from the syntax tree: listing data sets runs no code of theirs. `read` runs
in the judge's process, when the data set is prepared and never later. What a protocol pins is the digest of the prepared
arrays, so a file that is added or changed re-keys nothing.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark import places, reading
from benchmark.data.dataset import DataError
from benchmark.digests import tree_digest
from benchmark.errors import UserError, suggest

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Ids of data sets."""
VIEW = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of views. They are names of folders, too."""
SIDE = 4096
"""Pixels of a side at most."""
PACKAGED = Path(__file__).parent / "sources"


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read."""

    title: str
    terms: str
    """The licence, or what is known of it."""
    get: str
    """How to get the files, for a human."""
    views: Mapping[str, tuple[int, int, int]]
    """Shapes (channels, height, width) by the name of the view. Channels: 1 (grey) or 3 (RGB)."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the labels; (): as the files say, in alphabetical order."""
    attributes: Mapping[str, int] = field(default_factory=dict)
    """How many values each attribute has."""
    simple: Mapping[str, Any] = field(default_factory=lambda: {"pad": 4, "flip": True})
    """The augmentation "simple": pixels of padding before a random crop, and whether a mirrored image still shows its class."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """What the publisher has, where it is known: numbers of `images`, of `classes`, and of images in the parts `train` and `test`. For
    estimates and rehearsals before the data are here; nothing is held to it."""
    installed: bool = False
    """Whether `read(None)` finds the files by itself, where a package of the system has put them."""


class Item(NamedTuple):
    """One image of a data set, as `read` yields it."""

    image: Path | bytes | NDArray[np.uint8]
    """An image file, its bytes, or an array (h, w) or (h, w, 3)."""
    label: int | str
    """The class: its number, or its name."""
    attributes: Mapping[str, int | None] = {}
    """Values from 0; None where the files do not say."""
    part: str = ""
    """The publisher's part, such as "train"; "" where there are none."""


@dataclass(frozen=True)
class Plugin:
    """A file with a data set. `error` says what is wrong with it, in one line; `source` is None then."""

    id: str
    path: Path
    source: Source | None
    digest: str
    error: str = ""

    @property
    def own(self) -> bool:
        """Whether it is the user's, and not of the package."""
        return self.path.parent != PACKAGED

    def read(self, folder: Path | None) -> Iterable[Item]:
        """The items that the file's `read` yields. Runs the file. Raises DataError where it fails."""
        spec = importlib.util.spec_from_file_location(f"leakboard_data_{self.id}", self.path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            yield from module.read(folder)
        except UserError:
            raise
        except Exception as error:
            at = error.__traceback__
            while at and at.tb_next:
                at = at.tb_next
            where = f"{at.tb_frame.f_code.co_filename}, line {at.tb_lineno}" if at else str(self.path)
            raise DataError(
                f"{self.path}: read({str(folder)!r}): {type(error).__name__}: {error} ({where}); is this the folder of {self.id}?"
            ) from error


def plugins() -> dict[str, Plugin]:
    """All data sets by id: the package's, then the user's own. Runs none of their code."""
    found = {p.stem: plugin(p) for p in sorted(PACKAGED.glob("*.py")) if p.stem != "__init__"}
    for path in sorted(places.sources().glob("*.py")):
        if path.stem in found:
            found[path.stem] = Plugin(
                path.stem, path, None, "", f"{path}: expected another name, given that of a data set of the package"
            )
        elif "Source(" in reading.text(path, 1 << 20, "a data set's file"):  # other Python files may lie there too
            found[path.stem] = plugin(path)
    return found


def find(id: str) -> Plugin:
    """The data set of this id. Raises DataError for an unknown one, and for a file that is broken."""
    known = plugins()
    if id not in known:
        raise DataError(f"unknown data set {id!r}{suggest(id, known)}")
    if known[id].error:
        raise DataError(known[id].error)
    return known[id]


def plugin(path: Path) -> Plugin:
    """The data set in a file, read without running it."""
    try:
        text = reading.text(path, 1 << 20, "a data set's file")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: expected Python, given: {error}") from None
        return Plugin(path.stem, path, _source(tree, path), tree_digest(tree))
    except UserError as error:
        return Plugin(path.stem, path, None, "", str(error))


def _source(tree: ast.Module, path: Path) -> Source:
    """The `source = Source(...)` of a syntax tree. Raises UserError for what is no literal, and for values that do not fit."""
    if not NAME.fullmatch(path.stem):
        raise UserError(
            f"{path}: expected a file name of a letter, then a-z, 0-9 and _, at most 64 in all, given {path.stem!r}"
        )
    call = None
    for statement in tree.body:
        match statement:
            case ast.Assign(
                targets=[ast.Name(id="source")], value=ast.Call(func=ast.Name(id="Source"), args=[]) as given
            ):
                call = given
    if call is None:
        raise UserError(f"{path}: expected source = Source(title=..., ...) at the top level, given none")
    names = [f.name for f in fields(Source)]
    values = {}
    for keyword in call.keywords:
        if keyword.arg not in names:
            raise UserError(
                f"{path}: line {keyword.value.lineno}: Source has no {keyword.arg}{suggest(str(keyword.arg), names)}"
            )
        try:
            values[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise UserError(
                f"{path}: line {keyword.value.lineno}: {keyword.arg}: expected a literal, given an expression that would have to run"
            ) from None
    try:
        source = Source(**values)
    except TypeError as error:
        raise UserError(f"{path}: line {call.lineno}: {error}".replace("Source.__init__()", "Source")) from None
    for name, fits, expected in _checks(source):
        if not fits:
            raise UserError(f"{path}: line {call.lineno}: {name}: expected {expected}, given {getattr(source, name)!r}")
    return source


def _checks(source: Source) -> Iterable[tuple[str, bool, str]]:
    """Each field, whether its value fits, and what is expected."""
    for name in ("title", "terms", "get"):
        value = getattr(source, name)
        yield name, isinstance(value, str) and 0 < len(value) <= 2000, "a text"
    yield (
        "views",
        isinstance(source.views, dict)
        and bool(source.views)
        and all(
            isinstance(view, str) and VIEW.fullmatch(view) and _is_shape(shape) for view, shape in source.views.items()
        ),
        f'{{"NAME": (CHANNELS, HEIGHT, WIDTH)}} with 1 or 3 channels and sides of 1 to {SIDE}',
    )
    yield (
        "classes",
        isinstance(source.classes, tuple) and all(isinstance(c, str) for c in source.classes),
        "a tuple of names",
    )
    yield (
        "attributes",
        isinstance(source.attributes, dict)
        and all(
            isinstance(name, str) and NAME.fullmatch(name) and type(k) is int and 2 <= k <= 1000
            for name, k in source.attributes.items()
        ),
        '{"name": NUMBER OF VALUES}, from 2 to 1000',
    )
    yield (
        "expected",
        isinstance(source.expected, dict)
        and set(source.expected) <= {"images", "classes", "train", "test"}
        and all(type(n) is int and n > 0 for n in source.expected.values()),
        '{"images": NUMBER, "classes": NUMBER, "train": NUMBER, "test": NUMBER}, or some of them',
    )
    yield "installed", isinstance(source.installed, bool), "True or False"
    yield (
        "simple",
        (
            isinstance(source.simple, dict)
            and set(source.simple) == {"pad", "flip"}
            and type(source.simple["pad"]) is int
            and 0 <= source.simple["pad"] <= SIDE
            and isinstance(source.simple["flip"], bool)
        ),
        '{"pad": PIXELS, "flip": True or False}',
    )


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) == 3
        and all(type(side) is int and 1 <= side <= SIDE for side in shape)
        and shape[0] in (1, 3)
    )
