"""Reading hostile files sets nothing off in the judge: no text of a file is compiled, run or imported, and none is written."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmark.entries.templates import TEMPLATES
from tests.redteam.watched import TOKEN

ROOT = Path(__file__).resolve().parents[2]
ATTACK = TEMPLATES["attack"]
CARD = 'card = Card(title="NAME", authors=("you",), reference="unpublished", year=None)'
FIELD = "power: Annotated[float, Field(gt=0), Search(0.5, 4, log=True)] = 1.0"
PARAMS = "class Params(Hyper):"
CLASS = "class Submission(Attack):"

RUNS = [
    "CODE", '"CODE"', "'int' \"| CODE\"", "b'CODE'", "f'{CODE}'", "(lambda: CODE)()", "[CODE for _ in (1,)]", "{CODE: CODE}",
    "(zz_redteam := CODE)", "(CODE if 1 else 2)", "[*CODE]", "int.zz_redteam", "zz_redteam[CODE]", "not CODE", "(yield CODE)",
]  # fmt: skip
"""Ways to write an expression that does something when it is evaluated; CODE leaves a file."""
PLACES: dict[str, tuple[str, str]] = {
    "annotation": (FIELD, "power: EXPR = 1"),
    "annotated": (FIELD, "power: Annotated[EXPR, Field(gt=0)] = 1"),
    "metadata": (FIELD, "power: Annotated[int, EXPR] = 1"),
    "union": (FIELD, "power: int | EXPR = 1"),
    "optional": (FIELD, "power: EXPR | None = None"),
    "choices": (FIELD, "power: Literal[1, EXPR] = 1"),
    "tuple": (FIELD, "power: tuple[EXPR, ...] = ()"),
    "default": (FIELD, "power: int = EXPR"),
    "bound": (FIELD, "power: Annotated[int, Field(gt=EXPR)] = 1"),
    "description": (FIELD, "power: Annotated[int, Field(description=EXPR)] = 1"),
    "factory": (FIELD, "power: Annotated[int, Field(default_factory=lambda: EXPR)] = 1"),
    "range": (FIELD, "power: Annotated[int, Search(1, EXPR)] = 1"),
    "title": (CARD, 'card = Card(title=EXPR, authors=(), reference="", year=None)'),
    "access": ('access = "posterior"', "access = EXPR"),
    "class level": (CARD, f"{CARD}\n    zz_redteam: EXPR = EXPR"),
    "base": (CLASS, "class Submission(Attack, EXPR):"),
    "decorator": (CLASS, f"@(EXPR)\n{CLASS}"),
    "metaclass": (PARAMS, "class Params(Hyper, metaclass=EXPR):"),
}
SPECIAL: dict[str, str | bytes] = {
    "future": ATTACK.replace(FIELD, 'power: "CODE" = 1'),
    "no future": ATTACK.replace("from __future__ import annotations\n", "").replace(FIELD, "power: CODE = 1"),
    "alias": f"type zz_redteam = CODE\n{ATTACK}",
    "type params": ATTACK.replace(PARAMS, "class Params[T: CODE](Hyper):"),
    "own annotations": ATTACK.replace(FIELD, "__annotations__ = {'power': 'CODE'}"),
    "validator": ATTACK.replace(FIELD, "power: int = 1\n        def model_post_init(self, _): CODE"),
    "configured": ATTACK.replace(FIELD, "model_config = CODE"),
    "conditional": ATTACK.replace(FIELD, 'if CODE:\n            power: "CODE" = 1'),
    "method": ATTACK.replace("    def score(", "    def zz_redteam(self, x=CODE) -> CODE: pass\n\n    def score("),
    "twice": ATTACK.replace(FIELD, 'power: "CODE" = 1\n        power: int = 1'),
    "module": f"CODE\n{ATTACK}\nraise SystemExit(CODE)\n",
    "card annotation": ATTACK.replace(CARD, CARD.replace("card =", 'card: "CODE" =')),
    "nul": ATTACK + "\0",
    "utf-7": b"# coding: utf-7\n" + ATTACK.encode() + b"\n+AGM-ODE\n",
    "rot13": b"# -*- coding: rot13 -*-\n" + ATTACK.encode(),
    "odd coding": f"# coding: {TOKEN}\n{ATTACK}",
    "marked": b"\xef\xbb\xbf" + ATTACK.encode(),
    "utf-16": ATTACK.encode("utf-16"),
    "bytes": ATTACK.encode() + b"# \xff\xfe\n",
    "cr": ATTACK.replace("\n", "\r"),
    "feeds": "\f" + ATTACK.replace("\n\n", "\n\f\n"),
    "escapes": ATTACK.replace("Scores every sample", "\\z \\y \x1b[2J\x07 <script>CODE</script> ![x](http://x)"),
    "odd warnings": ATTACK + "\nzz_redteam = 1if 2else 3, '\\z', 1 is 1, () is (), 0x1for\n",
    "parentheses": f"x = {'(' * 5000}{')' * 5000}",
    "minus": ATTACK.replace(FIELD, f"power: int = {'-' * 100_000}1"),
    "nots": ATTACK.replace(FIELD, f"power: int = {'not ' * 20_000}1"),
    "unions": ATTACK.replace(FIELD, f"power: {' | '.join(['int'] * 20_000)} = 1"),
    "attributes": ATTACK.replace(FIELD, f"power: int{'.x' * 50_000} = 1"),
    "subscripts": ATTACK.replace(FIELD, f"power: {'tuple[' * 150}int{']' * 150} = 1"),
    "strings": ATTACK.replace(FIELD, f"power: {'f' * 1}'{'{' * 100}1{'}' * 100}' = 1"),
    "calls": ATTACK.replace(FIELD, f"power: int = x{'()' * 50_000}"),
    "choices": ATTACK.replace(FIELD, f"power: Literal{list(range(30_000))} = 1"),
    "fields": ATTACK.replace(FIELD, "".join(f"p{i}: int = 1\n        " for i in range(9000))),
    "digits": ATTACK.replace(FIELD, f"power: int = {'9' * 5000}"),
    "hexadecimal": ATTACK.replace(FIELD, f"power: Annotated[int, Field(lt=0x{'f' * 100_000})] = 1"),
    "power": ATTACK.replace(FIELD, "power: int = 9**9**9**9"),
    "repeated": ATTACK.replace(FIELD, "power: str = 'a' * 10**10"),
    "infinite": ATTACK.replace(FIELD, "power: Annotated[float, Search(-1e999, 1e999)] = 1.0"),
    "surrogate": ATTACK.replace(FIELD, 'power: Literal["\\ud800"] = "\\ud800"'),
    "escape": ATTACK.replace(FIELD, 'power: str = "\\x1b]0;owned\\x07"'),
    "long name": ATTACK.replace("power: Ann", f"{'a' * 100_000}: Ann"),
    "folded": ATTACK.replace("power: Ann", "ﬁeld: Ann"),
    "confusable": ATTACK.replace("def score(", "def sсore("),
    "pattern": ATTACK.replace(FIELD, 'power: Annotated[str, Field(pattern="(a+)+$")] = "' + "a" * 100 + '"'),
    "imports": ATTACK + "".join(f"\nimport {TOKEN}_{i}.x" for i in range(5000)),
    "imported": f"from {TOKEN}.CODE import x\n{ATTACK}",
    "megabyte": ATTACK + "#" * (1 << 20),
    "shadows": ATTACK.replace("power: Ann", "model_validate_json: Ann"),
    "dunder": ATTACK.replace("power: Ann", "__class__: Ann"),
    "empty": "",
}  # fmt: skip
NAMES = ["'; touch zz_redteam; '.py", "$(touch zz_redteam).py", "new\nline.py", "\x1b[2J.py", "a b.py", "[red]x.py", "‮yp.py",
         "<script>.py", "-rf.py", "..py", "%s%n.py", "zz_redteam.so.py", "a" * 250 + ".py", "ümlaut.py", "{0.__class__}.py"]  # fmt: skip


def hostile(folder: Path) -> Iterator[Path]:
    """Writes the files, and what is none, to `attacks/`; yields their paths."""
    (folder / "attacks").mkdir(parents=True)
    numbers = itertools.count()

    def new(name: str = "") -> Path:
        return folder / "attacks" / (name or f"hostile_{next(numbers)}.py")

    def write(content: str | bytes, name: str = "") -> Path:
        path = new(name)
        code = f"__import__('pathlib').Path('{folder.parent}/{TOKEN}-{path.stem if not name else 'named'}').touch()"
        content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        path.write_bytes(content.replace(b"CODE", code.encode()))
        return path

    for (old, place), expression in itertools.product(PLACES.values(), RUNS):
        assert old in ATTACK
        yield write(ATTACK.replace(old, place.replace("EXPR", expression)))
    for content in SPECIAL.values():
        yield write(content)
    for name in NAMES:
        yield write(ATTACK.replace(FIELD, 'power: "CODE" = 1'), name)
    path = Path(os.fsdecode(os.fsencode(folder / "attacks") + b"/\xff\xfe.py"))
    path.write_text(ATTACK)
    yield path
    for target in (
        folder.parent / "outside.py",
        folder / "attacks" / "loop.py",
        folder,
        Path("/dev/zero"),
        Path("/nowhere"),
    ):
        path = new("loop.py" if target.name == "loop.py" else "")
        path.symlink_to(target)
        yield path
    (folder.parent / "outside.py").write_text(ATTACK.replace(FIELD, "power: int = zz_redteam"))
    os.mkfifo(path := new())
    yield path
    (path := new()).mkdir()
    yield path
    (path := write(ATTACK)).chmod(0)
    yield path
    (path := new()).touch()
    os.truncate(path, 1 << 36)
    yield path
    here = Path.cwd()
    os.chdir(folder / "attacks")  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.bind("socket.py")
    finally:
        os.chdir(here)
    yield folder / "attacks" / "socket.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(hostile(tmp_path_factory.mktemp("reader") / "submissions"))


@pytest.fixture
def read(files: list[Path], tmp_path: Path) -> Callable[[str], tuple[str, str, dict[str, object]]]:
    """What reading them, one way, prints to stdout and stderr, and what it set off."""
    root = files[0].parents[1]

    def read(how: str) -> tuple[str, str, dict[str, object]]:
        report = tmp_path / "report.json"
        own = {
            "LEAKBOARD_SUBMISSIONS": str(root),
            "LEAKBOARD_PUBLISHED": str(tmp_path),
            "HOME": str(tmp_path),
            "COLUMNS": "300",
        }
        own |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "always", "LEAKBOARD_STORE": str(tmp_path / "store")}
        own |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "LEAKBOARD_OPTUNA": f"sqlite:///{tmp_path}/optuna.db",
        }
        command = [sys.executable, "-m", "tests.redteam.watched", how, str(root), str(report)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | own, capture_output=True, timeout=200, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, done.stderr, json.loads(report.read_text())

    return read


def left(files: list[Path]) -> list[str]:
    return [p.name for p in files[0].parents[2].iterdir() if p.name.startswith(TOKEN)]


@pytest.mark.timeout(240)
def test_listing_hostile_files_sets_nothing_off(
    files: list[Path], read: Callable[[str], tuple[str, str, dict[str, object]]]
) -> None:
    assert len(files) >= 200
    out, error, told = read("list")
    assert told["found"] == [] and int(str(told["seen"])) > 1000
    assert left(files) == []
    assert not [line for line in error.splitlines() if "hostile" in line or TOKEN in line or "unknown" in line], error
    assert all(c.isprintable() or c == "\n" for c in out)
    assert sum(line.startswith("broken") for line in out.splitlines()) > 200
    known = {path.stem for path in files if path.stem.startswith("hostile_")}
    assert {name for name in known if name not in out.replace("/", " ").replace(".", " ").split()} == set()


@pytest.mark.timeout(240)
def test_showing_their_cards_in_the_app_sets_nothing_off(
    files: list[Path], read: Callable[[str], tuple[str, str, dict[str, object]]]
) -> None:
    out, _, told = read("app")
    assert told["found"] == [] and int(str(told["seen"])) > 1000
    assert left(files) == []
    assert "hostile_1.py: line" in out


def test_the_watch_sees_what_an_evaluating_reader_does(
    read: Callable[[str], tuple[str, str, dict[str, object]]],
) -> None:
    """Else seeing nothing would mean nothing."""
    found = [str(line).split()[0] for line in read("control")[2]["found"]]  # type: ignore[attr-defined]
    assert {"compile", "exec", "import", "open", "os.mkdir", "os.system"} <= set(found)
    assert found.count("exec") >= 3 and found.count("compile") >= 3
