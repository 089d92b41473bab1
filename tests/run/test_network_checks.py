"""The checks of a user's own network: what they let pass, and which rule each fault breaks."""

from pathlib import Path

import pytest

from benchmark import networks
from benchmark.entries.templates import NETWORK
from benchmark.run import network_checks
from benchmark.run.checks import READABLE

TEXT = NETWORK.replace("NAME", "mine")


@pytest.fixture(autouse=True)
def none_of_ones_own():
    yield
    networks.use({})


def checked(folder: Path, text: str = TEXT) -> dict[str, str]:
    """The state of each rule, and the details of the one that failed under "detail"."""
    path = folder / "mine.py"
    path.write_text(text)
    assert network_checks.applies(path)
    results = list(network_checks.check_file(path))
    return {r.name: r.state for r in results} | {"detail": next((r.detail for r in results if r.state == "failed"), "")}


def test_the_template_passes(tmp_path):
    found = checked(tmp_path)
    assert found == dict.fromkeys((READABLE, *network_checks.RULES), "ok") | {"detail": ""}


@pytest.mark.parametrize(
    ("old", "new", "rule", "detail"),
    [
        ("least=4", "least='4'", READABLE, "expected one line network"),
        ("width=256", "width=255", "trains", "mat1 and mat2 shapes cannot be multiplied"),
        ("shape[0], 32", "3, 32", "trains", "expected input"),
        ("    return Network", "    features.spare = nn.Parameter(__import__('torch').zeros(1))\n    return Network", "trains", "given none of features.spare"),
        ("nn.Flatten())", "nn.Flatten(), nn.Dropout(0.5))", "the same seed gives the same weights", "take Dropout from benchmark.networks.dropout"),
        ("nn.ReLU()),\n        *(nn.Conv2d(32", "nn.BatchNorm2d(32, track_running_stats=False)),\n        *(nn.Conv2d(32", "one query gets one answer, in any batch", "posteriors move by"),
        ("    features = nn.S", "    __import__('torch').manual_seed(0)\n    features = nn.S", "the same seed gives the same weights", "given the same"),
    ],
)  # fmt: skip
def test_each_fault_breaks_its_rule(tmp_path, old, new, rule, detail):
    assert old in TEXT
    found = checked(tmp_path, TEXT.replace(old, new))
    assert found[rule] == "failed" and detail in found["detail"], found
    rules = [READABLE, *network_checks.RULES]
    assert all(found[name] == "ok" for name in rules[: rules.index(rule)])
    assert all(found.get(name, "not tried") == "not tried" for name in rules[rules.index(rule) + 1 :])


def test_a_network_of_another_forward_is_no_network(tmp_path):
    text = TEXT.replace(
        "def build",
        "class Twice(Network):\n    def forward(self, x):\n        return 2 * super().forward(x)\n\n\ndef build",
    )
    found = checked(tmp_path, text.replace("return Network(", "return Twice("))
    assert found["embeddings lead to the logits"] == "failed"
    assert "leave forward as Network has it" in found["detail"]


def test_submissions_are_none(tmp_path):
    (tmp_path / "x.py").write_text("network_of = 1\n")
    assert not network_checks.applies(tmp_path / "x.py") and not network_checks.applies(tmp_path / "none.py")
