"""A protocol names its data by id, view and digest; `pin` fills in digests and changes nothing else."""

import numpy as np
import pytest
import yaml

from benchmark import data as datasets
from benchmark import protocol
from benchmark.data import pins
from benchmark.data.dataset import DataError
from benchmark.data.intake import prepare
from benchmark.data.source import find
from benchmark.data.splits import indices_digest, split
from benchmark.errors import UserError

SMOKE = (protocol.FOLDER / "smoke.yaml").read_text("utf-8")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the prepared data set `mine/8`: 120 colour images."""
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.py").write_text(
        "from benchmark.data.layouts import arrays\nfrom benchmark.data.source import Source\n\n"
        'source = Source(title="Mine", terms="none", get="by hand", views={"8": (3, 8, 8)})\nread = arrays\n'
    )
    x = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(120) % 3)
    prepare(find("mine"), None, tmp_path / "a.npz")
    yield tmp_path
    monkeypatch.undo()
    datasets.refresh()


def written(folder, dataset, digests="\n    0: old\n", smoke=SMOKE):
    """smoke, on other data, with comments, as a file."""
    start, end = smoke.index("dataset:"), smoke.index("seeds:")
    text = f"{smoke[:start]}# what it is about\n{dataset}\nsplit:\n  scheme: six-way  # six\n  size: 15\n  digests:{digests}{smoke[end:]}"
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def test_the_mapping_stands_for_name_and_digest():
    content = yaml.safe_load(SMOKE)
    plain = protocol.Protocol.model_validate(content | {"dataset": "mine/8", "data_digest": "ab"})
    del content["data_digest"]
    mapped = protocol.Protocol.model_validate(content | {"dataset": {"id": "mine", "view": "8", "digest": "ab"}})
    assert mapped == plain and mapped.measures == plain.measures and mapped.dataset == "mine/8"


def comments(text):
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


@pytest.mark.parametrize(
    "dataset",
    [
        "dataset: {id: mine, view: '8', digest: ab}",
        "dataset: {id: mine, view: '8'}  # no digest yet",
        "dataset:\n  id: mine\n  view: '8'",
        "dataset:\n  id: mine\n  digest: ''\n  view: '8'",
        "dataset: mine/8\ndata_digest: ab",
    ],
)
@pytest.mark.parametrize("digests", ["\n    0: old\n", " {}  # none\n", " {7: kept}\n"])
def test_pin_fills_in_what_a_run_checks(project, dataset, digests):
    path = written(project, dataset, digests)
    before = path.read_text()
    said = pins.pin(path)
    loaded = protocol.load(str(path))
    assert loaded.data_digest == datasets.load("mine/8").digest in said.values()
    assert loaded.split.digests[0] == indices_digest(split("six-way", 120, 0, 15)) == said["split.digests.0"]
    assert loaded.split.digests.get(7) == ("kept" if "7" in digests else None)
    pins.check(loaded)
    again = path.read_text()
    pins.pin(path)
    assert path.read_text() == again, "pinning twice is pinning once"
    assert comments(before) == comments(again)
    assert [p.name for p in project.glob(".own*")] == []


def test_a_published_protocol_is_already_pinned(tmp_path):
    path = tmp_path / "smoke.yaml"
    path.write_text(SMOKE)
    pins.pin(path)
    assert path.read_text() == SMOKE


def test_a_file_that_is_wrong_stays_as_it_was(project):
    path = written(project, "dataset: {id: mine, view: '8', digest: ab}", smoke=SMOKE.replace("epochs: 3", "epochs: 0"))
    before = path.read_text()
    with pytest.raises(UserError, match=r"own\.yaml: recipe\.epochs"):
        pins.pin(path)
    assert path.read_text() == before and len(list(project.glob("*.yaml"))) == 1


@pytest.mark.parametrize(
    "wrong", [{"digests": [1, 2]}, {"digests": "ab"}, {"digests": 3}, {"scheme": "seven-way"}, {"scheme": [1]}, {"size": "x"},
              {"size": -3}, {"sizes": 4}, {"sizes": {"target-train": "x"}}],
    ids=str,
)  # fmt: skip
def test_a_split_that_is_wrong_is_refused_and_stays(project, wrong):
    path = written(project, "dataset: {id: mine, view: '8', digest: ab}")
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"split": content["split"] | wrong}))
    before = path.read_text()
    with pytest.raises(UserError, match=r"own\.yaml: .*split"):
        pins.pin(path)
    assert path.read_text() == before and len(list(project.glob("*.yaml"))) == 1


def test_other_data_is_refused_with_whole_digests(project):
    path = written(project, "dataset: {id: mine, view: '8', digest: ab}")
    with pytest.raises(
        UserError, match=f"data_digest: expected ab, given data mine/8 with {datasets_digest()}; .*leakboard pin FILE"
    ):
        pins.check(protocol.load(str(path)))
    pins.pin(path)
    path.write_text(path.read_text().replace("size: 15", "size: 14"))
    with pytest.raises(UserError, match=r"split\.digests\.0: expected [0-9a-f]{64}, given a split with [0-9a-f]{64}"):
        pins.check(protocol.load(str(path)))


def datasets_digest():
    datasets.refresh()
    return datasets.load("mine/8").digest


def test_data_that_is_not_prepared_says_how_to_get_it(project):
    path = written(project, "dataset: {id: cifar10, view: '32', digest: ab}")
    with pytest.raises(
        DataError,
        match=r"cifar10/32 is not prepared: `leakboard data prepare cifar10 --view 32 --from DIR`.*cs\.toronto",
    ):
        pins.check(protocol.load(str(path)))
    with pytest.raises(DataError, match="unknown data set 'cifar11'; did you mean 'cifar10'"):
        pins.check(protocol.load(str(written(project, "dataset: {id: cifar11, view: '32', digest: ab}"))))


@pytest.mark.parametrize(
    "given",
    [{}, {"id": "a"}, {"id": "a", "view": 8, "digest": "b"}, {"id": "a", "view": "8", "digest": "b", "more": "c"}],
)
def test_a_mapping_that_is_not_whole_is_refused(project, given):
    path = project / "own.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SMOKE) | {"dataset": given}))
    with pytest.raises(UserError, match=r"own\.yaml: .*dataset: expected a name, or id, view and digest"):
        protocol.load(str(path))


def test_data_that_nobody_has_pinned_are_not_run(project):
    path = written(project, "dataset: {id: cifar10, view: '32', digest: unpinned}")
    with pytest.raises(
        UserError,
        match=r"smoke: its data are not pinned; prepare cifar10/32: `leakboard data prepare cifar10 --view 32 --from DIR`; pin it:",
    ):
        pins.check(protocol.load(str(path)))


FAMILY = """datasets:
  mine:  # here
    dataset: {id: mine, view: "8", digest: unpinned}
    split: {size: 12}
  theirs:
    dataset: {id: cifar10, view: "32", digest: unpinned}
  small:
    dataset: {id: mine, view: "8", digest: unpinned}
"""


def test_pin_fills_in_what_is_here_of_a_family(project):
    start, end = SMOKE.index("dataset:"), SMOKE.index("seeds:")
    path = project / "own.yaml"
    path.write_text(SMOKE[:start] + "split: {scheme: six-way, size: 15}\n" + SMOKE[end:] + FAMILY)
    target = project / "protocols" / "own.yaml"
    before, said = path.read_text(), pins.pin(path, target)
    assert path.read_text() == before and comments(target.read_text()) == comments(before)
    found = protocol.members(str(target))
    for name, size in (("smoke.mine", 12), ("smoke.small", 15)):
        assert found[name].pinned and found[name].data_digest == datasets.load("mine/8").digest
        assert found[name].split.digests[0] == indices_digest(split("six-way", 120, 0, size))
        pins.check(found[name])
    assert not found["smoke.theirs"].pinned
    assert "left as it is: unknown data set 'cifar10/32'" in said["datasets.theirs"]
    again = target.read_text()
    pins.pin(target)
    assert target.read_text() == again
