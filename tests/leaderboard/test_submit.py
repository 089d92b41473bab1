"""The steps name commands that there are, and the table says how each entry stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.main import get_command

from benchmark import protocol
from benchmark.result import Result
from leaderboard.publish import publish
from leaderboard.ranking import Board
from leaderboard.views.submit import STEPS
from leakboard.cli import app as cli
from tests.leaderboard.conftest import app_page, texts

Toy = tuple[list[Result], Board]
SOURCE = '''
from benchmark.api import Card, Defense
class D(Defense):
    """What it does."""
    card = Card("Selena by hand", ("A. Author",), "ref", 2020)
    stages = ("training",)
'''


def write(folder: Path, name: str, source: str) -> None:
    path = folder / "submissions" / "defenses" / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


def test_the_steps_are_commands_that_there_are() -> None:
    known = get_command(cli).commands  # type: ignore[attr-defined]
    assert len(STEPS) == 5
    for _, commands in STEPS:
        for line in commands.splitlines():
            words = shlex.split(line)
            assert words[0] == "git" or words[1] in known, line
            if "--protocol" in words:
                protocol.load(words[words.index("--protocol") + 1])
    assert {shlex.split(c)[1] for _, c in STEPS} >= {"new", "check", "run", "board"}


def test_each_entry_has_its_state(folder: Path, made_up: Toy) -> None:
    write(folder, "selena", SOURCE)
    write(folder, "broken", "import os; class")
    publish(*made_up, folder / "toy-v1")
    app = app_page("submit").run()
    assert not app.exception
    table = app.dataframe[0].value.set_index("entry")
    assert table.index[0] not in ("selena",), "what can't be read comes first"
    selena = table.loc["selena"]
    assert (selena.readable, selena.method, selena.reviewed) == ("yes", "Selena by hand", False)
    rows = [r for r in made_up[0] if "selena" in r.defense]
    assert (selena.scored, selena.of) == (sum(r.status == "ok" for r in rows), len(rows)), "cascades count"
    assert selena.protocols == "toy-v1"
    assert selena.finished.timestamp() == max(r.finished for r in rows)
    assert re.search(r"line 1: syntax error", table.loc["broken"].readable)
    assert table.loc["broken"].of == 0
    assert table.loc["lira"].readable == "no such file", "scored, but not in the tree"
    app.text_input(key="find").set_value("BROK").run()
    assert list(app.dataframe[0].value.entry) == ["broken"]


def test_reviewed_files_say_so() -> None:
    """On the project's own tree, which lists its baselines as reviewed."""
    app = app_page("submit", find="label_smoothing").run()
    assert not app.exception
    assert list(app.dataframe[0].value.reviewed) == [True]


def test_a_damaged_file_is_named(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    (folder / "other-v1").mkdir()
    (folder / "other-v1" / "scenarios.parquet").write_bytes(b"PAR1 half")
    app = app_page("submit").run()
    assert not app.exception
    assert "other-v1/scenarios.parquet can't be read" in texts(app)
    assert "selena" in set(app.dataframe[0].value.entry)


def test_without_anything_it_says_how_to_begin(folder: Path) -> None:
    app = app_page("submit", protocol="").run()
    assert not app.exception
    assert app.code[-1].value == "leakboard new attack mine"
    assert not app.dataframe
