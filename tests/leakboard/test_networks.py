"""`leakboard list networks`, `new network` and `check` on a network's file."""

from __future__ import annotations

import json

import pytest

from benchmark import networks
from tests.conftest import Home


@pytest.fixture(autouse=True)
def none_of_ones_own() -> None:
    networks.use({})


def test_from_a_new_file_to_a_score(home: Home, inline: None) -> None:
    few = ("small_cnn", "simple_cnn", "mlp", "resnet18", "alexnet_as_released")
    home.patch.setattr(networks, "PACKAGED", {n: networks.about(n) for n in few})
    assert "wrote networks/mine.py" in home.call("new", "network", "mine").out
    ended = home.call("check", "networks/mine.py")
    assert (ended.code, ended.err) == (0, "")
    assert "trains: 2 steps on images of 1 and 3 channels, 4x4" in ended.out
    assert "leakboard new protocol with_mine --network mine" in ended.out
    found = json.loads(home.call("list", "networks", "--image", "1x28x28", "--json").out)
    rows = {row["name"]: row for row in found["networks"]}
    assert rows.keys() == {*networks.NAMES} and found["networks"][0]["name"] == "mine"
    assert rows["mine"]["family"] == "yours" and rows["mine"]["title"] == "mine"
    assert (rows["small_cnn"]["parameters"], rows["resnet18"]["family"]) == (114_314, "residual")
    assert rows["alexnet_as_released"]["parameters"] is None
    assert rows["alexnet_as_released"]["problem"].endswith("expected images of at least 63x63 pixels, given 28x28")
    scored = home.call("run", "undefended", "--protocol", home.protocol(architecture="mine"))
    assert scored.code == 0, scored.err
    assert {r.architecture for r in home.results().values()} == {"mine"}


def test_the_table_of_networks(home: Home) -> None:
    """Sizes in short, broken files with their error, and a network that does not build."""
    folder = home.folder / "networks"
    folder.mkdir()
    (folder / "torn.py").write_text("network = (\n")
    (folder / "late.py").write_text(
        "from benchmark.networks import Architecture\nnetwork = Architecture('Late')\ndef build(*_):\n    1 / 0\n"
    )
    home.patch.setattr(
        networks, "PACKAGED", {n: networks.about(n) for n in ("small_cnn", "wrn_28_10", "alexnet_as_released")}
    )
    ended = home.call("list", "networks", "--image", "3x32x32")
    lines = {line.split()[0]: line.split() for line in ended.out.splitlines() if line.strip()}
    assert lines["small_cnn"][1:] == ["convolutional", "4", "3x32x32", "146k", "1.26M"]
    assert lines["wrn_28_10"][-2:] == ["36.5M", "5.24G"]
    assert lines["alexnet_as_released"][-2:] == ["-", "-"]
    broken = [line for line in ended.out.splitlines() if line.startswith("broken")]
    assert len(broken) == 2
    assert "ZeroDivisionError: division by zero (networks/late.py, line 4)" in broken[0]
    assert "networks/torn.py: expected Python" in broken[1]


def test_mistakes_are_one_line(home: Home, inline: None) -> None:
    for arguments, message in (
        (["list", "networks", "--image", "28x28"], "--image: expected channels, height and width such as 1x28x28, given '28x28'"),
        (["list", "--image", "1x8x8"], "--image: expected it with `list networks`, given '1x8x8' with `list entries`"),
        (["new", "network", "vgg11"], "name: expected one that no network of the package has, given 'vgg11'"),
        (["run", "undefended", "--protocol", home.protocol(architecture="xception")],
         "smoke: architecture: xception: Xception: expected images of at least 16x16 pixels, given 8x8"),
    ):  # fmt: skip
        ended = home.call(*arguments)
        assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1
        assert message in ended.err
    assert not home.store.exists(), "no work was started"
