"""A user's own networks: files `networks/NAME.py` of the project. They are read without running them, and run when built."""

from __future__ import annotations

import ast
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark import reading
from benchmark.api.network import Network
from benchmark.digests import add_module, code_of, libraries_of
from benchmark.errors import UserError, error_line, message_of, printable
from benchmark.networks.architecture import Architecture, Shape

LARGEST = 1 << 20
"""Bytes of a file."""


class Unreadable(UserError, ValueError):
    """A file does not say what a network's file must say, or fails where it is run."""


def path_of(name: str) -> str:
    """The path that messages name: in the project, also where another process has sent the text."""
    return f"networks/{name}.py"


def is_network(text: str) -> bool:
    """Whether a file is meant as a network, by its text, which need not be Python: a folder may hold other files."""
    return any(line.startswith("network = ") for line in text.splitlines())


def texts_in(folder: Path) -> dict[str, str]:
    """The texts of a folder's files that are meant as networks, by name. None of them is run."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        try:
            text = reading.text(path, LARGEST)
        except UserError:
            continue
        if is_network(text):
            found[path.stem] = text
    return found


def read(name: str, text: str) -> Architecture:
    """The network of a file: `network = Architecture("a title", least=32)`, and `def build(classes, shape) -> Network`.

    Its key is made of `build` and of all that it uses, as that of the package's own networks. Raises Unreadable.
    """
    path = path_of(name)
    if not name.isidentifier():
        raise Unreadable(f"{path}: expected a file name of letters, digits and _, given {name!r}")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise Unreadable(f"{path}: expected Python, given: {printable(str(problem), 200)}") from None
    about = _about(tree, path)
    module = f"own_networks.{name}"
    add_module(module, text)
    try:
        code_of(f"{module}:build"), libraries_of(f"{module}:build")
    except (LookupError, RecursionError) as problem:
        raise Unreadable(f"{path}: {str(problem).removeprefix(f'benchmark.{module}: ')}") from None

    def build(classes: int, shape: Shape) -> Network:
        try:
            made = _run(path, text).build(classes, shape)
        except UserError:
            raise
        except Exception as problem:
            lines = [f.lineno for f in traceback.extract_tb(problem.__traceback__) if f.filename == path]
            at = f"{path}, line {lines[-1]}" if lines else path
            raise Unreadable(error_line(type(problem).__name__, message_of(problem), at)) from problem
        if not isinstance(made, Network) or made.head.out_features != classes:
            given = f"a head of {made.head.out_features}" if isinstance(made, Network) else type(made).__name__
            raise Unreadable(f"{path}: build: expected a Network of {classes} classes, given {given}")
        return made

    build.__module__ = f"project.{module}"
    return Architecture(about.title, about.paper, about.least, build)


def _about(tree: ast.Module, path: str) -> Architecture:
    """Title, paper and least size, of literals."""
    calls = [
        s.value
        for s in tree.body
        if isinstance(s, ast.Assign) and [t.id for t in s.targets if isinstance(t, ast.Name)] == ["network"]
    ]
    expected = 'one line network = Architecture("a title", paper="a paper", least=32)'
    call = calls[0] if len(calls) == 1 else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Architecture"):
        raise Unreadable(
            f"{path}: expected {expected}, given {ast.unparse(call)[:100] if call else f'{len(calls)} of them'}"
        )
    try:
        values = [ast.literal_eval(a) for a in call.args]
        about = Architecture(*values, **{str(k.arg): ast.literal_eval(k.value) for k in call.keywords})
    except (TypeError, ValueError, RecursionError):
        raise Unreadable(f"{path}: expected {expected} of literals, given {ast.unparse(call)[:100]}") from None
    texts = isinstance(about.title, str) and isinstance(about.paper, str) and about.title.strip()
    if not texts or type(about.least) is not int or not 1 <= about.least <= 4096 or about.build is not None:
        raise Unreadable(f"{path}: expected {expected}: texts, and 1 to 4096 pixels; given {ast.unparse(call)[:100]}")
    if not any(isinstance(s, ast.FunctionDef) and s.name == "build" for s in tree.body):
        raise Unreadable(f"{path}: expected a function build(classes, shape), given none")
    return about


@cache
def _run(path: str, text: str) -> Any:
    """The module that the file makes; run once a process."""
    module = ModuleType(path)
    module.__file__ = path
    exec(compile(text, path, "exec"), module.__dict__)
    return module
