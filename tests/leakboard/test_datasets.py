"""The commands about data sets, as a new user types them: an own folder of images becomes a board's protocol."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from benchmark import data, places, protocol
from tests.conftest import Home
from tests.leakboard.test_cli import mistake


@pytest.fixture
def own(home: Home, inline: None, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A project with a folder of 2 x 60 colour images."""
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(home.folder))
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cats", "dogs")):
        folder = home.folder / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(60):
            noise = rng.integers(0, 100, (10, 12, 3)) + 100 * k
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    return home


def test_an_own_folder_becomes_rows_of_a_protocol_of_ones_own(own: Home) -> None:
    said = own.call("new", "dataset", "pets")
    assert said.code == 0 and "leakboard data prepare pets --view 32 --from DIR" in said.out + said.err
    said = own.call("data", "prepare", "pets", "--view", "32", "--from", str(own.folder / "pictures"))
    assert said.code == 0, said.err
    assert "120 of 32x32, RGB" in said.out and "leakboard new protocol mine --dataset pets/32" in said.out
    assert own.call("new", "protocol", "other", "--network", "simple_cnn").code == 0
    assert protocol.load("other").architecture == "simple_cnn"
    assert own.call("new", "protocol", "mine").code == 0
    path = places.protocols() / "mine.yaml"
    loaded = protocol.load("mine")
    assert loaded.dataset == "pets/32" and loaded.split.size == 20 and len(loaded.split.digests) == 3
    text = (
        path.read_text()
        .replace("epochs: 25", "epochs: 1")
        .replace("[random_scores, loss, metric_ment, lira]", "[loss]")
    )
    path.write_text(re.sub(r"(?m)^defenses: .*$", "defenses: [undefended]", text))
    said = own.call("run", "undefended", "loss", "--protocol", "mine", "--seed", "0", "--trust", "--json")
    assert said.code == 0, said.err
    rows = json.loads(said.out)
    assert {r["dataset"] for r in rows} == {"pets/32"} and all(r["status"] == "ok" for r in rows)
    assert data.load("pets/32").shape == (3, 32, 32)
    path.write_text(path.read_text().replace("size: 20", "size: 19"))
    assert "split.digests.0" in mistake(own.call("run", "--protocol", "mine"))
    said = own.call("pin", str(path))
    assert said.code == 0 and "split.digests.2: " in said.out


def test_the_list_says_what_is_prepared(own: Home) -> None:
    assert own.call("data", "prepare", "digits", "--json").code == 0
    said = own.call("list", "datasets", "--json")
    listed = {r["id"]: r for r in json.loads(said.out)["datasets"]}
    assert listed["digits"]["prepared"] == ["8"] and listed["celeba"]["prepared"] == []
    assert listed["celeba"]["views"]["218x178"] == [3, 218, 178] and "non-commercial" in listed["celeba"]["terms"]
    said = own.call("list", "datasets")
    assert said.code == 0 and "openclipart" in said.out and "apt install" in listed["openclipart"]["get"]


def test_mistakes_are_one_line(own: Home) -> None:
    pictures = str(own.folder / "pictures")
    assert "did you mean 'digits'" in mistake(own.call("data", "prepare", "digit"))
    assert "expected --view with one of 32, 200" in mistake(own.call("data", "prepare", "utkface", "--from", pictures))
    assert "AGE_GENDER_RACE" in mistake(own.call("data", "prepare", "utkface", "--view", "32", "--from", pictures))
    assert "exists already" in mistake(own.call("new", "dataset", "digits"))
    assert "expected it with a protocol" in mistake(own.call("new", "attack", "a", "--dataset", "digits"))
    assert "unknown network 'smal_cnn'; did you mean 'small_cnn'" in mistake(
        own.call("new", "protocol", "a", "--network", "smal_cnn")
    )
    assert "expected it with a protocol" in mistake(own.call("new", "attack", "a", "--network", "small_cnn"))
    assert "unknown data set 'nothing/32'" in mistake(own.call("new", "protocol", "a", "--dataset", "nothing/32"))
    assert "one of the package" in mistake(own.call("pin", "digits-v2"))
