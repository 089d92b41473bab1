"""The layouts of data sets on disk, made small, and read by the sources that know them."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from benchmark.data.dataset import DataError
from benchmark.data.layouts import IMAGES, any_layout, class_folders, image_files, parquet, unpickled
from benchmark.data.source import Item, find

RNG = np.random.default_rng(0)


def pictures(n, h, w):
    return RNG.integers(0, 256, (n, h, w, 3), dtype=np.uint8)


def encoded(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def items(id, folder) -> list[Item]:
    return list(find(id).read(folder))


# --- CIFAR ------------------------------------------------------------------------------------------


def cifar(folder, names, label, protocol=2):
    """Batches as the archive has them: data (n, 3072) uint8, a channel after the other; labels as a list."""
    folder.mkdir(parents=True)
    x = {name: pictures(3, 32, 32) for name in names}
    for name, images in x.items():
        batch = {
            "data": images.transpose(0, 3, 1, 2).reshape(3, -1),
            label: [0, 9, 5],
            "filenames": ["a", "b", "c"],
            "batch_label": name,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return x


def test_cifar10(tmp_path):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    x = cifar(tmp_path / "cifar-10-batches-py", names, "labels")
    found = items("cifar10", tmp_path)
    assert [i.part for i in found] == ["train"] * 15 + ["test"] * 3 and [i.label for i in found[:3]] == [0, 9, 5]
    assert all(np.array_equal(i.image, image) for i, image in zip(found, np.concatenate(list(x.values())), strict=True))
    assert len(items("cifar10", tmp_path / "cifar-10-batches-py")) == 18, "the folder of the batches does, too"


def test_image_files_are_those_that_pathlib_finds_in_the_order_of_their_paths(tmp_path, monkeypatch):
    for name in (
        "b.PNG",
        "a/2.jpg",
        "a.b/1.png",
        "a/10.jpg",
        ".hidden.png",
        ".inside/1.png",
        "a/note.txt",
        "a/.png",
        "c.png/1.gif",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.PNG")
    (tmp_path / "around").symlink_to(tmp_path / "a")
    slow = [p for p in tmp_path.rglob("*") if p.suffix.lower() in IMAGES and p.is_file() and not p.name.startswith(".")]
    expected = sorted(p.relative_to(tmp_path).as_posix() for p in slow)
    assert [p.relative_to(tmp_path).as_posix() for p in image_files(tmp_path)] == expected
    assert expected == [".inside/1.png", "a.b/1.png", "a/10.jpg", "a/2.jpg", "b.PNG", "c.png/1.gif", "link.png"]
    monkeypatch.chdir(tmp_path)
    assert image_files(Path()) == [Path(name) for name in expected]


def test_a_file_is_no_folder_of_images(tmp_path):
    (tmp_path / "images.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"images\.tar: expected a folder that can be read, given: Not a directory"):
        image_files(tmp_path / "images.tar")
    assert image_files(tmp_path / "absent") == []


def test_cifar100_has_the_fine_labels(tmp_path):
    x = cifar(tmp_path / "cifar-100-python", ["train", "test"], "fine_labels")
    found = items("cifar100", tmp_path)
    assert [i.part for i in found] == ["train"] * 3 + ["test"] * 3 and [i.label for i in found[3:]] == [0, 9, 5]
    assert np.array_equal(found[5].image, x["test"][2])


def test_a_batch_of_python_2_is_read(tmp_path):
    """As the published archive is: texts of bytes, protocol 2."""
    raw = pickle.dumps({"data": pictures(2, 1, 4).reshape(2, -1)}, 2)
    old = raw.replace(b"X\x04\x00\x00\x00data", b"U\x04data")
    assert old != raw
    (tmp_path / "old").write_bytes(old)
    assert unpickled(tmp_path / "old")["data"].shape == (2, 12)


class Shell:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("inside", [Shell(), np.array([Shell()], object), {"deep": [Shell()]}, Path("x"), np.float64])
def test_a_pickle_makes_no_foreign_object(tmp_path, monkeypatch, inside):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": inside}))
    with pytest.raises(DataError, match=r"batch: expected arrays.* nothing of it was run") as error:
        unpickled(tmp_path / "batch")
    assert "\n" not in str(error.value) and not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"data": 1})[:-3]])
def test_a_damaged_batch_is_one_line(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match=r"batch: expected a pickled .* fetch it again"):
        unpickled(tmp_path / "batch")


# --- The others of the papers -----------------------------------------------------------------------


def test_svhn_has_images_last_and_calls_zero_ten(tmp_path):
    x = {part: pictures(4, 32, 32) for part in ("train", "test")}
    for part, images in x.items():
        savemat(
            tmp_path / f"{part}_32x32.mat",
            {"X": images.transpose(1, 2, 3, 0), "y": np.array([[10], [1], [9], [2]], np.uint8)},
        )
    found = items("svhn", tmp_path)
    assert [i.label for i in found[:4]] == [0, 1, 9, 2] and found[4].part == "test"
    assert np.array_equal(found[6].image, x["test"][2])
    (tmp_path / "test_32x32.mat").write_bytes(b"no MATLAB file, but as long as the header of one " * 9)
    with pytest.raises(DataError, match="fetch it again"):
        items("svhn", tmp_path)


def test_stl10_is_stored_by_columns(tmp_path):
    base = tmp_path / "stl10_binary"
    base.mkdir()
    x = {part: pictures(2, 96, 96) for part in ("train", "test")}
    for part, images in x.items():
        images.transpose(0, 3, 2, 1).tofile(base / f"{part}_X.bin")
        np.array([1, 10], np.uint8).tofile(base / f"{part}_y.bin")
    found = items("stl10", tmp_path)
    assert [(i.label, i.part) for i in found] == [(0, "train"), (9, "train"), (0, "test"), (9, "test")]
    assert np.array_equal(found[3].image, x["test"][1])
    np.array([1], np.uint8).tofile(base / "train_y.bin")
    with pytest.raises(DataError, match="expected 1 images of 27648 bytes"):
        items("stl10", tmp_path)


NAMES = ["Blurry", "Heavy_Makeup", "Male", "Mouth_Slightly_Open", "Smiling", "Young"]


def celeba(folder, signs):
    """As torchvision has it: the list begins with the number of images and the names of the attributes."""
    rows = [f"{i + 1:06d}.jpg " + " ".join(f"{s:2d}" for s in row) for i, row in enumerate(signs)]
    folder.mkdir(parents=True)
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), " ".join(NAMES), *rows]) + "\n")
    (folder / "list_eval_partition.txt").write_text("".join(f"{i + 1:06d}.jpg {i % 3}\n" for i in range(len(rows))))
    for i in range(len(rows)):
        write(folder / "img_align_celeba" / f"{i + 1:06d}.jpg", pictures(1, 218, 178)[0])


def test_celeba(tmp_path):
    signs = [
        [-1, 1, -1, -1, 1, 1],
        [-1, -1, 1, 1, -1, -1],
        [1, 1, 1, 1, 1, 1],
        [1, -1, -1, -1, -1, -1],
        [-1, -1, 1, -1, 1, 1],
    ]
    celeba(tmp_path / "celeba", signs)
    found = items("celeba", tmp_path)
    assert [i.label for i in found] == [5, 2, 7, 0, 1], "Heavy_Makeup, Mouth_Slightly_Open, Smiling as binary digits"
    assert [i.attributes for i in found[:2]] == [
        {"male": 0, "young": 1, "male_young": 1},
        {"male": 1, "young": 0, "male_young": 2},
    ]
    assert [i.part for i in found] == ["train", "val", "test", "train", "val"]
    assert found[4].image == tmp_path / "celeba/img_align_celeba/000005.jpg"
    listed = tmp_path / "celeba/list_attr_celeba.txt"
    text = listed.read_text()
    listed.write_text(text.replace(" 1 -1", " 1  0", 1))
    with pytest.raises(DataError, match="line 3: expected 6 values of 1 or -1"):
        items("celeba", tmp_path)
    listed.write_text(text.replace("Smiling", "Grinning"))
    with pytest.raises(DataError, match="expected the attribute Smiling"):
        items("celeba", tmp_path)


def test_utkface_reads_the_names_of_files(tmp_path):
    for name in ("26_1_2_20170116.jpg", "3_0_4_20170117.jpg", "61_3_20170109.jpg", "note.jpg"):
        write(tmp_path / name, pictures(1, 8, 8)[0])
    assert [(i.label, i.attributes["gender"]) for i in items("utkface", tmp_path)] == [(2, 1), (4, 0)]
    with pytest.raises(DataError, match=r"AGE_GENDER_RACE_DATE\.jpg, given none"):
        items("utkface", tmp_path / "absent")


def test_yale_faces_leave_out_the_empty_room(tmp_path):
    for person in ("yaleB01", "yaleB02"):
        for name in (f"{person}_P00A+000E+00.pgm", f"{person}_P00_Ambient.pgm", f"{person}_P00A-005E-10.pgm"):
            write(tmp_path / "CroppedYale" / person / name, pictures(1, 192, 168)[0, :, :, 0])
        (tmp_path / "CroppedYale" / person / f"{person}_P00A+050E-40.pgm.bad").touch()
    found = items("yale_faces", tmp_path)
    assert [i.label for i in found] == ["yaleB01"] * 2 + ["yaleB02"] * 2
    assert all("Ambient" not in i.image.name for i in found)


def test_fifty_yale_faces_a_person_are_the_train_part_wherever_they_lie(tmp_path):
    picture = pictures(1, 2, 2)[0, :, :, 0]
    for base in ("one", "two"):
        for k in range(53):
            write(tmp_path / base / "yaleB01" / f"yaleB01_P00A+{k:03d}E+00.pgm", picture)
    one, two = (items("yale_faces", tmp_path / base) for base in ("one", "two"))
    assert [i.part for i in one] == [i.part for i in two]
    assert [i.part for i in one].count("train") == 50
    assert [i.part for i in one][:50].count("test") > 0, "not simply the first ones"


def test_places_take_the_first_classes_under_their_letters(tmp_path):
    for i in range(22):
        for k in range(2):
            write(tmp_path / "data_256_standard" / "abc"[i % 3] / f"scene{i:02d}" / f"{k}.jpg", pictures(1, 4, 4)[0])
    found = items("places20", tmp_path)
    classes = list(dict.fromkeys(i.label for i in found))
    assert len(found) == 40 and classes == sorted(classes, key=lambda c: ("abc"[int(c[5:]) % 3], c))
    with pytest.raises(DataError, match="expected 40 class folders, given 22"):
        items("places40", tmp_path)


def test_orl_faces_are_numbered_people(tmp_path):
    for person in (1, 2, 10):
        for k in (1, 2, 10):
            write(tmp_path / "deep" / f"s{person}" / f"{k}.pgm", pictures(1, 112, 92)[0, :, :, 0])
        (tmp_path / "deep" / f"s{person}" / "__init__.py").touch()
    found = items("orl_faces", tmp_path)
    assert [f"{i.label}/{i.image.stem}" for i in found] == [f"s{p}/{k}" for p in (1, 2, 10) for k in (1, 2, 10)]


# --- The layouts of a user's own --------------------------------------------------------------------


def test_class_folders_are_taken_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.png", "b/1.jpg", "a/deep/3.PNG", ".hidden/4.png", "a/.5.png"):
        write(tmp_path / name, pictures(1, 4, 4)[0])
    (tmp_path / "b/notes.txt").touch()
    found = list(any_layout(tmp_path))
    assert [(i.label, i.image.name) for i in found] == [("a", "3.PNG"), ("b", "1.jpg"), ("b", "2.png")]


def test_class_folders_below_train_and_test_are_parts(tmp_path):
    for name in ("test/a/1.png", "train/a/1.png", "train/b/2.png"):
        write(tmp_path / name, pictures(1, 4, 4)[0])
    assert [(i.part, i.label) for i in class_folders(tmp_path)] == [("train", "a"), ("train", "b"), ("test", "a")]


def test_a_folder_without_classes_says_what_it_has(tmp_path):
    write(tmp_path / "1.png", pictures(1, 4, 4)[0])
    with pytest.raises(DataError, match=r"expected one folder a class .* given 1 images and no folders"):
        list(any_layout(tmp_path))
    with pytest.raises(DataError, match="given none"):
        list(any_layout(tmp_path / "absent"))


@pytest.mark.parametrize("layout", ["last", "first", "grey", "column"])
def test_arrays_in_every_order(tmp_path, layout):
    x, y = pictures(5, 6, 7), np.arange(5)
    if layout == "grey":
        x = x[:, :, :, 0]
    stored = x.transpose(0, 3, 1, 2) if layout == "first" else x
    labels = y[:, None] if layout == "column" else y
    np.savez(tmp_path / "all.npz", x_train=stored[:3], y_train=labels[:3], x_test=stored[3:], y_test=labels[3:])
    for where in (tmp_path, tmp_path / "all.npz"):
        found = list(any_layout(where))
        assert [i.part for i in found] == ["train"] * 3 + ["test"] * 2 and [i.label for i in found] == [0, 1, 2, 3, 4]
        assert all(np.array_equal(i.image, image) for i, image in zip(found, x, strict=True))


def test_arrays_in_two_files_are_mapped(tmp_path):
    x = pictures(5, 6, 7)
    np.save(tmp_path / "images.npy", x)
    np.save(tmp_path / "labels.npy", np.arange(5))
    found = list(any_layout(tmp_path))
    assert np.array_equal(found[4].image, x[4]) and isinstance(found[4].image, np.memmap)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 4, 4)), np.arange(3), "expected uint8"),
        (np.zeros((3, 4), np.uint8), np.arange(3), r"expected images \(n, h, w\)"),
        (np.zeros((3, 4, 4), np.uint8), np.arange(2), "expected 3 whole numbers as labels"),
        (np.zeros((3, 4, 4), np.uint8), np.zeros(3), "expected 3 whole numbers as labels"),
        (np.zeros((3, 4, 4), np.uint8), np.array([None] * 3), "expected arrays of numbers"),
    ],
)
def test_arrays_of_another_kind_are_one_line(tmp_path, x, y, message):
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(DataError, match=message):
        list(any_layout(tmp_path))


def hugging_face(path, rows, names=None, **columns):
    features = {
        "image": {"_type": "Image"},
        "label": {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64"},
    }
    images = pa.array(
        [{"bytes": b, "path": None} for b, _ in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": images, "label": [y for _, y in rows], **columns})
    meta = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata(meta), path, row_group_size=2)


def test_parquet_as_hugging_face_has_it(tmp_path):
    x = pictures(5, 6, 6)
    rows = [(encoded(image), k % 2) for k, image in enumerate(x)]
    hugging_face(tmp_path / "data/train-00000-of-00002.parquet", rows[:2], ["cat", "dog"])
    hugging_face(tmp_path / "data/train-00001-of-00002.parquet", rows[2:4], ["cat", "dog"])
    hugging_face(tmp_path / "data/test-00000-of-00001.parquet", rows[4:], ["cat", "dog"])
    found = list(any_layout(tmp_path))
    assert [(i.part, i.label) for i in found] == [
        ("test", "cat"),
        ("train", "cat"),
        ("train", "dog"),
        ("train", "cat"),
        ("train", "dog"),
    ]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[2].image))), x[1])


def test_parquet_with_attributes_and_without_names(tmp_path):
    hugging_face(tmp_path / "mine.parquet", [(encoded(pictures(1, 4, 4)[0]), 3)], gender=[1])
    (found,) = parquet(tmp_path, ["gender"])
    assert (found.label, found.attributes, found.part) == (3, {"gender": 1}, "")
    with pytest.raises(DataError, match="a column label, age; given image, label, gender"):
        list(parquet(tmp_path, ["age"]))
    (tmp_path / "mine.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(DataError, match="expected a Parquet file"):
        list(parquet(tmp_path))
