"""Intake against a plain loop of Pillow, and what it refuses; killed anywhere, it ends with the same arrays."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmark import data as datasets
from benchmark.data import intake
from benchmark.data.dataset import DataError
from benchmark.data.intake import near_hashes, pixels, prepare
from benchmark.data.prepared import MANIFEST, digest_of, load, named_attribute
from benchmark.data.source import find
from benchmark.errors import UserError
from tests.conftest import ROOT

SOURCE = """from benchmark.data.layouts import any_layout
from benchmark.data.source import Source

source = Source(title="Mine", terms="none", get="by hand", views={"8": (3, 8, 8), "grey": (1, 6, 4)})


def read(folder):
    return any_layout(folder)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a data set `mine`: two classes of ten images of many kinds, one of them twice."""
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.py").write_text(SOURCE)
    rng = np.random.default_rng(0)
    for k in ("cats", "dogs"):
        (tmp_path / "pictures" / k).mkdir(parents=True)
        for i in range(10):
            image = Image.fromarray(rng.integers(0, 256, (12 + i, 20, 3), dtype=np.uint8)).convert(
                MODES[i % len(MODES)]
            )
            image.save(tmp_path / "pictures" / k / f"{i}.png")
    (tmp_path / "pictures/dogs/9.png").write_bytes((tmp_path / "pictures/cats/3.png").read_bytes())
    yield tmp_path
    datasets.refresh()


MODES = ("RGB", "L", "P", "RGBA", "LA", "1")


def made(project, view="8", **options):
    return prepare(find("mine"), view, project / "pictures", **options)


def plain(path, size):
    """What a plain loop makes of a file: RGB on white, the largest centred square, BOX."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, upper, left + side, upper + side))
    return np.asarray(cut.resize((size, size), Image.Resampling.BOX)).transpose(2, 0, 1)


def test_it_makes_what_a_plain_loop_makes(project):
    summary = made(project)
    data = load(summary.folder, summary.name)
    paths = sorted((project / "pictures").rglob("*.png"))[:-1]
    assert np.array_equal(data.x.numpy(), np.stack([plain(p, 8) for p in paths]))
    assert data.y.tolist() == [0] * 10 + [1] * 9 and data.duplicates == summary.manifest["duplicates"] == 1
    assert data.classes == 2 and data.simple == {"pad": 4, "flip": True} and data.attribute.unique().tolist() == [0, 1]
    assert sum(summary.manifest["modes"].values()) == 20 and summary.manifest["per_class"] == [10, 9]
    assert Image.open(summary.folder / "preview.png").size[0] > 10
    assert sorted(p.name for p in summary.folder.parent.iterdir()) == [".8.lock", "8"], "nothing is left behind"


def test_the_arrays_are_mapped_and_have_their_name(project):
    summary = made(project, "grey")
    assert summary.manifest["shape"] == [1, 6, 4]
    datasets.refresh()
    data = datasets.load("mine/grey")
    assert isinstance(np.load(summary.folder / "x.npy", mmap_mode="r"), np.memmap) and data.shape == (1, 6, 4)
    assert data.digest == summary.manifest["digest"] and datasets.load("mine/grey") is data
    assert data.followed_by(datasets.load("digits")).shape == (1, 6, 4)


def test_chunks_and_workers_change_nothing(project):
    one = made(project).manifest["digest"]
    for chunk, workers in ((1, 1), (7, 2)):
        again = made(removed(project), chunk=chunk, workers=workers)
        assert again.fresh and again.manifest["digest"] == one


def removed(project):
    for path in sorted((project / "mlruns/data/mine/8").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return project


def test_a_second_call_finds_it_and_other_files_are_refused(project):
    first = made(project)
    again = made(project)
    assert not again.fresh and again.manifest == first.manifest
    (project / "pictures/cats/new.png").write_bytes((project / "pictures/cats/1.png").read_bytes())
    with pytest.raises(
        UserError, match=r"expected the files that it was prepared from, given others.* delete .*8 to prepare it anew"
    ):
        made(project)


STOP = """
import os, sys
from pathlib import Path
from benchmark.data import intake
from benchmark.data.intake import prepare
from benchmark.data.source import find
intake._SECONDS_SAVED = 0
def track(items, what, total):
    for i in items:
        print(i, flush=True)
        sys.stdin.readline() if i == 4 else None
        yield i
if __name__ == "__main__":
    prepare(find("mine"), "8", Path(sys.argv[1]), track=track, chunk=2)
"""


def test_a_killed_call_is_gone_on_with(project):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", STOP, str(project / "pictures")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout and b"4" in [process.stdout.readline().strip() for _ in range(5)]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    draft = project / "mlruns/data/mine/.8.partial"
    state = json.loads((draft / "state.json").read_text())
    assert state["done"] == 8
    with (draft / "images").open("ab") as images:
        images.write(b"half an image that was not counted")
    steps = []
    summary = made(project, track=lambda items, what, total: steps.append(total) or items, chunk=2)
    assert steps == [6], "twelve images of twenty were left"
    whole = made(removed(project))
    assert (
        summary.manifest["digest"] == whole.manifest["digest"] and summary.manifest["modes"] == whole.manifest["modes"]
    )
    assert summary.manifest["near_duplicates"] == whole.manifest["near_duplicates"]
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/stat").exists() and _runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if _runs(pid)], "workers end with the call that began them"


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_damaged_image_is_named_and_left_out_if_that_is_wished(project):
    whole = (project / "pictures/cats/3.png").read_bytes()
    (project / "pictures/cats/3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"mine/8: cats/3\.png: expected an image .*--skip-damaged"):
        made(project)
    summary = made(project, skip_damaged=True)
    assert summary.manifest["damaged"] == ["cats/3.png"] and summary.manifest["images"] == 19


def test_images_without_a_way_to_eight_bits_are_named(project):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(project / "pictures/cats/3.png")
    with pytest.raises(DataError, match=r"cats/3\.png: expected 8 bits a channel, given Pillow's mode I;16"):
        made(project)


def test_a_class_with_too_few_images_is_named_before_anything_is_decoded(project):
    for path in sorted((project / "pictures/dogs").iterdir())[3:]:
        path.write_bytes(b"damaged") if path.stem == "3" else path.unlink()
    (project / "pictures/dogs/3.png").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"expected at least 4 images of each class.* 'dogs' has 3"):
        made(project)


def test_equal_images_do_not_make_a_class_large_enough(project):
    for path in (project / "pictures/dogs").iterdir():
        path.write_bytes((project / "pictures/dogs/0.png").read_bytes())
    with pytest.raises(DataError, match="given after equal and damaged images were left out: 'dogs' has 1"):
        made(project)


def test_attributes_and_parts_are_kept_and_missing_ones_refused(project):
    rng = np.random.default_rng(1)
    np.savez(project / "a.npz", x=rng.integers(0, 256, (12, 8, 8), dtype=np.uint8), y=np.arange(12) % 2)
    text = SOURCE.replace("views=", "attributes={'tone': 3}, views=").replace(
        "return any_layout(folder)",
        "for i, item in enumerate(any_layout(folder)):\n        yield item._replace(attributes={'tone': i % 3}, part='ab'[i > 8])",
    )
    (project / "data/mine.py").write_text(text)
    summary = prepare(find("mine"), "8", project / "a.npz")
    data = load(summary.folder, summary.name)
    assert data.attributes["tone"].tolist() == [0, 1, 2] * 4 and data.parts == ("a", "b")
    column, values = named_attribute(data, "tone")
    assert column is data.attributes["tone"] and values == 3
    both = data.followed_by(data)
    assert named_attribute(both, "tone")[0].tolist() == [0, 1, 2] * 8 and len(both) == 24
    with pytest.raises(
        DataError, match="expected an attribute of mine/8, which has 1, given 'tones'; did you mean 'tone'"
    ):
        named_attribute(data, "tones")
    assert data.official.tolist() == [0] * 9 + [1] * 3 and summary.manifest["attribute_counts"] == {"tone": [4, 4, 4]}
    (project / "data/mine.py").write_text(text.replace("i % 3", "None if i == 7 else i % 3"))
    with pytest.raises(DataError, match=r"image 7 .*attribute tone: expected 0 to 2, given none"):
        prepare(find("mine"), "8", project / "a.npz")


def test_the_digest_covers_all_that_a_number_depends_on(project):
    summary = made(project)
    first, manifest = digest_of(summary.folder), json.loads((summary.folder / MANIFEST).read_text())
    assert first == summary.manifest["digest"]
    changed = []
    for name in ("x", "y", "official"):
        file = summary.folder / f"{name}.npy"
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        changed.append(load(summary.folder, "mine/8").digest)
        file.write_bytes(before)
    manifest["simple"]["flip"] = False
    (summary.folder / MANIFEST).write_text(json.dumps(manifest))
    assert len({first, *changed, digest_of(summary.folder)}) == 5


def test_what_is_asked_for_wrongly_is_one_line(project):
    for view, folder, message in (
        (None, project / "pictures", "expected --view with one of 8, grey"),
        ("9", project / "pictures", "unknown view '9'"),
        ("8", None, "expected --from DIR, given none. How to get it: by hand"),
        ("8", project / "absent", "which does not exist. How to get it: by hand"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(find("mine"), view, folder)


def test_a_damaged_prepared_set_says_what_to_do(project):
    folder = made(project).folder
    (folder / "y.npy").write_bytes(b"")
    with pytest.raises(DataError, match="delete the folder, and prepare mine/8 again"):
        load(folder, "mine/8")


def test_pixels_of_one_image():
    white = pixels(np.asarray(Image.new("RGBA", (4, 4), (9, 9, 9, 0))), (3, 2, 2))[0]
    assert white.min() == 255, "what is transparent is white"
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert (pixels(wide, (1, 4, 4))[0] == 200).all(), "the sides are cut off"
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "TIFF", exif=Image.Exif())
    assert pixels(file.getvalue(), (3, 4, 4))[1] == "RGB"
    with pytest.raises(ValueError, match="can be decoded"):
        pixels(b"GIF89a", (3, 4, 4))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_is_turned_as_its_exif_says(tmp_path, kind, turn, mode):
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(np.random.default_rng(turn).integers(0, 256, (8, 14, 3), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "image", kind, exif=exif)
    found, given = pixels(tmp_path / "image", (3, 8, 8))
    assert given == mode and np.array_equal(found, plain(tmp_path / "image", 8))


def test_near_duplicates_share_a_hash():
    x = np.random.default_rng(0).integers(0, 200, (3, 16, 16), dtype=np.uint8)
    smooth = np.asarray(
        Image.fromarray(x.transpose(1, 2, 0)).resize((5, 5)).resize((64, 64), Image.Resampling.BICUBIC)
    ).transpose(2, 0, 1)
    brighter = np.clip(smooth.astype(int) + 20, 0, 255).astype(np.uint8)
    same, copy, other = near_hashes(np.stack([smooth, brighter, smooth[:, ::-1]])).tolist()
    assert same == copy != other


@pytest.mark.parametrize("shape", [(64, 72), (32, 45), (8, 9)])
def test_cells_of_near_hashes_are_boxes(shape: tuple[int, int]):
    """Against Pillow's BOX filter, which rounds after each direction: bits may differ where neighbours are nearly equal."""
    x = np.random.default_rng(1).integers(0, 256, (1, 1, *shape), dtype=np.uint8)
    cells = np.asarray(Image.fromarray(x[0, 0]).resize((9, 8), Image.Resampling.BOX), np.int16)
    expected = (cells[:, 1:] > cells[:, :-1]).ravel()
    found = np.unpackbits(near_hashes(x).view(np.uint8))
    clear = np.abs(np.diff(cells, axis=1)).ravel() > 1
    assert clear.any() and np.array_equal(found[clear], expected[clear])


def test_a_large_jpeg_is_decoded_small():
    y, x = np.mgrid[0:1024, 0:768]
    waves = 127 + 60 * np.sin(x / 90) + 60 * np.cos(y / 70)
    large = Image.fromarray(np.stack([waves, 255 - waves, waves / 2], 2).astype(np.uint8))
    file = io.BytesIO()
    large.save(file, "JPEG", quality=95)
    with Image.open(io.BytesIO(file.getvalue())) as whole:
        expected = np.asarray(whole.resize((32, 32), Image.Resampling.BOX, (0, 128, 768, 896)), int)
    found, _ = pixels(file.getvalue(), (3, 32, 32))
    assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 2
    small = io.BytesIO()
    large.resize((100, 100)).save(small, "JPEG")
    with Image.open(io.BytesIO(small.getvalue())) as whole:
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.BOX))
    assert np.array_equal(pixels(small.getvalue(), (3, 64, 64))[0].transpose(1, 2, 0), expected), (
        "it is not twice as large"
    )


def test_only_one_process_prepares_a_view(project):
    with intake.FileLock(lock := project / "mlruns/data/mine/.8.lock"):
        assert lock.exists()
        with pytest.raises(UserError, match="another process prepares it now"):
            made(project)
