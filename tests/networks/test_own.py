"""A user's own networks: read without running them, keyed by their own code alone, built here and in a sandbox."""

import pytest
import torch

from benchmark import networks
from benchmark.entries.templates import NETWORK
from benchmark.networks import own
from benchmark.networks.architecture import WrongShape
from benchmark.networks.own import Unreadable

TEXT = '''
"""Mine."""
from torch import nn
from benchmark.networks import Architecture, Network

network = Architecture("Mine", paper="none", least=4)
WIDTH = 8
UNUSED = 1


def build(classes, shape):
    """Builds it."""
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], WIDTH)), WIDTH, classes)
'''


@pytest.fixture(autouse=True)
def none_of_ones_own():
    yield
    networks.use({})


def use(text=TEXT, name="mine"):
    networks.use({name: text})
    return networks.broken.get(name, "")


def test_a_file_is_a_network_by_its_name():
    before = networks.NAMES
    assert use() == ""
    assert {*networks.NAMES} - {*before} == {"mine"}
    known = networks.about("mine")
    assert (known.title, known.paper, known.least) == ("Mine", "none", 4)
    one, two = (networks.build("mine", 3, (1, 5, 4), 1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one(torch.rand(2, 1, 5, 4)).shape == (2, 3)
    with pytest.raises(WrongShape, match="Mine: expected images of at least 4x4 pixels, given 5x3"):
        networks.build("mine", 3, (1, 5, 3), 1)
    networks.use({})
    assert before == networks.NAMES
    with pytest.raises(networks.UnknownArchitecture):
        networks.build("mine", 3, (1, 5, 4), 1)


def test_a_folder_is_read_and_not_run(tmp_path, monkeypatch):
    """Files that are no networks stay alone: the folder may be somebody's package of that name."""
    monkeypatch.setenv("LEAKBOARD_NETWORKS", str(tmp_path))
    (tmp_path / "mine.py").write_text(TEXT + "\nraise SystemExit\n")
    (tmp_path / "__init__.py").write_text("raise SystemExit\n")
    (tmp_path / "utils.py").write_text("import nothing_like_it\n")
    (tmp_path / "latin.py").write_bytes(b"network = Architecture('\xe4')\n")
    (tmp_path / "notes.txt").write_text(TEXT)
    networks.discover()
    assert networks.own_texts.keys() == {"mine"} and networks.broken == {}
    assert len(networks.code("mine")) == 40, "keys are made without running it"


def test_its_key_is_its_own_code_and_what_that_uses():
    names = networks.NAMES
    before = {name: networks.code(name) for name in names}
    use()
    code = networks.code("mine")
    assert {name: networks.code(name) for name in names} == before, "it re-keys nothing"
    for same in (
        TEXT.replace('"""Builds it."""', "# builds"), TEXT.replace("UNUSED = 1", "UNUSED = 2"),
        TEXT.replace('"Mine"', '"Ours"').replace("least=4", "least=2"),
    ):  # fmt: skip
        assert use(same) == "" and networks.code("mine") == code
    for other in (TEXT.replace("WIDTH = 8", "WIDTH = 9"), TEXT.replace("nn.Flatten()", "nn.Flatten(1)")):
        assert use(other) == "" and networks.code("mine") != code
    networks.use({"mine": TEXT, "second": TEXT.replace("8", "9")})
    assert networks.code("mine") == code, "nor does another file re-key it"


def test_its_key_follows_what_it_takes_from_the_package():
    text = TEXT.replace(
        "import nn\n", "import nn\nfrom benchmark.networks.families.residual import resnet18\nimport timm\n"
    )
    assert use(text) == ""
    unused, libraries = networks.code("mine"), networks.libraries("mine")
    assert use(text.replace("return Network", "return resnet18(classes, shape) or Network")) == ""
    assert networks.code("mine") != unused
    assert (libraries, networks.libraries("mine")) == ([], ["timm"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network = (\n", "networks/mine.py: expected Python, given: '(' was never closed"),
        (TEXT.replace("least=4", "least=LEAST"), 'expected one line network = Architecture("a title", paper="a paper", least=32) of literals'),
        (TEXT.replace("least=4", "least=0"), "texts, and 1 to 4096 pixels; given Architecture('Mine'"),
        (TEXT.replace("least=4", "lest=4"), "of literals, given Architecture('Mine'"),
        (TEXT.replace("Architecture(", "dict("), "given dict('Mine'"),
        (TEXT + "network = 1\n", "given 2 of them"),
        (TEXT.replace("def build", "def make"), "expected a function build(classes, shape), given none"),
        (TEXT.replace("from torch", "from . import x\nfrom torch"), "given a relative import"),
        (TEXT.replace("from torch", "import benchmark.api\nfrom torch"), "which can be followed"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(text, message):
    said = use(text)
    assert message in said and "\n" not in said
    assert "mine" not in networks.NAMES


def test_a_name_of_the_package_is_taken():
    assert "networks/vgg11.py: expected a name that no other network has" in use(TEXT, "vgg11")
    assert networks.build("vgg11", 3, (1, 8, 8), 0).head.in_features == 512


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("WIDTH, classes)", "WIDTH, clases)", "NameError: name 'clases' is not defined (networks/mine.py, line 13)"),
        (
            "WIDTH, classes)",
            "WIDTH, 99)",
            "networks/mine.py: build: expected a Network of 3 classes, given a head of 99",
        ),
        ("return Network(", "return nn.Sequential(nn.Identity()) or Network(", "given Sequential"),
        ("WIDTH = 8", "WIDTH = 1 / 0", "ZeroDivisionError: division by zero (networks/mine.py, line 7)"),
    ],
)
def test_what_fails_when_it_is_run_is_said_in_one_line(old, new, message):
    assert use(TEXT.replace(old, new)) == ""
    with pytest.raises(Unreadable) as error:
        networks.build("mine", 3, (1, 4, 4), 0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_template_is_a_network():
    assert own.is_network(NETWORK) and use(NETWORK.replace("NAME", "mine")) == ""
    assert networks.about("mine").least == 4


def test_a_sandbox_builds_it(launcher, tmp_path, monkeypatch):
    """White-box, with its code sent along: the sandbox sees no files of the user's."""
    from benchmark import protocol
    from benchmark.entries.registry import Registry
    from benchmark.sandbox.remote import Isolation
    from benchmark.targets.artifacts import Artifacts
    from benchmark.targets.store import Store
    from tests.conftest import SUBMISSIONS

    use()
    loaded = protocol.load("smoke").model_copy(update={"architecture": "mine"})
    isolation = Isolation("always", launcher)
    try:
        made = [
            Artifacts(loaded, Registry(SUBMISSIONS), Store(tmp_path / way.mode), torch.device("cpu"), way)
            for way in (Isolation("auto"), isolation)
        ]
        here, there = (a.network(a.chain("undefended").training, 0).states() for a in made)
        assert here.keys() == there.keys() and all(torch.equal(here[k], there[k]) for k in here)
    finally:
        isolation.close()
