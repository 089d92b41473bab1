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
    assert {loaded.architecture, loaded.evaluator} <= set(networks.NAMES)
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
    "split.scheme: Input should be 'six-way' or 'four-way'": {"split": smoke()["split"] | {"scheme": "two-way"}},
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
