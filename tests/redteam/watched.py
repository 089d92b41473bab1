"""A process that tells what its own reading of a folder of submissions set off, by Python's audit events.

    python -m tests.redteam.watched HOW FOLDER REPORT

HOW is `list` (the command), `app` (the pages that show cards) or `control` (what an evaluating reader would do). Every
text of a hostile file that could be run holds TOKEN. An event that has it, or the folder, among its arguments, and
code that has it among its names and texts, stem from the files. Allowed are listing the folder, reading its
files, and parsing a text to a syntax tree.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

TOKEN = "zz_redteam"
READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
LOOKING = {"os.listdir", "os.scandir", "glob.glob", "glob.glob/2", "pathlib.Path.glob", "pathlib.Path.rglob"}
ALWAYS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.spawn",
    "pty.spawn",
)
"""What no reading does, whatever its arguments."""
_parse = ast.parse.__code__


class Watch:
    """An audit hook, which cannot be removed: it is on while `on` is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on, self.seen = str(folder), False, 0
        self.found: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.on = False  # what the hook does is no event
        try:
            self.seen += 1
            if event in ALWAYS or (self._hostile(arguments) and not self._allowed(event, arguments)):
                self.found.append(f"{event} {ascii(arguments)[:300]}")
        finally:
            self.on = True

    def _hostile(self, arguments: tuple[Any, ...]) -> bool:
        return any(TOKEN in text or self.folder in text for text in _texts(arguments))

    def _allowed(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "compile":  # flags are no argument: who parses to a tree is known by its frame
            return sys._getframe(2).f_code is _parse and arguments[1] in ("<unknown>", b"<unknown>")
        if event == "open":
            return arguments[1] in (None, "rb") and not arguments[2] & ~READING
        return event in LOOKING


def _texts(value: Any) -> Iterator[str]:
    """All text in the arguments of an event, that of code too."""
    if isinstance(value, CodeType):
        yield from (value.co_filename, value.co_name, *value.co_names, *value.co_varnames)
        yield from _texts(value.co_consts)
    elif isinstance(value, bytes | bytearray):
        yield bytes(value).decode("latin-1")
    elif isinstance(value, str):
        yield value
    elif isinstance(value, os.PathLike):
        yield from _texts(os.fspath(value))
    elif isinstance(value, tuple | list | frozenset | set):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts(list(value.items()))


def read_list(folder: Path) -> None:
    from leakboard.cli import app

    app(["list"], standalone_mode=False)


def read_app(folder: Path) -> None:
    """The page that lists every entry's state, and the card of each."""
    from streamlit.testing.v1 import AppTest

    def states() -> None:
        from leaderboard.views import submit

        submit.show()

    def cards() -> None:
        from leaderboard import tables
        from leaderboard.views import entry

        for known in tables.cards().values():
            for one in known:
                entry._card(one)
                entry._hyperparameters(one, {})

    for page in (states, cards):
        app = AppTest.from_function(page, default_timeout=120).run()
        if app.exception:
            raise RuntimeError(app.exception[0].value)
        shown = "\n".join(str(e.value) for e in app.text)
        print(ascii(shown if page is cards else app.dataframe[0].value.to_csv()))
        if app.markdown or app.get("html"):
            raise RuntimeError("a card was drawn as Markdown or HTML")


def control(folder: Path) -> None:
    """What pydantic did with a text in an annotation, and a loader of submissions would do: each must be found."""
    from typing import get_type_hints

    class Params:
        pass

    Params.__annotations__ = {"power": f"print('{TOKEN}')"}
    for use in (
        lambda: get_type_hints(Params),
        lambda: exec(f"{TOKEN} = 1"),
        lambda: exec(compile(ast.parse(f"{TOKEN} = 1"), "x.py", "exec")),
        lambda: compile(f"{TOKEN} = 1", "x.py", "exec"),
        lambda: __import__(f"{TOKEN}_module"),
        lambda: open(folder / "written", "w").close(),
        lambda: os.mkdir(folder / "made"),
        lambda: os.system("true"),
    ):
        try:
            use()
        except (ImportError, TypeError, NameError):
            continue


def main() -> None:
    how, folder, report = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    for module in (
        "leakboard.cli",
        "benchmark.entries.registry",
        "benchmark.protocol",
        "leaderboard.views.submit",
        "streamlit.testing.v1",
    ):
        importlib.import_module(module)  # what the libraries do when they are imported stems from no file
    watch = Watch(folder)
    watch.on = True
    try:
        {"list": read_list, "app": read_app, "control": control}[how](folder)
    finally:
        watch.on = False
        report.write_text(json.dumps({"seen": watch.seen, "found": watch.found}), "utf-8")


if __name__ == "__main__":
    main()
