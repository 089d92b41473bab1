"""Canaries in class folders and in arrays: who is in is what the secret says, and what can't be planted ends in one line."""

from __future__ import annotations

import csv
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.run.audit.canary_secret import SECRET, Kind, read_secret
from benchmark.run.audit.planting import plant

SEED = "5a" * 32
N = 120


def images(n: int = N) -> tuple[Any, Any]:
    """Images that are all different, of three classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (n, 4, 5), np.uint8), np.arange(n) % 3


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    x, y = images()
    np.savez(tmp_path / "data.npz", images=x, labels=y)
    return tmp_path / "data.npz"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders: images of one name in every class, of two sizes, some of them a level deeper."""
    x, y = images()
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        path = tmp_path / "data" / "abc"[label] / ("deeper" if i % 7 == 0 else "") / f"{i // 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image if i % 2 else image[:3]).save(path)
    return tmp_path / "data"


def rows(x: Any) -> list[bytes]:
    return [np.ascontiguousarray(image).tobytes() for image in x]


@pytest.mark.parametrize("kind", ["mislabelled", "noise"])
def test_arrays_hold_what_the_secret_says(arrays: Path, tmp_path: Path, kind: Kind) -> None:
    x, y = images()
    done = plant(arrays, 40, tmp_path / "out", SEED, kind)
    train, canaries = np.load(done.train), np.load(done.canaries)
    assert sorted(train.files) == sorted(canaries.files) == ["images", "labels"]
    secret = read_secret(done.secret_file)
    assert secret == done.secret and secret.labels == canaries["labels"].tolist()
    given, planted = dict(zip(rows(x), y, strict=True)), rows(canaries["images"])
    trained = list(zip(rows(train["images"]), train["labels"].tolist(), strict=True))
    assert len({*planted}) == 40 == len(secret.labels)
    for image, label, inside in zip(planted, secret.labels, secret.included, strict=True):
        assert ((image, label) in trained) == bool(inside)
        assert (image in given) == (kind == "mislabelled") and given.get(image) != label
    others = [(image, label) for image, label in trained if image not in planted]
    left = [(image, label) for image, label in given.items() if image not in planted]
    assert sorted(others) == sorted(left), "no other image is touched"
    assert done.images == len(trained) == len(left) + sum(secret.included)
    last = [image in planted for image, _ in trained[-sum(secret.included) :]]
    assert not all(last), "their place marks no canary"
    assert train["images"].dtype == np.uint8 and canaries["images"].shape == (40, 4, 5)
    assert secret.guesses == 8


@pytest.mark.parametrize("kind", ["mislabelled", "noise"])
def test_class_folders_hold_what_the_secret_says(folders: Path, tmp_path: Path, kind: Kind) -> None:
    given = {p.relative_to(folders): p.read_bytes() for p in folders.rglob("*.png")}
    done = plant(folders, 40, tmp_path / "out", SEED, kind, share=0.5)
    secret = read_secret(done.secret_file)
    with done.canaries.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(r["label"]) for r in table] == secret.labels and secret.guesses == 20
    trained = {p.relative_to(done.train): p.read_bytes() for p in done.train.rglob("*.png")}
    assert len(trained) == done.images
    planted = {(tmp_path / "out" / "canaries" / r["file"]).read_bytes() for r in table}
    assert len(planted) == 40
    for r, inside in zip(table, secret.included, strict=True):
        assert r["class"] == "abc"[int(r["label"])]
        image = (tmp_path / "out" / "canaries" / r["file"]).read_bytes()
        where = [path for path, content in trained.items() if content == image]
        assert [path.parent.as_posix() for path in where] == [r["class"]] * inside
        assert all(re.fullmatch("[0-9a-f]{16}.png", path.name) for path in where)
        was = [path.parts[0] for path, content in given.items() if content == image]
        assert len(was) == (kind == "mislabelled") and r["class"] not in was
        assert Image.open(tmp_path / "out" / "canaries" / r["file"]).size in ((5, 4), (5, 3))
    assert {p: c for p, c in trained.items() if c not in planted} == {p: c for p, c in given.items() if c not in planted}  # fmt: skip
    assert {p.relative_to(folders): p.read_bytes() for p in folders.rglob("*.png")} == given


@pytest.mark.parametrize("data", ["arrays", "folders"])
def test_the_seed_decides_all_of_it(data: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def written(name: str, seed: str) -> dict[str, bytes]:
        folder = tmp_path / name
        plant(request.getfixturevalue(data), 30, folder, seed)
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert written("one", SEED) == written("two", SEED) != written("three", "00" * 32)


def test_coins_are_fair_and_each_its_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.arange(8000), y=np.arange(8000) % 2)
    done = [plant(tmp_path / "data.npz", 4000, tmp_path / str(i), f"{i:064x}").secret for i in range(2)]
    coins = np.array([d.included for d in done])
    assert np.abs(coins.mean(1) - 0.5).max() < 4 * 0.5 / np.sqrt(4000)
    assert abs(np.corrcoef(coins)[0, 1]) < 4 / np.sqrt(4000)
    assert abs(np.corrcoef(coins[0], done[0].labels)[0, 1]) < 4 / np.sqrt(4000), "labels tell nothing"


def test_the_other_parts_of_an_npz_stay(tmp_path: Path) -> None:
    x, y = images()
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    done = plant(tmp_path / "data.npz", 20, tmp_path / "out", SEED)
    train = np.load(done.train)
    assert sorted(train.files) == ["x_test", "x_train", "y_test", "y_train"]
    assert (train["x_test"] == x[:9]).all() and len(train["x_train"]) == done.images
    assert sorted(np.load(done.canaries).files) == ["x", "y"]


def test_noise_has_the_range_of_the_data(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-2, 3, (60, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 2)
    planted = np.load(plant(tmp_path / "data.npz", 50, tmp_path / "out", SEED, "noise").canaries)["x"]
    assert planted.dtype == np.float32 and x.min() <= planted.min() < -1.5 and 2.5 < planted.max() <= x.max()


def test_the_secret_is_for_its_owner(arrays: Path, tmp_path: Path) -> None:
    planted = plant(arrays, 20, tmp_path / "out", SEED)
    assert stat.S_IMODE(os.stat(planted.secret_file).st_mode) == 0o600
    assert planted.secret_file.name == SECRET


# --- What can't be planted --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "count", "said"),
    [
        ({"x": np.zeros(40), "y": np.arange(40) % 2}, 9, "--canaries: expected at least 10, given 9"),
        ({"x": np.zeros(40), "y": np.arange(40) % 2}, 21, "expected at most 20 for 40 images of 2 classes, given 21"),
        ({"x": np.zeros(40), "y": np.zeros(40, int)}, 10, "at least 2 classes, given 1"),
        ({"x": np.zeros(40), "y": np.zeros(39, int)}, 10, r"y: expected 40 whole numbers from 0, given int64 of shape \(39,\)"),
        ({"x": np.zeros(40), "y": np.arange(40) - 1}, 10, "y: expected 40 whole numbers from 0"),
        ({"x": np.zeros(40), "y": np.zeros(40)}, 10, "given float64"),
        ({"x": np.full(40, np.nan), "y": np.arange(40) % 2}, 10, "x: expected finite numbers"),
        ({"x": np.zeros(40), "y": np.arange(40) % 2, "ids": np.arange(40)}, 10, "given 'ids' too"),
        ({"a": np.zeros(40)}, 10, "expected the arrays images and labels"),
    ],
)  # fmt: skip
def test_arrays_that_can_not_be_planted(tmp_path: Path, content: dict[str, Any], count: int, said: str) -> None:
    np.savez(tmp_path / "data.npz", **content)
    with pytest.raises(UserError, match=said) as raised:
        plant(tmp_path / "data.npz", count, tmp_path / "out", SEED)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_small_data_get_as_many_canaries_as_they_have_images_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.zeros((60, 4, 4), np.uint8), y=np.arange(60) % 3)
    assert len(plant(tmp_path / "few.npz", None, tmp_path / "out", SEED).secret.labels) == 30
    np.savez(tmp_path / "fewer.npz", x=np.zeros((12, 4, 4), np.uint8), y=np.arange(12) % 3)
    with pytest.raises(UserError, match="--data: expected images for at least 10 canaries, given 12 of 3 classes"):
        plant(tmp_path / "fewer.npz", None, tmp_path / "none", SEED)


def test_every_class_keeps_an_image(tmp_path: Path) -> None:
    y = np.r_[np.zeros(20, int), 1 + np.arange(20)]
    np.savez(tmp_path / "data.npz", x=np.arange(40), y=y)
    done = plant(tmp_path / "data.npz", 19, tmp_path / "out", SEED)
    train = np.load(done.train)
    true = train["y"] == y[train["x"]]
    assert {*y[train["x"][true]].tolist()} == {*y.tolist()} and (~true).sum() == sum(done.secret.included)


@pytest.mark.timeout(60)
def test_damaged_archives_and_pipes_end_in_one_line(arrays: Path, tmp_path: Path) -> None:
    whole = arrays.read_bytes()
    entry = whole.index(b"PK\1\2")  # of the archive's directory: here an encrypted one, and one by an unknown method
    encrypted, unknown = (whole[: entry + i] + byte + whole[entry + i + 1 :] for i, byte in ((8, b"\1"), (10, b"\x63")))
    for cut in (whole[:-40], encrypted, unknown, whole.replace(b"{'descr'", b"{'descr(", 1), b""):
        (tmp_path / "bad.npz").write_bytes(cut)
        with pytest.raises(UserError, match="expected"):
            plant(tmp_path / "bad.npz", 20, tmp_path / "out", SEED)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(UserError, match=r"pipe\.npz"):
        plant(tmp_path / "pipe.npz", 20, tmp_path / "out", SEED)


def test_files_that_can_not_be_read(tmp_path: Path, folders: Path) -> None:
    for text in (b"", b"PK\3\4", b"no zip"):
        (tmp_path / "data.npz").write_bytes(text)
        with pytest.raises(UserError, match=r"data\.npz: expected an npz of plain arrays"):
            plant(tmp_path / "data.npz", 10, tmp_path / "out", SEED)
    with pytest.raises(UserError, match=r"none\.npz: expected an npz of images and labels that can be read"):
        plant(tmp_path / "none.npz", 10, tmp_path / "out", SEED)
    with pytest.raises(UserError, match="expected a folder of class folders, given none"):
        plant(tmp_path / "none", 10, tmp_path / "out", SEED)
    (tmp_path / "parts").mkdir()
    folders.rename(tmp_path / "parts" / "train")
    with pytest.raises(UserError, match=r"name that one: --data .*parts/train"):
        plant(tmp_path / "parts", 10, tmp_path / "out", SEED)
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        plant(tmp_path / "parts" / "train", 10, tmp_path, SEED)
