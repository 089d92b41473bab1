"""Intake: the files of a data set become plain arrays, once (`benchmark.data.prepared` has the layout).

Two passes over the source. The first reads labels, attributes and parts, and refuses what can't be used before any image is
decoded. The second decodes chunks in worker processes and appends them, in order, to one file: memory holds a few chunks and some
bytes an image. Every second the state is written, and a call that was killed is gone on with.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmark import places
from benchmark.data.attribute import above_class_median, thickness
from benchmark.data.dataset import DataError
from benchmark.data.prepared import MANIFEST, digest_of, stamps
from benchmark.data.source import Item, Plugin
from benchmark.digests import digest
from benchmark.errors import UserError, printable, suggest

Track = Callable[[Iterable[int], str, int], Iterable[int]]
"""Shows progress: passes the items on. Takes them, what is done, and how many there are."""

LEAST = 4
"""Images of a class at least: one for each part of the smallest split."""
WORKERS = 2
_CHUNK_BYTES, _CHUNK_IMAGES = 8 << 20, 128
_SECONDS_SAVED = 1.0
"""How often the state is written. A disk takes longer to confirm a write than two workers to decode a chunk."""
_ROW = np.dtype([("item", "<i8"), ("thickness", "<f8"), ("hash", "<u8")])
"""What is kept of each image until the end: its place in the source, its thickness, and a hash that near duplicates share."""
_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
"""Pillow's modes of 8 bits or less. Others, such as 16-bit grey, have no one way to 8 bits."""


@dataclass(frozen=True)
class Summary:
    """What became of a data set."""

    name: str
    folder: Path
    manifest: dict[str, Any]
    fresh: bool
    """Whether this call has prepared it; else it was there already."""


# --- One image --------------------------------------------------------------------------------------


def pixels(image: Path | bytes | NDArray[np.uint8], shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], str]:
    """The image as (c, h, w) uint8, and the mode that it had: "L" (grey), "RGB" and so on.

    It is turned as its EXIF says and laid on white where it is transparent; the largest centred rectangle of the view's proportions
    is scaled by Pillow's BOX filter. Raises ValueError for what can't be decoded.
    """
    channels, height, width = shape
    try:
        if isinstance(image, np.ndarray):
            opened = Image.fromarray(image)
        else:
            opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        mode = opened.mode
        # A JPEG far larger than the view is decoded at a half, a quarter or an eighth of its size, never below twice the view's.
        opened.draft(None, (2 * max(height, width),) * 2)
        if mode not in _MODES:
            raise ValueError(f"expected 8 bits a channel, given Pillow's mode {mode}; convert it")
        ImageOps.exif_transpose(opened, in_place=True)
        decoded: Image.Image = opened
        if "A" in mode or "a" in mode or "transparency" in decoded.info:
            above = decoded.convert("RGBA")
            decoded = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
        wanted = "L" if channels == 1 else "RGB"
        if decoded.mode != wanted:  # `convert` to the same mode copies
            decoded = decoded.convert(wanted)
    except (OSError, SyntaxError, EOFError, UnidentifiedImageError, Image.DecompressionBombError, TypeError) as error:
        raise ValueError(f"expected an image that can be decoded, given: {printable(str(error), 200)}") from None
    if decoded.size != (width, height):
        decoded = decoded.resize((width, height), Image.Resampling.BOX, _centre(decoded.size, width, height))
    array = np.asarray(decoded)
    return (array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))), mode


def _centre(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """The largest centred rectangle (left, upper, right, lower) of these proportions."""
    w, h = size
    cut_w, cut_h = min(w, max(1, round(h * width / height))), min(h, max(1, round(w * height / width)))
    left, upper = (w - cut_w) // 2, (h - cut_h) // 2
    return left, upper, left + cut_w, upper + cut_h


def near_hashes(x: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes (n,) of 64 bits that scaled, recompressed or slightly brightened copies of images (n, c, h, w) share.

    Each bit says whether one of 8 x 9 grey cells is brighter than its left neighbour (the difference hash).
    """
    cells = _cells(x.shape[2], 8) @ x.mean(1) @ _cells(x.shape[3], 9).T
    levels = np.rint(cells).astype(np.int16)  # whole grey levels: sums of another order give the same
    return np.packbits(levels[:, :, 1:] > levels[:, :, :-1], axis=2).reshape(len(x), 8).view("<u8")[:, 0]


@cache
def _cells(pixels: int, cells: int) -> NDArray[np.float64]:
    """Weights (cells, pixels) of the mean over each of so many equal stretches of a line of pixels."""
    edges, places = np.linspace(0, pixels, cells + 1), np.arange(pixels)
    inside = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    weights: NDArray[np.float64] = np.clip(inside, 0, None) * cells / pixels
    return weights


@dataclass(frozen=True)
class _Chunk:
    """Decoded images: those that failed have a message instead of pixels."""

    x: NDArray[np.uint8]
    failed: dict[int, str]
    """Messages by place in the chunk."""
    modes: dict[str, int]
    thickness: NDArray[np.float64]
    hashes: NDArray[np.uint64]


def _decode(images: list[Path | bytes | NDArray[np.uint8]], shape: tuple[int, int, int]) -> _Chunk:
    """Runs in a worker process."""
    x, failed, modes = np.zeros((len(images), *shape), np.uint8), {}, Counter[str]()
    for i, image in enumerate(images):
        try:
            x[i], mode = pixels(image, shape)
            modes[mode] += 1
        except ValueError as error:
            failed[i] = str(error)
    return _Chunk(x, failed, dict(modes), thickness(x), near_hashes(x))


def _begin_worker() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when that is gone, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from twice that size on it is an error
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --- A whole data set -------------------------------------------------------------------------------


def prepare(
    plugin: Plugin,
    view: str | None,
    folder: Path | None,
    *,
    skip_damaged: bool = False,
    track: Track = lambda items, what, total: items,
    workers: int = WORKERS,
    chunk: int | None = None,
) -> Summary:
    """Prepare a view of a data set from the files in `folder`, or go on where a call was stopped.

    `view`: None for the only one. `folder`: None where the files lie at a known place. `chunk`: images a chunk, for tests. Raises
    DataError for files that can't be used: a damaged image (named; left out and counted with `skip_damaged`), a class with fewer
    than LEAST images, an attribute that is missing.
    """
    source = plugin.source
    assert source is not None
    if view is None and len(source.views) > 1:
        raise UserError(f"{plugin.id}: expected --view with one of {', '.join(source.views)}, given none")
    view = view or next(iter(source.views))
    if view not in source.views:
        raise UserError(f"{plugin.id}: --view: unknown view {view!r}{suggest(view, source.views)}")
    if folder is not None and not folder.exists():
        raise UserError(
            f"--from: expected a folder, given {str(folder)!r}, which does not exist. How to get it: {source.get}"
        )
    if folder is None and not source.installed:
        raise UserError(f"{plugin.id}: expected --from DIR, given none. How to get it: {source.get}")
    target = places.prepared() / plugin.id / view
    draft = target.with_name(f".{view}.partial")
    draft.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target.with_name(f".{view}.lock"), timeout=0):
            return _Intake(plugin, view, folder, skip_damaged, track, workers, chunk, target, draft).run()
    except Timeout:
        raise UserError(f"{plugin.id}/{view}: another process prepares it now; wait for it") from None
    finally:
        if draft.is_dir() and not any(draft.iterdir()):
            draft.rmdir()


@dataclass
class _Intake:
    plugin: Plugin
    view: str
    folder: Path | None
    skip_damaged: bool
    track: Track
    workers: int
    chunk: int | None
    target: Path
    draft: Path

    def run(self) -> Summary:
        assert self.plugin.source is not None
        self.source, self.name = self.plugin.source, f"{self.plugin.id}/{self.view}"
        self.shape = self.source.views[self.view]
        self.inside = (
            "" if self.folder in (None, Path()) else str(self.folder / "_")[:-1]
        )  # what paths inside begin with
        self._survey()
        if (self.target / MANIFEST).is_file():
            manifest = json.loads((self.target / MANIFEST).read_text("utf-8"))
            if manifest["made_from"] != self.made_from:
                raise UserError(
                    f"{self.name}: expected the files that it was prepared from, given others (or another source file, or "
                    f"--skip-damaged); delete {places.brief(self.target)} to prepare it anew"
                )
            return Summary(self.name, self.target, manifest, fresh=False)
        shutil.rmtree(self.target, ignore_errors=True)  # without a manifest it is nothing
        self._decode_all()
        return Summary(self.name, self.target, self._finish(), fresh=True)

    def _items(self) -> Iterable[Item]:
        return self.plugin.read(self.folder)

    def _survey(self) -> None:
        """The first pass: labels, attributes and parts of all items, and a digest that says what the data are made from."""
        labels: list[int | str] = []
        self.values: dict[str, list[int]] = {name: [] for name in self.source.attributes}
        parts: list[str] = []
        state = hashlib.sha256()
        for i, item in enumerate(self._items()):
            named = self._named(item, i)
            for name, k in self.source.attributes.items():
                value = item.attributes.get(name)
                if value is None or not 0 <= value < k:
                    raise DataError(
                        f"{self.name}: {named}: attribute {name}: expected 0 to {k - 1}, given {'none' if value is None else value}"
                    )
                self.values[name].append(int(value))
            labels.append(item.label)
            parts.append(item.part)
            state.update(f"{named}\0{item.label}\0{item.part}\0{sorted(item.attributes.items())}\n".encode())
        self.labels, self.classes = self._numbered(labels)
        self.parts = tuple(sorted(set(parts), key=parts.index))
        self.official = np.array([self.parts.index(p) for p in parts], np.int64)
        self._enough(self.labels, "")
        self.made_from = digest(self.plugin.digest, self.shape, state.hexdigest(), self.skip_damaged)

    def _named(self, item: Item, i: int) -> str:
        """How messages name an item: a file by its path from `--from` on, another by its number."""
        if not isinstance(item.image, Path):
            return f"image {i} (counted from 0)"
        path = str(item.image)
        return path.removeprefix(self.inside) if self.inside else path

    def _numbered(self, labels: list[int | str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Labels (n,) int64, and the names of the classes. Raises DataError for labels of no class."""
        if not labels:
            raise DataError(
                f"{self.name}: expected images, given none in {self.folder}. How to get it: {self.source.get}"
            )
        given = set(labels)
        if len({type(label) for label in given}) > 1:
            raise DataError(f"{self.name}: labels: expected all numbers or all names, given both")
        classes = self.source.classes or tuple(
            map(str, range(max(given) + 1) if all(isinstance(g, int) for g in given) else sorted(given))  # type: ignore[arg-type,operator]
        )
        number: dict[int | str, int] = {name: k for k, name in enumerate(classes)} | dict(
            enumerate(range(len(classes)))
        )  # type: ignore[assignment]
        if unknown := sorted(map(str, given - set(number))):
            raise DataError(
                f"{self.name}: labels: expected {printable(', '.join(classes), 300)} or their numbers from 0, given {unknown[0]!r}"
            )
        return np.array([number[label] for label in labels], np.int64), classes

    def _enough(self, y: NDArray[np.int64], when: str) -> None:
        counts = np.bincount(y, minlength=len(self.classes))
        if few := [f"{self.classes[k]!r} has {n}" for k, n in enumerate(counts.tolist()) if n < LEAST]:
            raise DataError(
                f"{self.name}: expected at least {LEAST} images of each class, one for each part of a split; given{when}: "
                f"{printable(', '.join(few), 300)}. Add images, or leave the class out"
            )

    # --- The second pass ---

    @property
    def _state_file(self) -> Path:
        return self.draft / "state.json"

    def _fresh_state(self) -> dict[str, Any]:
        return {"made_from": self.made_from, "done": 0, "kept": 0, "damaged": [], "modes": {}}

    def _state(self) -> dict[str, Any]:
        """Where an earlier call stopped; a fresh state where there was none, or one on other files."""
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text("utf-8"))
            if (
                state["made_from"] == self.made_from
                and (self.draft / "images").stat().st_size >= state["kept"] * self._bytes
            ):
                return state
        except (OSError, ValueError, KeyError):
            pass
        for path in self.draft.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self._fresh_state()

    @property
    def _bytes(self) -> int:
        return int(np.prod(self.shape))

    def _chunks(self, done: int, size: int) -> Iterator[list[Item]]:
        items = islice(self._items(), done, None)
        while chunk := list(islice(items, size)):
            yield chunk

    def _decode_all(self) -> None:
        """Append all images that equal no earlier one to `images`, and what is known of each to `rows`."""
        state = self._state()
        size = self.chunk or max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // self._bytes))
        total = -(-(len(self.labels) - state["done"]) // size)
        seen = self._seen(state["kept"])
        with (
            (self.draft / "images").open("ab") as images,
            (self.draft / "rows").open("ab") as rows,
        ):
            images.truncate(state["kept"] * self._bytes)
            rows.truncate(state["kept"] * _ROW.itemsize)
            decoded, saved = self._decoded(self._chunks(state["done"], size)), time.monotonic()
            for _ in self.track(range(total), f"{self.name}: {size} images each", total):
                items, chunk = next(decoded)
                kept = self._kept(items, chunk, state, seen)
                images.write(chunk.x[kept].data)
                table = np.zeros(len(kept), _ROW)
                table["item"], table["thickness"] = state["done"] + np.array(kept, np.int64), chunk.thickness[kept]
                table["hash"] = chunk.hashes[kept]
                rows.write(table.tobytes())
                for name, n in chunk.modes.items():
                    state["modes"][name] = state["modes"].get(name, 0) + n
                state["done"] += len(items)
                state["kept"] += len(kept)
                if time.monotonic() - saved >= _SECONDS_SAVED or state["done"] == len(self.labels):
                    for file in (images, rows):
                        file.flush()
                        os.fsync(file.fileno())
                    _write(self._state_file, json.dumps(state))
                    saved = time.monotonic()
            if next(decoded, None) is not None or state["done"] != len(self.labels):
                raise DataError(
                    f"{self.name}: expected the same images twice, given others: the folder was changed meanwhile"
                )
        self.state = state

    def _decoded(self, chunks: Iterator[list[Item]]) -> Iterator[tuple[list[Item], _Chunk]]:
        """The chunks with their images decoded, in order; few are in work at a time."""
        with ProcessPoolExecutor(self.workers, initializer=_begin_worker) as pool:
            waiting: deque[tuple[list[Item], Future[_Chunk]]] = deque()
            try:
                for items in chunks:
                    waiting.append((items, pool.submit(_decode, [item.image for item in items], self.shape)))
                    if len(waiting) > self.workers + 1:
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _kept(self, items: list[Item], chunk: _Chunk, state: dict[str, Any], seen: set[bytes]) -> list[int]:
        """Places in the chunk of images that are whole and equal no earlier one. Raises DataError for damaged ones."""
        kept = []
        for i, item in enumerate(items):
            if i in chunk.failed:
                named = self._named(item, state["done"] + i)
                if not self.skip_damaged:
                    raise DataError(
                        f"{self.name}: {named}: {chunk.failed[i]}. Mend it or delete it; --skip-damaged leaves such images out, and counts them"
                    )
                state["damaged"].append(named)
                continue
            content = hashlib.blake2b(chunk.x[i], digest_size=16).digest()
            if content not in seen:
                seen.add(content)
                kept.append(i)
        return kept

    def _seen(self, kept: int) -> set[bytes]:
        """Digests of the images that are kept so far."""
        seen: set[bytes] = set()
        if kept:
            with (self.draft / "images").open("rb") as file:
                seen = {hashlib.blake2b(file.read(self._bytes), digest_size=16).digest() for _ in range(kept)}
        return seen

    # --- The end ---

    def _finish(self) -> dict[str, Any]:
        """Write the arrays, the manifest and the preview into the draft, and give it its name in one step."""
        rows = np.fromfile(self.draft / "rows", _ROW)
        kept = rows["item"]
        y = self.labels[kept]
        self._enough(y, " after equal and damaged images were left out")
        self._write_images(len(kept))
        np.save(self.draft / "y.npy", y)
        np.save(self.draft / "attribute.npy", above_class_median(rows["thickness"], y))
        np.save(self.draft / "official.npy", self.official[kept])
        (self.draft / "attributes").mkdir(exist_ok=True)
        values = {name: np.array(column, np.int64)[kept] for name, column in self.values.items()}
        for name, column in values.items():
            np.save(self.draft / "attributes" / f"{name}.npy", column)
        manifest = {
            "title": self.source.title, "terms": self.source.terms, "images": len(kept), "shape": self.shape,
            "classes": self.classes, "per_class": np.bincount(y, minlength=len(self.classes)).tolist(),
            "simple": dict(self.source.simple), "attributes": sorted(values),
            "attribute_counts": {name: np.bincount(v, minlength=self.source.attributes[name]).tolist() for name, v in values.items()},
            "parts": self.parts, "per_part": np.bincount(self.official[kept], minlength=len(self.parts)).tolist(),
            "duplicates": len(self.labels) - len(kept) - len(self.state["damaged"]),
            "near_duplicates": int(len(kept) - len(np.unique(rows["hash"]))),
            "damaged": self.state["damaged"], "modes": self.state["modes"], "made_from": self.made_from,
        }  # fmt: skip
        _preview(self.draft, y, len(self.classes))
        for name in ("rows", "state.json"):
            (self.draft / name).unlink()
        _write(self.draft / MANIFEST, json.dumps(manifest))
        manifest |= {"digest": digest_of(self.draft), "files": stamps(self.draft)}
        _write(self.draft / MANIFEST, json.dumps(manifest, indent=1))
        self.draft.rename(self.target)
        return dict(json.loads((self.target / MANIFEST).read_text("utf-8")))

    def _write_images(self, n: int) -> None:
        """`images` gets the header of an .npy file, copied in blocks: the file may be larger than memory."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *self.shape)}
        with (self.draft / "images").open("rb") as source, (self.draft / "x.npy").open("wb") as x:
            np.lib.format.write_array_header_1_0(x, header)
            shutil.copyfileobj(source, x, 1 << 22)
            x.flush()
            os.fsync(x.fileno())
        (self.draft / "images").unlink()


def _write(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees the old one or the new one."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, "utf-8")
    os.replace(draft, path)


def _preview(folder: Path, y: NDArray[np.int64], classes: int) -> None:
    """preview.png: ten images of each of the first twenty classes, a row a class, on grey."""
    x = np.load(folder / "x.npy", mmap_mode="r")
    scale = max(1, 48 // x.shape[2])
    h, w = x.shape[2] * scale + 2, x.shape[3] * scale + 2
    shown = min(classes, 20)
    sheet = Image.new("RGB", (10 * w, shown * h), "grey")
    for k in range(shown):
        for column, i in enumerate(np.flatnonzero(y == k)[:10].tolist()):
            image = x[i]
            picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).convert("RGB")
            sheet.paste(picture.resize((w - 2, h - 2), Image.Resampling.NEAREST), (column * w + 1, k * h + 1))
    sheet.save(folder / "preview.png")
