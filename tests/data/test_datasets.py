import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from benchmark import data as datasets
from benchmark.data.dataset import make
from benchmark.data.sources import fashion_mnist

DIGESTS = {
    "digits": "4762797d5258adf159cb47b90648706ca1fdc489e3ad64710e18636c2f2db4db",
    "fashion_mnist": "6ba3a9b107a4185b23e5825bb5d5326e40a5e945a520b22e0bc0849360d67265",
}


@pytest.fixture(scope="module", params=["digits", "fashion_mnist"])
def data(request):
    if request.param == "fashion_mnist" and not fashion_mnist.DEBIAN.is_dir():
        pytest.skip("apt install dataset-fashion-mnist")
    return datasets.load(request.param)


def test_the_data_are_what_they_always_were(data):
    assert data.digest == DIGESTS[data.name]


def test_types_and_ranges(data):
    n = len(data)
    assert data.x.dtype == torch.uint8
    assert data.x.shape == (n, *data.shape)
    assert data.y.dtype == data.attribute.dtype == torch.int64
    assert data.y.shape == data.attribute.shape == (n,)
    assert data.x.max() == 255
    assert data.x.min() == 0
    assert data.y.unique().tolist() == list(range(data.classes))


def test_no_image_is_there_twice(data):
    assert len({image.numpy().tobytes() for image in data.x}) == len(data)


def test_the_attribute_halves_each_class(data):
    for label in range(data.classes):
        inside = data.attribute[data.y == label]
        assert inside.sum() == len(inside) // 2


def test_counts():
    assert len(datasets.load("digits")) + datasets.load("digits").duplicates == 1797
    assert datasets.load("digits").shape == (1, 8, 8)


def test_digits_keep_their_grey_levels():
    levels = (datasets.load("digits").x.double() * 16 / 255).round().flatten(1).numpy()
    assert np.array_equal(levels, load_digits().data)  # the digits hold no duplicates


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="apt install dataset-fashion-mnist")
def test_fashion_mnist_is_all_of_it():
    data = datasets.load("fashion_mnist")
    assert len(data) == 70_000
    assert data.duplicates == 0
    assert data.shape == (1, 28, 28)
    assert data.y.bincount().tolist() == [7_000] * 10
    with gzip.open(fashion_mnist.DEBIAN / "train-images-idx3-ubyte.gz") as file:
        first = np.frombuffer(file.read(16 + 784), np.uint8)[16:]
    assert np.array_equal(data.x[0].flatten(), first)


def test_a_data_set_is_loaded_once():
    assert datasets.load("digits") is datasets.load("digits")


def test_unknown_names_get_a_hint():
    with pytest.raises(datasets.DataError, match="did you mean 'digits'"):
        datasets.load("digit")


def test_equal_images_leave_only_the_first():
    x = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    x[3] = x[1]
    x[5] = x[1]
    data = make("some", x, np.array([0, 1, 0, 0, 1, 1]), {})
    assert data.duplicates == 2
    assert np.array_equal(data.x, x[[0, 1, 2, 4]])
    assert data.y.tolist() == [0, 1, 0, 1]


def test_images_that_differ_in_one_pixel_stay():
    x = np.zeros((2, 1, 4, 4), np.uint8)
    x[1, 0, 3, 3] = 1
    assert make("some", x, np.array([0, 1]), {}).duplicates == 0


def test_the_digest_sees_pixels_labels_and_shape():
    x, y = np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4), np.array([0, 1])
    other = x.copy()
    other[0, 0, 0, 0] = 9
    cases = [(x, y), (other, y), (x, y[::-1].copy()), (x.reshape(2, 1, 2, 8), y)]
    assert len({make("some", *case, {}).digest for case in cases}) == 4
    assert make("other name", x, y, {}).digest == make("some", x, y, {}).digest


def test_the_digest_is_plain_sha256():
    data = datasets.load("digits")
    expected = hashlib.sha256(b"|u1(1797, 1, 8, 8)" + data.x.numpy().tobytes())
    expected.update(b"<i8(1797,)" + data.y.numpy().tobytes())
    assert data.digest == expected.hexdigest()


# --- Fashion-MNIST's files --------------------------------------------------------------------------


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's own folder with 40 + 20 random images."""
    monkeypatch.setenv("LEAKBOARD_DATA", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "absent")
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 40), ("t10k", 20)):
        write(folder / f"{part}-images-idx3-ubyte.gz", idx(rng.integers(0, 256, (n, 28, 28))))
        write(folder / f"{part}-labels-idx1-ubyte.gz", idx(np.arange(n) % 10))
    return folder


def write(path, content):
    path.write_bytes(gzip.compress(content, 1))


def test_training_images_come_first(folder):
    data = fashion_mnist.load()
    assert len(data) == 60
    assert np.array_equal(data.x[40, 0], fashion_mnist.read_idx(folder / "t10k-images-idx3-ubyte.gz", 3)[0])
    assert data.y.tolist() == [*(np.arange(40) % 10), *(np.arange(20) % 10)]


@pytest.mark.parametrize("layout", fashion_mnist.LAYOUTS)
@pytest.mark.parametrize("plain", [False, True])
def test_every_layout_is_found_and_the_named_folder_is_the_one(folder, tmp_path, monkeypatch, layout, plain):
    expected = fashion_mnist.load()
    home = tmp_path / "elsewhere" / layout
    home.mkdir(parents=True)
    for path in list(folder.iterdir()):
        if plain:
            (home / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        else:
            path.rename(home / path.name)
    monkeypatch.setenv("LEAKBOARD_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    shutil.copytree(home, tmp_path / "debian")
    (tmp_path / "debian" / f"train-labels-idx1-ubyte{'' if plain else '.gz'}").write_bytes(b"not these")
    assert fashion_mnist.load().digest == expected.digest


@pytest.mark.parametrize("named", [True, False])
def test_debians_copy_is_not_taken_for_the_folder_that_is_named(folder, tmp_path, monkeypatch, named):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LEAKBOARD_DATA", str(tmp_path / "mine") if named else "")
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda url, root, md5: Path(root, "half").touch())
    if not named:
        assert len(fashion_mnist.load()) == 60
        return
    with pytest.raises(datasets.DataError, match=r"mine/FashionMNIST/raw, .* unset LEAKBOARD_DATA"):
        fashion_mnist.load()
    assert not (tmp_path / "mine").exists() and not (tmp_path / "home").exists(), "a failed download leaves nothing"


def test_a_download_that_breaks_off_leaves_no_file(tmp_path, monkeypatch):
    def broken(url, root, md5):
        Path(root, url.rsplit("/", 1)[1]).write_bytes(b"\x1f\x8b half")
        if "labels" in url:
            raise KeyboardInterrupt

    (tmp_path / "kept").mkdir()
    monkeypatch.setattr("torchvision.datasets.utils.download_url", broken)
    for base in ("kept", "new/er"):
        with pytest.raises(KeyboardInterrupt):
            fashion_mnist._download(tmp_path / base / "fashion-mnist")
    assert [p.name for p in tmp_path.rglob("*")] == ["kept"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LEAKBOARD_DATA", str(tmp_path / "file"))
    with pytest.raises(datasets.DataError) as error:
        fashion_mnist.load()
    assert "\n" not in str(error.value) and (tmp_path / "file").is_file()


IMAGES = np.zeros((40, 28, 28))


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(idx(IMAGES))[:-20],
        b"no gzip at all",
        gzip.compress(b"\0\0\x08"),
        gzip.compress(b"\0\0\x0d" + idx(IMAGES)[3:]),
        gzip.compress(idx(IMAGES)[:-1]),
        gzip.compress(idx(IMAGES) + b"\0"),
        gzip.compress(idx(IMAGES[:39])),
        gzip.compress(idx(IMAGES[:, :27])),
        gzip.compress(idx(IMAGES[0])),
        gzip.compress(idx(IMAGES))[:60] + bytes(20) + gzip.compress(idx(IMAGES))[80:],
    ],
    ids=["cut", "other", "header", "type", "short", "long", "fewer", "shape", "dimensions", "garbled"],
)
def test_a_damaged_file_is_an_error_of_one_line(folder, content):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(datasets.DataError, match="fetch it again") as error:
        fashion_mnist.load()
    assert "\n" not in str(error.value)


def test_a_label_out_of_range_is_an_error(folder):
    write(folder / "t10k-labels-idx1-ubyte.gz", idx(np.full(20, 10)))
    with pytest.raises(datasets.DataError):
        fashion_mnist.load()


def test_missing_data_name_the_ways_to_get_them(folder, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setattr("torchvision.datasets.utils.download_url", unreachable)
    with pytest.raises(datasets.DataError) as error:
        fashion_mnist.load()
    message = str(error.value)
    for way in (
        "no network",
        "apt install dataset-fashion-mnist",
        "t10k-labels-idx1-ubyte.gz",
        str(folder),
        "torchvision",
    ):
        assert way in message
    assert "\n" not in message


def test_missing_files_are_downloaded_with_their_checksums(folder, monkeypatch):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    asked = {}

    def download(url, root, md5):
        name = url.rsplit("/", 1)[1]
        asked[name] = md5
        if "t10k-labels" in name:
            write(Path(root, name), idx(np.zeros(20)))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    assert fashion_mnist.load().y[40:].sum() == 0
    assert asked["t10k-labels-idx1-ubyte.gz"] == "bb300cfdad3c16e7a12a480ee83cd310"
