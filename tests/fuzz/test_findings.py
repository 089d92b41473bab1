"""What fuzzing and reading have found, each as it was found."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from benchmark import protocol
from benchmark.entries.registry import Registry, read
from benchmark.entries.templates import TEMPLATES
from benchmark.errors import UserError
from benchmark.targets.store import Store, digest
from tests.fuzz.fuzzing import bounded, clean_line
from tests.run.test_tracking import record

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1 or ''}, *a{i - 1 or ''}]}}\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: !!timestamp x", "not YAML"),
        ("name: !!bool x", "not YAML"),
        ("name: !!int x", "not YAML"),
        ("name: 2020-99-99", "not YAML"),
        ("name: " + "9" * 5000, "not YAML"),
        ("name: 0x" + "f" * 5000, "own.yaml"),
        (BOMB, "expected no aliases"),
        (MERGES, "expected no aliases"),
        ("a: &a [*a]", "expected no aliases"),
        ("x" * 70_000, "expected a protocol of at most 65536 bytes, given 70000"),
        ("name: ../../etc\n", "own.yaml"),
        ("n\x1b[2J: 1", "not YAML"),
        ('"\\e[2J": 1', r"\x1b[2J"),
    ],
    ids=str,
)
def test_protocols(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with bounded(), pytest.raises(UserError) as error:
        protocol.load(str(path))
    clean_line(str(error.value))
    assert message in str(error.value)


def test_the_name_of_a_protocol_is_no_path(tmp_path: Path) -> None:
    text = (protocol.FOLDER / "smoke.yaml").read_text()
    path = tmp_path / "own.yaml"
    for name in ("../../x", "", "a/b", ".hidden", '"a\\nb"', "x" * 101):
        path.write_text(text.replace("name: smoke", f"name: {name}"))
        with pytest.raises(UserError, match=r"own\.yaml: name: "):
            protocol.load(str(path))


@pytest.mark.parametrize("name", ["a" * 5000, "a" * 5000 + ".yaml", "\0.yaml", "\0", "\ud800.yaml", "\x1b[2J"])
def test_names_that_are_no_files(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown protocol|expected a protocol") as error:
        protocol.load(name)
    clean_line(str(error.value))


def changed(old: str, new: str) -> str:
    assert old in TEMPLATES["attack"]
    return TEMPLATES["attack"].replace(old, new)


DEFAULT = "power: Annotated[float, Field(gt=0), Search(0.5, 4, log=True)] = 1.0"
SUBMISSIONS = {
    "a title that is a number": (changed('title="NAME"', "title=1"), "card: title: expected a text"),
    "a title that a terminal obeys": (changed('title="NAME"', r'title="\x1b[2J"'), "card: title: expected a text, each a printable"),
    "a title over two lines": (changed('title="NAME"', r'title="a\nb"'), "card: title"),
    "a title that turns round": (changed('title="NAME"', r'title="a\u202eb"'), "card: title"),
    "a title without end": (changed('title="NAME"', f'title="{"a" * 301}"'), "card: title"),
    "authors in one text": (changed('authors=("you",)', 'authors="you"'), "card: authors: expected a tuple of texts"),
    "authors that are numbers": (changed('authors=("you",)', "authors=(1,)"), "card: authors"),
    "a year that is a text": (changed("year=None", 'year="2020"'), "card: year: expected a year or None, given '2020'"),
    "a year that is huge": (changed("year=None", f"year={'9' * 4000}"), "card: year"),
    "a null that is a text": (changed("year=None", 'year=None, null="no"'), "card: null: expected True or False, given 'no'"),
    "a field that keys do not cover": (changed("Field(gt=0)", "Field(gt=0, exclude=True)"), "Field: expected gt, ge"),
    "a field by another name": (changed("Field(gt=0)", 'Field(alias="other")'), "given alias"),
    "a field with a default of its own": (changed("Field(gt=0)", "Field(2.0)"), "given a default"),
    "a field that calls": (changed("Field(gt=0)", "Field(default_factory=float)"), "given default_factory"),
    "a hyperparameter named as a method": (changed("power: ", "model_dump: "), "with another name (this one is taken), given 'model_dump'"),
    "a hyperparameter that configures": (changed(DEFAULT, "model_config: int = 1"), "this one is taken"),
    "a hyperparameter that is create_model's": (changed(DEFAULT, "__base__: int = 1"), "this one is taken"),
    "a flag that is a text": (
        changed('access = "posterior"', 'access = "posterior"\n    data_independent = "False"'), "data_independent: expected True or False, given 'False'"
    ),
    "a default that is read as another": (changed(DEFAULT, "word: bool = 'yes'"), "word: expected a default that stays as it is, given 'yes', which is read as True"),
    "a default that is no number": (changed(DEFAULT, "power: float = Literal"), "line 21: expected a literal, given 'Literal'"),
    "a default of bytes": (changed(DEFAULT, "word: str = b'x'"), "expected a literal, given"),
    "a power": (changed("= 1.0", "= 10**10**8"), "expected a literal, given '10 ** 10 ** 8'"),
    "gigabytes": (changed('title="NAME"', 'title="a" * 10**10'), "expected a literal"),
    "many digits": (changed("= 1.0", f"= {'9' * 5000}"), "syntax error"),
    "a file without end": ("#" * (1 << 18) + "\n", "expected a file of at most 262144 bytes, given 262145"),
    "nested without end": ("x = " + "-" * 100_000 + "1", "mine.py"),
    "a chain without end": ("x = 1" + " + 1" * 50_000, "mine.py"),
    "a name without end": (changed("class Submission", f"class {'a' * 100_000}").replace("posterior", "odd"), "access: expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_submissions(tmp_path: Path, name: str) -> None:
    text, message = SUBMISSIONS[name]
    path = tmp_path / "mine.py"
    path.write_text(text)
    with bounded():
        error = read(path, "attack").error
    clean_line(error)
    assert message in error


def test_a_pipe_is_no_submission(tmp_path: Path) -> None:
    """Reading it would wait for ever, and nothing else could be listed."""
    os.mkfifo(tmp_path / "mine.py")
    assert "expected a file, given" in read(tmp_path / "mine.py", "attack").error


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "attacks").mkdir()
    text = changed(DEFAULT, 'word: str = "x"\n        number: float = 1.0')
    (tmp_path / "attacks" / "mine.py").write_text(text)
    return Registry(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine[word=" + "+" * 100_000, "expected an entry of at most 1000 characters, given 100010"),
        ("mine[number=" + "9" * 900 + "]", "number"),
        ("mine[word='a']", "expected a number, true, false, null, or a word of letters"),
        ("mine[word=a'b]", "a word of letters"),
        ("mine[word=<b>]", "a word of letters"),
        ("mine[word=\x1b[2J]", "expected NAME"),
        ("mine[word=&a]", "a word of letters"),
        ("mine[word=]", "a word of letters"),
        ("mine[number=1.2.3]", "expected a number, given '1.2.3'"),
        ("mine[number=--1]", "number: Input should be a valid number"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_names_with_hyperparameters(registry: Registry, spec: str, message: str) -> None:
    with bounded(2), pytest.raises(UserError) as error:
        registry.attack(spec)
    clean_line(str(error.value), 3000)
    assert message in str(error.value)


@pytest.mark.parametrize("word", ["yes", "off", "2020-01-01", "0x10", "1_000", "a.b-c_d", "nan"])
def test_a_word_is_a_word(registry: Registry, word: str) -> None:
    """YAML, which these were read as once, makes a truth, a date or another number of some."""
    part = registry.attack(f"mine[word={word}]")
    assert part.params.model_dump()["word"] == word
    assert registry.attack(part.name).params == part.params


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"auc": math.nan, "f1": 0.5}},
        {"cost": {"seconds": math.inf}},
        {"intervals": {"auc": (math.nan, 1.0)}},
        {"null_auc": (0.5, math.nan)},
        {"finished": -math.inf},
        {"status": "skipped", "reason": "half \ud800"},
        {"claims": {"\ud800": "\udfff"}},
        {"seed": 2**63 - 1},
        {"log": "\x1b[2J\0"},
    ],
    ids=ascii,
)
def test_what_is_kept_can_be_read_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Else the scenario would be scored anew by every call."""
    store, key = Store(tmp_path), digest("k")
    store.save_result(record(key=key, **changes))
    found = store.result(key)
    assert found is not None
    assert found.metrics == ({"f1": 0.5} if "metrics" in changes else record().metrics)


@pytest.mark.parametrize("content", [b"0", b"[]", b"{}", b"null", b'{"sha256": 1}'])
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_a_note_that_is_no_note(tmp_path: Path, content: bytes) -> None:
    store, key = Store(tmp_path), digest("k")
    store.save("kind", key, {})
    store.path("kind", key, ".json").write_bytes(content)
    assert store.load("kind", key) is None and not store.has("kind", key)
    with pytest.raises(UserError, match="expected a note of what was made"):
        store.info("kind", key)
