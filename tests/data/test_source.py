"""The file of a data set is read without running it; what is wrong with it is one line."""

import pytest

from benchmark.data.dataset import DataError
from benchmark.data.source import PACKAGED, find, plugin, plugins

FILE = """from benchmark.data.source import Item, Source

source = Source(title="Mine", terms="none", get="by hand", views={"8": (1, 8, 8)}, attributes={"tone": 3})


def read(folder):
    yield Item(folder / "a.png", "a")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(tmp_path))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_every_data_set_of_the_package_can_be_read():
    assert not [p.error for p in plugins().values() if p.error and not p.own]
    assert {"digits", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10", "celeba", "utkface", "yale_faces", "places20",
            "places80", "wild_cifar100", "openclipart", "orl_faces", "emoji_people"} <= {*plugins()}  # fmt: skip
    assert find("celeba").source.views["218x178"] == (3, 218, 178)


def test_the_users_own_is_found_and_not_run(folder):
    (folder / "mine.py").write_text("raise SystemExit\n" + FILE)
    (folder / "helper.py").write_text("raise SystemExit\n")
    mine = find("mine")
    assert mine.own and mine.source.attributes == {"tone": 3} and mine.source.simple == {"pad": 4, "flip": True}
    assert "helper" not in plugins()


def test_its_digest_is_that_of_its_code(folder):
    (folder / "mine.py").write_text(FILE)
    digests = [plugin(folder / "mine.py").digest]
    for text in ("# a comment\n" + FILE, FILE.replace("a.png", "b.png")):
        (folder / "mine.py").write_text(text)
        digests.append(plugin(folder / "mine.py").digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title="Mine", ', "", "missing 1 required .* argument: 'title'"),
        ('"Mine"', "input()", "line 3: title: expected a literal"),
        ("title=", "titel=", "Source has no titel; did you mean 'title'"),
        ("(1, 8, 8)", "(2, 8, 8)", r"views: expected .* 1 or 3 channels .* given \{'8': \(2, 8, 8\)\}"),
        ("(1, 8, 8)", "(1, 8, 9000)", "views: expected"),
        ('{"8":', '{"../8":', "views: expected"),
        ('"tone": 3', '"tone": 1', "attributes: expected .* given {'tone': 1}"),
        ('get="by hand"', 'get=""', "get: expected a text, given ''"),
        ("tone", "../x", "attributes: expected"),
        ("source = ", "data = ", "expected source = Source"),
        ("def read", "def read(", "expected Python, given"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(folder, old, new, message):
    assert old in FILE
    (folder / "mine.py").write_text(FILE.replace(old, new))
    with pytest.raises(DataError, match=message) as error:
        find("mine")
    assert "\n" not in str(error.value) and "mine.py" in str(error.value)


def test_names_that_are_taken_or_unknown(folder):
    (folder / "digits.py").write_text(FILE)
    assert find_error("digits").startswith(str(folder / "digits.py")) and "another name" in find_error("digits")
    assert "did you mean 'cifar10'" in find_error("cifar_10")
    (folder / "Mine.py").write_text(FILE)
    assert "expected a file name of a letter" in find_error("Mine")


def find_error(id):
    with pytest.raises(DataError) as error:
        find(id)
    return str(error.value)


def test_an_error_of_read_names_the_line(folder):
    (folder / "mine.py").write_text(FILE.replace('yield Item(folder / "a.png", "a")', "yield {}[folder]"))
    with pytest.raises(DataError, match=r"mine\.py: read.*KeyError.*mine\.py, line 7\); is this the folder of mine\?"):
        list(find("mine").read(folder))


def test_a_file_beside_a_module_of_the_package_is_the_packages():
    assert all(p.path.parent == PACKAGED for p in plugins().values() if not p.own)
