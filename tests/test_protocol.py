"""Protocols: the shipped ones are whole; a wrong file names itself, the field, and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import data, networks, protocol
from benchmark.data.dataset import DataError
from benchmark.data.population import populate
from benchmark.entries.registry import Registry
from benchmark.errors import UserError

SUBMISSIONS = Path(__file__).resolve().parent.parent / "submissions"


def smoke() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((protocol.FOLDER / "smoke.yaml").read_text())
    return content


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(content: Any) -> protocol.Protocol:
        path = tmp_path / "own.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return protocol.load(str(path))

    return load


@pytest.mark.parametrize("name", protocol.names())
def test_a_shipped_protocol_is_whole(name: str) -> None:
    loaded = protocol.load(name)
    registry = Registry(SUBMISSIONS)
    assert loaded.name == name
    assert all(registry.attack(a).name == a for a in loaded.attacks)
    assert all(registry.chain(d, loaded.baseline).name == d for d in loaded.defenses)
    assert loaded.baseline in loaded.defenses
    assert loaded.architecture != loaded.evaluator, "the evaluation classifier has another architecture"
    named = {loaded.architecture, loaded.evaluator, loaded.second_evaluator}
    assert len(named) == 3 and named <= set(networks.NAMES)
    assert set(loaded.seeds) <= loaded.split.digests.keys()
    if loaded.costly:
        parts = [part for d in loaded.defenses for part in registry.chain(d, loaded.baseline).parts]
        assert set(loaded.costly.defenses) <= {part.entry.id for part in parts}
        assert all(("attack", id) in registry.entries for id in loaded.costly.attacks)
    try:
        data.load(loaded.dataset)
    except DataError:
        pytest.skip(f"no {loaded.dataset} here")
    for seed in loaded.split.digests:
        populate(loaded, seed)


def test_the_digest_of_what_is_measured(load: Any) -> None:
    plain = load(smoke()).measures
    for same in (
        {"name": "x"},
        {"attacks": ["loss"]},
        {"seeds": [1]},
        {"rank_by": ["tpr_at_fpr_0.01"]},
        {"about": "-"},
    ):
        assert load(smoke() | same).measures == plain
    for other in (
        {"resamples": 101}, {"nulls": 6}, {"architecture": "simple_cnn"}, {"references": {"online": 6, "offline": 2}},
        {"recipe": smoke()["recipe"] | {"epochs": 4}}, {"split": smoke()["split"] | {"known_fraction": 0.4}},
    ):  # fmt: skip
        assert load(smoke() | other).measures != plain


CHANGES = {
    "epoch: unknown field, given 3": {"epoch": 3},
    "utilty_floor: unknown field, given 1; did you mean 'utility_floor'?": {"utilty_floor": 1, "utility_floor": ...},
    "recip: unknown field, given 1; did you mean 'recipe'?": {"recip": 1},
    "recipe.epoch: unknown field, given 3; did you mean 'epochs'?": {"recipe": smoke()["recipe"] | {"epoch": 3}},
    "recipe.epochs: Input should be greater than or equal to 1, given 0": {"recipe": smoke()["recipe"] | {"epochs": 0}},
    "recipe.optimizer: Input should be 'sgd' or 'adam', given 'lion'": {"recipe": smoke()["recipe"] | {"optimizer": "lion"}},
    "references.online: Input should be a multiple of 2, given 5": {"references": {"online": 5, "offline": 2}},
    "utility_floor: Input should be less than or equal to 1, given 2": {"utility_floor": 2},
    "seeds.0: Input should be a valid integer": {"seeds": ["x"]},
    "attacks: Input should be a valid tuple, given 'loss'": {"attacks": "loss"},
    "split.known_fraction: Input should be less than 1, given 1.0": {"split": smoke()["split"] | {"known_fraction": 1.0}},
    "split.scheme: Input should be 'six-way', 'four-way', 'official' or 'sizes'": {"split": smoke()["split"] | {"scheme": "two-way"}},
}  # fmt: skip


@pytest.mark.parametrize("message", CHANGES)
def test_a_wrong_field_is_named(load: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        load({name: value for name, value in (smoke() | CHANGES[message]).items() if value is not ...})
    assert "own.yaml: " + message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1,\nb: {", "not YAML"),
        ("- 1\n- 2\n", "expected a mapping of fields, given list"),
        ("", "expected a mapping of fields, given NoneType"),
        ("1: 2\n", "own.yaml"),
        ("name: smoke\n", "about: expected a field of this name, given none"),
        ("[" * 5000, "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_file_that_is_no_protocol(load: Any, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load(content)
    assert "\n" not in str(error.value)


FIELDS = {
    "epochs": "recipe: {learning_rate: 0.1, batch_size: 20, epochs: %s}",
    "seconds": "limits: {seconds: %s}",
    "memory": "limits: {memory_mb: %s}",
    "seed": "seeds: [%s]",
    "digest": "split: {scheme: six-way, digests: {%s: x}}",
    "floor": "utility_floor: %s",
    "decay": "recipe: {learning_rate: 0.1, batch_size: 20, epochs: 1, weight_decay: %s}",
    "name": "name: %s",
    "attacks": "attacks: [%s]",
}
VALUES = {
    "digits": "9" * 10_000, "quoted": f"'{'9' * 4000}'", "tagged": f"!!int '{'9' * 4000}'", "hexadecimal": "0x" + "f" * 9000,
    "binary": "0b" + "1" * 9000, "octal": "0" + "7" * 9000, "sexagesimal": "1" + ":1" * 5000, "underscores": "1" + "_1" * 2000,
    "65 bits": str(2**64), "negative": str(-(2**64)), "float": "1" + ":1" * 5000 + ".5", "infinite": ".inf", "not a number": ".nan",
    "overflow": "1.0e+999", "date": "2020-01-01", "time": "!!timestamp 2020-99-99", "bytes": "!!binary eA==", "set": "!!set {a}",
    "pairs": "!!pairs [a: 1]", "merge": "{<<: {a: 1}}", "keys": "{[a]: 1}", "twice": "{a: 1, a: 2}", "python": "!!python/name:os.system",
    "escape": '"\\e[2J"', "surrogate": '"\\ud800"', "nul": '"\\0"', "turned": '"\\u202e"', "deep": "[" * 3000 + "]" * 3000,
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", FIELDS)
def test_a_value_that_no_field_has_is_one_line(load: Any, field: str, value: str) -> None:
    """Refused, or read and fit for a key: no number too long to be written, nothing that a terminal obeys."""
    line = FIELDS[field] % VALUES[value]
    kept = {k: v for k, v in smoke().items() if k != line.split(":")[0]}
    try:
        measures, message = load(yaml.safe_dump(kept) + line + "\n").measures, ""
    except UserError as error:
        measures, message = "", str(error)
    if (field, value) == ("attacks", "quoted"):  # a text like any other
        assert len(measures) == 40
    else:
        assert message.isprintable() and "own.yaml: " in message and len(message) <= 501


def test_each_field_is_written_once(load: Any) -> None:
    with pytest.raises(UserError, match=r"not YAML: expected each field once, given 'seeds' twice, in line \d+"):
        load(yaml.safe_dump(smoke()) + "seeds: [1]\n")
    with pytest.raises(UserError, match="given 0 twice, in line 1"):
        load("split: {digests: {0: x, 0: y}}\n")


def test_a_name_that_is_no_protocol(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown protocol 'digits-v3'; did you mean 'digits-v"):
        protocol.load("digits-v3")
    for missing in (tmp_path / "none.yaml", tmp_path / "folder.yaml"):
        (tmp_path / "folder.yaml").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=missing.name):
            protocol.load(str(missing))
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: not YAML"):
        protocol.load(str(tmp_path / "latin.yaml"))


def test_fields_that_came_later_are_in_no_digest_at_their_defaults(load: Any) -> None:
    plain = load(smoke())
    recipe, split = smoke()["recipe"], smoke()["split"]
    assert load(smoke() | {"recipe": recipe | {"amsgrad": False, "gamma": 0.1}}).measures == plain.measures
    assert not {"amsgrad", "gamma", "steps"} & plain.recipe.model_dump().keys()
    for other in (
        {"recipe": recipe | {"optimizer": "adam", "amsgrad": True, "ensemble": 1}}, {"split": split | {"scored": 10}},
        {"recipe": recipe | {"schedule": "step", "milestones": [2], "gamma": 0.2}},
    ):  # fmt: skip
        assert load(smoke() | other).measures != plain.measures


def test_steps_become_whole_epochs(load: Any) -> None:
    recipe = {
        "learning_rate": 0.1,
        "batch_size": 128,
        "schedule": "step",
        "steps": 80_000,
        "milestones": [40_000, 60_000],
    }
    loaded = load(smoke() | {"recipe": recipe})
    found = loaded.recipe_of("target", samples=50_000)
    assert (found.epochs, found.milestones, found.steps) == (205, (102, 153), None), "391 updates an epoch"
    assert loaded.recipe_of("target", protocol.Axes(epochs=100), 50_000).epochs == 100
    assert load(smoke()).recipe_of("target") == load(smoke()).recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"learning_rate": 0.1, "batch_size": 20}}, "recipe: .*expected epochs or steps, one of the two"),
        ({"recipe": {"learning_rate": 0.1, "batch_size": 20, "epochs": 1, "steps": 1}}, "expected epochs or steps"),
        ({"recipe": smoke()["recipe"] | {"amsgrad": True}}, "amsgrad: expected it with optimizer adam and ensemble 1"),
        (
            {"recipe": smoke()["recipe"] | {"gamma": 0.2}},
            "gamma: expected it with schedule step, given schedule cosine",
        ),
        ({"split": {"scheme": "sizes"}}, "size: expected the number of members with scheme sizes, given none"),
        ({"split": {"scheme": "official"}, "targets": 2}, "targets: expected 1 with split official without size"),
        (
            {"split": {"scheme": "official"}, "adversary": {"epochs": 2}},
            "adversary: expected a split with a shadow world",
        ),
    ],
)
def test_fields_that_do_not_go_together(load: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(smoke() | changes)


# --- Families ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", protocol.families())
def test_a_shipped_family_is_whole(family: str) -> None:
    registry = Registry(SUBMISSIONS)
    found = protocol.members(family)
    assert len({m.measures for m in found.values()}) == len(found), "each has a digest of its own"
    for name, member in found.items():
        assert name == member.name and name.startswith(f"{family}.")
        assert member.pinned == member.dataset.startswith("fashion_mnist/"), "what everybody can prepare is pinned"
        assert member.baseline in member.defenses
        assert all(registry.attack(a).name == a for a in member.attacks)
        assert all(registry.chain(d, member.baseline).name == d for d in member.defenses)
        assert member.architecture != member.evaluator
        named = {member.architecture, member.evaluator, member.second_evaluator}
        assert len(named) == 3 and named <= set(networks.NAMES)
    assert protocol.load(name) == member
    with pytest.raises(
        UserError, match=f"{family}: expected one protocol, given a family of {len(found)}: name one of them"
    ):
        protocol.load(family)
    with pytest.raises(UserError, match="did you mean"):
        protocol.load(f"{name}x")


def test_a_member_has_the_fields_of_family_data_and_network(tmp_path: Path) -> None:
    content = smoke() | {
        "name": "own", "architectures": {"small_cnn": None, "vgg11": {"recipe": {"learning_rate": 0.5}}},
        "datasets": {"one": {}, "two": {"split": {"known_fraction": 0.25}, "architectures": ["simple_cnn"]}},
    }  # fmt: skip
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    found = protocol.members(str(path))
    assert list(found) == ["own.one-small_cnn", "own.one-vgg11", "own.two-simple_cnn"]
    recipe = found["own.one-vgg11"].recipe
    assert recipe.learning_rate == 0.5 and recipe.epochs == found["own.one-small_cnn"].recipe.epochs
    assert found["own.two-simple_cnn"].split.known_fraction == 0.25
    plain = (
        protocol.load(str(tmp_path / "smoke.yaml")) if (tmp_path / "smoke.yaml").exists() else protocol.load("smoke")
    )
    assert found["own.one-small_cnn"].measures == plain.measures, (
        "a member's digest is that of a protocol of these fields"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": []}, r"own.yaml: datasets: expected names, each with the fields that it changes, given \[\]"),
        ({"datasets": {"A": {}}}, "datasets: expected a name of a-z, 0-9 and _, given 'A'"),
        ({"datasets": {"a": 3}}, "datasets.a: expected fields of a protocol, given 3"),
        (
            {"datasets": {"a": {"split": {"sizes": 3}}}},
            "own.yaml: split.sizes: unknown field, given 3; did you mean 'size'",
        ),
        ({"datasets": {"a": {}}, "architectures": 3}, "architectures: expected names"),
    ],
)
def test_a_family_that_is_not_whole(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(smoke() | changes))
    with pytest.raises(UserError, match=message):
        protocol.members(str(path))
