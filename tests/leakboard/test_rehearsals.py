"""Families at the command line: refused one by one and as a whole, estimated, and rehearsed."""

from __future__ import annotations

import json

import pytest
import yaml

from benchmark import protocol
from tests.conftest import Home
from tests.leakboard.test_cli import mistake


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "song-2019"], "song-2019: expected one protocol, given a family of 3: name one of them, song-2019.yale"),
        (["--protocol", "song-2019.yal"], "unknown protocol 'song-2019.yal'; did you mean 'song-2019.yale'?"),
        (["--protocol", "song-2019.yale"], "song-2019.yale: its data are not pinned; prepare yale_faces/192x168: `leakboard data prepare yale_faces"),
        (["loss", "--protocol", "smoke", "--rehearse"], "--rehearse: expected a protocol alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_says_what_to_do(home: Home, arguments: list[str], message: str) -> None:
    assert message in mistake(home.call("run", *arguments))


def test_hours_of_a_family(home: Home) -> None:
    content = yaml.safe_load((protocol.FOLDER / "smoke.yaml").read_text())
    del content["dataset"], content["data_digest"], content["split"]
    data = {name: {"dataset": {"id": name, "view": "32", "digest": "unpinned"}} for name in ("stl10", "cifar10")}
    family = content | {"name": "tiny", "split": {"scheme": "official"}, "datasets": data}
    (home.folder / "tiny.yaml").write_text(yaml.safe_dump(family))
    ended = home.call("run", "--protocol", "tiny.yaml", "--dry-run", "--json")
    assert ended.code == 0, ended
    said = json.loads(ended.out)
    stl10, cifar10 = (said["protocols"][f"tiny.{name}"]["gpu_hours"][0] for name in ("stl10", "cifar10"))
    assert cifar10 == pytest.approx(10 * stl10) and stl10 + cifar10 == pytest.approx(said["gpu_hours"][0])
    assert said["before"][0].startswith("prepare cifar10/32: `leakboard data prepare cifar10 --view 32 --from DIR`")
    assert "of queries, estimated from FLOPs" in home.call("run", "--protocol", "smoke", "--dry-run").out


def test_a_rehearsal_leaves_the_project_as_it_was(home: Home) -> None:
    ended = home.call("run", "--protocol", "smoke", "--rehearse", "--workers", "1", "--json")
    said = json.loads(ended.out)
    assert ended.code == 0
    assert [p["name"] for p in said["protocols"]] == ["smoke"] and said["protocols"][0]["failures"] == []
    assert said["protocols"][0]["jobs"] > 3
    assert (said["lacking"], said["too_large"]) == ([], {})
