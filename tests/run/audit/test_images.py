"""Images of members and non-members: folders and arrays, labels by name, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmark.errors import UserError
from benchmark.run.audit import images
from tests.run.audit import pictures

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)


def folder(root: Path, rows: range, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    for i in rows:
        (root / names[i % len(names)]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[i]).save(root / names[i % len(names)] / f"{i:03}.png")
    return root


def test_a_folder_has_a_class_in_each_folder(tmp_path: Path) -> None:
    inside, outside = folder(tmp_path / "in", range(40)), folder(tmp_path / "out", range(40, 100))
    data = images.load(inside, outside, 2, 8, 3)
    assert data.shape == (3, 8, 8) and data.members.sum() == 40 and len(data.y) == 100
    assert data.ids is not None
    for image, label, name in zip(data.x, data.y, data.ids, strict=True):
        number = int(Path(name).stem)
        assert label == number % 2 and torch.equal(
            (image * 255).round().byte(), torch.from_numpy(PIXELS[number]).permute(2, 0, 1)
        )
    assert images.load(inside, outside, 2, 4, 1).shape == (1, 4, 4)


def test_names_of_classes_are_numbered_over_both_sides(tmp_path: Path) -> None:
    inside = folder(tmp_path / "in", range(40), ("cat", "emu"))
    outside = folder(tmp_path / "out", range(40, 80), ("dog", "emu"))
    data = images.load(inside, outside, 3, 8, 3)
    assert {*data.y[data.members]} == {0, 2} and {*data.y[~data.members]} == {1, 2}
    with pytest.raises(
        UserError, match=r"expected 4 class folders over both sides, as --classes says, given 3: cat, dog, emu"
    ):
        images.load(inside, outside, 4, 8, 3)
    numbered = folder(tmp_path / "a", range(40), ("1", "3")), folder(tmp_path / "b", range(40, 80), ("1", "3"))
    assert {*images.load(*numbered, 4, 8, 3).y} == {1, 3}
    with pytest.raises(UserError, match="expected labels from 0 to 1, as --classes says, given 1 to 3"):
        images.load(*numbered, 2, 8, 3)


@pytest.mark.parametrize("form", ["last", "first", "float", "grey"])
def test_arrays_are_taken_in_every_usual_form(tmp_path: Path, form: str) -> None:
    x = {
        "last": PIXELS, "first": PIXELS.transpose(0, 3, 1, 2), "float": PIXELS.astype(np.float32) / 255, "grey": PIXELS[..., 0],
    }[form]  # fmt: skip
    for name, rows in (("in", slice(0, 60)), ("out", slice(60, 120))):
        np.savez(tmp_path / f"{name}.npz", x=x[rows], y=np.arange(60) % 2)
    data = images.load(tmp_path / "in.npz", tmp_path / "out.npz", 2, None, 3)
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)[:, : 1 if form == "grey" else 3].float() / 255
    assert torch.allclose(data.x, expected, atol=1e-7) and data.ids is None
    assert data.cells(4).shape == (120, 16 * data.shape[0])


def of(x: np.ndarray, inside: int = 60) -> images.Images:
    return images.of_arrays(x, np.arange(len(x)) % 2, np.arange(len(x)) < inside)


def test_an_image_on_both_sides_is_refused_with_how_many() -> None:
    x = PIXELS.copy()
    x[100:103] = x[:3]
    with pytest.raises(UserError, match="expected members that are no non-members, given 3 images on both sides"):
        of(x)


def test_equal_images_on_one_side_and_a_bad_model_are_warnings() -> None:
    x = PIXELS.copy()
    x[1:3] = x[0]
    twice, accuracy = images.checks(of(x), answers(np.ones(120, bool), 0.9))
    assert twice.state == "warning" and twice.found.startswith("2 images equal") and accuracy.state == "ok"
    _, accuracy = images.checks(of(PIXELS), answers(np.arange(120) % 10 < 3, 0.6))
    assert accuracy.state == "warning" and "--mean" in accuracy.effect


def test_a_model_that_is_sure_of_other_classes_makes_the_verdict_unclear() -> None:
    """A forgotten normalisation: right on a fifth of its members, and sure of the wrong class on the others."""
    _, accuracy = images.checks(of(PIXELS), answers(np.arange(120) % 5 == 0, 1 - 1e-8))
    assert (
        accuracy.state == "broken" and "18.4 nats" in accuracy.found and accuracy.why == "it does not know its members"
    )


def answers(right: np.ndarray, sure: float) -> np.ndarray:
    """Log-posteriors (n, 2) of a model that is so sure of its answers, for the labels of `of`."""
    predicted = np.where(right, np.arange(len(right)) % 2, 1 - np.arange(len(right)) % 2)
    return np.log(np.where(np.eye(2)[predicted] == 1, sure, 1 - sure))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": np.arange(120) % 2 + 0.7}, "y: expected a whole number"), ({"y": np.full(120, np.nan)}, "y: expected a whole number"),
        ({"y": np.array(["0", "1"] * 60)}, "y: expected a whole number"),
        ({"members": np.array([1, -1] * 60)}, "members: expected 0 or 1"), ({"members": np.arange(60)}, "members: expected shape"),
        ({"members": np.array(["1", "0"] * 60)}, "members: expected 0 or 1"),
    ],
)  # fmt: skip
def test_labels_and_memberships_of_arrays_are_not_bent(changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        images.of_arrays(**{"x": PIXELS, "y": np.arange(120) % 2, "members": np.arange(120) < 60} | changed)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (PIXELS[:80], "expected at least 25 non-members, given 20"),
        (PIXELS.astype(np.int64), "expected uint8, or floats in"),
        (PIXELS.astype(np.float32), r"expected pixels in \[0, 1\], given 0 to 255"),
        (np.full((120, 8, 8), np.nan, np.float32), r"expected pixels in \[0, 1\], given nan"),
        (PIXELS[..., :2], r"of 1 or 3 channels, given \(120, 8, 8, 2\)"),
        (PIXELS[:, 0, 0], "expected images"),
    ],
)  # fmt: skip
def test_what_are_no_images_is_refused_in_one_line(x: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        of(x)
    assert "\n" not in str(told.value)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    inside, outside = folder(tmp_path / "in", range(40)), folder(tmp_path / "out", range(40, 80))
    (outside / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png: expected an image that can be decoded"):
        images.load(inside, outside, 2, 8, 3)
    with pytest.raises(UserError, match="gone: expected a folder of class folders"):
        images.load(inside, tmp_path / "gone", 2, 8, 3)
    (tmp_path / "m.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"m\.npz: expected an npz of plain arrays"):
        images.load(tmp_path / "m.npz", outside, 2, 8, 3)
    np.savez(tmp_path / "m.npz", x=PIXELS[:40], z=np.arange(40))
    with pytest.raises(UserError, match=r"m\.npz: expected arrays x and y \(or images and labels\), given x, z"):
        images.load(tmp_path / "m.npz", outside, 2, 8, 3)
    np.savez(tmp_path / "m.npz", x=PIXELS[:40], y=np.arange(40) % 2)
    with pytest.raises(UserError, match=r"expected images 32x32 as --view says, given 8x8"):
        images.load(tmp_path / "m.npz", outside, 2, 32, 3)
    with pytest.raises(UserError, match=r"expected images of one shape on both sides"):
        images.load(tmp_path / "m.npz", inside, 2, None, 3)


@pytest.mark.parametrize(
    ("inside", "outside", "said"),
    [
        ([0, 1], ["cat", "dog"], "expected labels of one kind"), ([0, 1], ["0", "9" * 400], "expected labels of one kind"),
        ([0.5], [1.0], "whole numbers or names, given 0.5"), ([None], [0], "whole numbers or names, given None"), ([True], [0], "given True"),
        ([0, 2**70], [1], "expected labels from 0 to 3"), (["0", "7"], ["1", "2"], "expected labels from 0 to 3"),
    ],
)  # fmt: skip
def test_labels_that_are_no_classes_end_in_one_line(inside: list[Any], outside: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        images._numbered([*inside, *outside], 4)


# --- An attribute -----------------------------------------------------------------------------------


def _parquet(path: Path, side: slice, **columns: object) -> Path:
    x, y, _ = pictures.digits()

    def encoded(image: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        return stream.getvalue()

    pq.write_table(pa.table({"image": [encoded(i) for i in x[side]], "label": y[side], **columns}), path)
    return path


def test_an_attribute_is_read_from_an_array_or_a_column(tmp_path: Path) -> None:
    x, y, members = pictures.digits()
    texts = np.where(np.arange(120) % 3 == 0, "Kiel", "Bonn")
    for name, side in (("in", members), ("out", ~members)):
        np.savez(
            tmp_path / f"{name}.npz",
            x=x[side],
            y=y[side],
            a=5 * (np.arange(120) % 2)[side],
            site=texts[side],
            f=y[side] / 2,
        )
        half = slice(0, 60) if name == "in" else slice(60, 120)
        _parquet(tmp_path / f"{name}.parquet", half, a=5 * (np.arange(120) % 2)[half], site=texts[half], f=y[half] / 2)
    for suffix in ("npz", "parquet"):
        sides = [tmp_path / f"{name}.{suffix}" for name in ("in", "out")]
        plain, sites = (images.load(*sides, 10, 8, 1, name) for name in ("", "site"))
        assert plain.attribute is not None and (plain.attribute == np.arange(120) % 2).all(), "numbered by its values"
        assert sites.attribute is not None and (sites.attribute == (np.arange(120) % 3 == 0)).all()
        with pytest.raises(
            UserError, match=r"--attribute: expected 'sex' as an array of .npz or a column of .parquet, given .*site"
        ):
            images.load(*sides, 10, 8, 1, "sex")
        with pytest.raises(
            UserError, match="f: expected a whole number or a text for each of 60 images, given float64"
        ):
            images.load(*sides, 10, 8, 1, "f")
    np.savez(tmp_path / "bare.npz", x=x[~members], y=y[~members])
    with pytest.raises(
        UserError, match="expected the attribute 'a' on both sides or on none, given it for members alone"
    ):
        images.load(tmp_path / "in.npz", tmp_path / "bare.npz", 10, None, 1)
    np.savez(tmp_path / "other.npz", x=x[members], y=y[members], a=y[members] / 2)
    assert images.load(tmp_path / "other.npz", tmp_path / "bare.npz", 10, None, 1).attribute is None, "no attribute"
    np.savez(tmp_path / "words.npz", x=x[~members], y=y[~members], a=texts[~members])
    with pytest.raises(UserError, match="as numbers or as texts on both sides, given both kinds"):
        images.load(tmp_path / "in.npz", tmp_path / "words.npz", 10, None, 1)


def test_class_folders_have_no_attribute(tmp_path: Path) -> None:
    x, y, _ = pictures.digits()
    for i, image in enumerate(x):
        folder = tmp_path / ("in" if i < 60 else "out") / str(y[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    assert images.load(tmp_path / "in", tmp_path / "out", 10, 8, 1).attribute is None
    with pytest.raises(UserError, match="given a folder of class folders in in"):
        images.load(tmp_path / "in", tmp_path / "out", 10, 8, 1, "a")


def test_an_attribute_from_python_is_checked() -> None:
    x, y, members = pictures.digits()
    assert images.of_arrays(x, y, members).attribute is None
    found = images.of_arrays(x, y, members, torch.from_numpy(y + 7)).attribute
    assert found is not None and (found == y).all()
    with pytest.raises(
        UserError,
        match=r"attribute: expected a whole number or a text for each of 120 images, given int64 of shape \(119,\)",
    ):
        images.of_arrays(x, y, members, y[1:])
