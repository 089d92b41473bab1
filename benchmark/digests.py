"""The digests that keys, versions and names are made of: of values, and of Python code.

Apart from the store, for the app needs them and no torch; on the standard library alone, so that every version of
Python can be held to the same values.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any

_LATER = """cf3 ece 2ffc-2fff 31ef 10efd-10eff 1123f-11241 11b00-11b09 11f00-11f10 11f12-11f3a 11f3e-11f59 1342f 13440-13455
1b132 1b155 1d2c0-1d2d3 1df25-1df2a 1e030-1e06d 1e08f 1e4d0-1e4f9 1f6dc 1f774-1f776 1f77b-1f77f 1f7d9 1fa75-1fa77 1fa87-1fa88
1faad-1faaf 1fabb-1fabd 1fabf 1face-1facf 1fada-1fadb 1fae8 1faf7-1faf8 2b739 2ebf0-2ee5d 31350-323af"""
"""Characters that are printable since Unicode 15: `repr` shows them from Python 3.12 on, and escapes them before."""
_ESCAPES = {
    code: ("\\u%04x" if code < 0x10000 else "\\U%08x") % code
    for first, _, last in (span.partition("-") for span in _LATER.split())
    for code in range(int(first, 16), int(last or first, 16) + 1)
}


def digest(*parts: Any) -> str:
    """40 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def tree_digest(*trees: ast.Module) -> str:
    """Digest of syntax trees without their docstrings: the same one on every version of Python that reads the code."""
    state = hashlib.sha256()
    for tree in trees:
        for piece in _dump(tree):
            state.update(piece.encode())
    return state.hexdigest()[:40]


def _dump(tree: ast.AST) -> Iterator[str]:
    """What `ast.dump` of Python 3.11 writes, of which later versions write something else: type parameters that are
    not there and empty texts in f-strings (3.12), no empty lists (3.13). Without recursion: what Python has parsed is not too deep for it.
    """
    rest: list[Any] = [tree]
    while rest:
        node = rest.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, list):
            inside = [part for i, item in enumerate(node) for part in ([", "] if i else []) + [_value(item)]]
            rest += ["]", *reversed(inside), "["]
        else:
            pieces = [f"{type(node).__name__}("]
            for name, value in _fields(node):
                pieces += [f"{name}=" if len(pieces) == 1 else f", {name}=", value]
            rest += [")", *reversed(pieces)]


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The fields that are written, in order."""
    for name in node._fields:
        value: Any = getattr(node, name, None)
        constant = isinstance(node, ast.Constant | ast.MatchSingleton) and name == "value"
        if (value is None and not constant) or (name == "type_params" and not value):
            continue
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = [s for s in value if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        if isinstance(node, ast.JoinedStr):
            value = list(_joined(value))
        yield name, repr(value).translate(_ESCAPES) if constant else _value(value)


def _joined(values: list[ast.expr]) -> Iterator[ast.expr]:
    """The parts of an f-string, with neighbouring texts in one and without empty ones, as Python 3.11 reads it."""
    for is_text, parts in itertools.groupby(values, lambda v: isinstance(v, ast.Constant)):
        texts = list(parts)
        if not is_text:
            yield from texts
        elif text := "".join(t.value for t in texts):  # type: ignore[attr-defined]
            yield ast.Constant(text, kind=texts[0].kind)  # type: ignore[attr-defined]


def _value(value: Any) -> Any:
    """A node or a list of nodes as it is, anything else as text."""
    return value if isinstance(value, ast.AST | list) else repr(value).translate(_ESCAPES)


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a key cannot hold {type(value).__name__}")


# --- The code that numbers are made by --------------------------------------------------------------

_HOME = Path(__file__).parent
_NUMBERS = ("api", "data", "judge", "metrics", "networks", "sandbox.local", "targets")
_STORED = ("targets.store",)
"""Rooms and modules whose code makes numbers, but for what only keeps them. The others carry, check and show them."""


@cache
def code_of(*roots: str) -> str:
    """Digest of definitions, each `room.module:name`, and of all that they reach in the code that makes numbers.

    What a definition reaches: the top-level names of its module that stand in it, and those that it imports. Where a
    definition lies counts for nothing, and neither do comments, docstrings, annotations of functions and what nobody
    reaches: files may move, be renamed and grow. Raises LookupError for a root that is not there.
    """
    pieces = sorted({piece for at in _reach(*roots) for piece in _definition(*at)[0]})
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:40]


@cache
def libraries_of(*roots: str) -> frozenset[str]:
    """The packages that this code uses besides PyTorch, NumPy and Python's own library: their versions make its numbers."""
    imports = [_module(module)[2].get(name, "") for module, name in _reach(*roots)]
    return frozenset({name.split(".")[0] for name in imports} - {*sys.stdlib_module_names, "torch", "numpy", ""})


def _reach(*roots: str) -> set[tuple[str, str]]:
    """The definitions, as module and name, that these stand on."""
    found: set[tuple[str, str]] = set()
    rest = [(root.partition(":")[0], root.partition(":")[2]) for root in roots]
    rooms = (*_NUMBERS, *(module for module, _ in rest))
    while rest:
        at = rest.pop()
        if at not in found:
            found.add(at)
            rest += [(m, n) for m, n in _definition(*at)[1] if n and _lies(m, rooms) and not _lies(m, _STORED)]
    return found


def _lies(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@cache
def _definition(module: str, name: str) -> tuple[list[str], frozenset[tuple[str, str]]]:
    """The digests of a definition's statements, and what they reach."""
    own, imported, foreign = _module(module)
    if name in foreign:
        return [f"{name} is {foreign[name]}"], frozenset()
    if name in imported and name not in own:  # of another module, which this one hands on
        return [], frozenset({imported[name]})
    if name not in own and not name.startswith("__"):  # what every module has is no definition
        raise LookupError(f"benchmark.{module}: expected a definition of {name}, given none")
    dumps: list[str] = []
    reached: set[tuple[str, str]] = set()
    for statement in own.get(name, []):
        names = _Names(module, own.keys() | foreign.keys(), imported)
        dumps.append(tree_digest(ast.Module([names.visit(copy.deepcopy(statement))], [])))
        reached |= names.reached
    return dumps, frozenset(reached - {(module, name)})


@cache
def _module(name: str) -> tuple[dict[str, list[ast.stmt]], dict[str, tuple[str, str]], dict[str, str]]:
    """What a module defines at its top; what it imports of the project, as module and name, "" for all of it; and of others."""
    path = _file(name)
    if path is None:
        raise LookupError(f"no module {name}")
    tree = ast.parse(path.read_text("utf-8"))
    own: dict[str, list[ast.stmt]] = {}
    imported: dict[str, tuple[str, str]] = {}
    foreign: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _HOME.name:
            room = (node.module or "").partition(".")[2]
            for alias in node.names:
                whole = f"{room}.{alias.name}".lstrip(".")
                imported[alias.asname or alias.name] = (whole, "") if _file(whole) else (room, alias.name)
        elif isinstance(node, ast.ImportFrom):
            foreign |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            if any(a.name.split(".")[0] == _HOME.name for a in node.names):
                raise LookupError(f"benchmark.{name}: expected `from {_HOME.name}... import`, which can be followed")
            foreign |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
    for statement in tree.body:
        for defined in _defined(statement):
            own.setdefault(defined, []).append(statement)
    return own, imported, foreign


def _defined(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement defines or, as a call of a name's method, changes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return set()
    if isinstance(statement, ast.Expr):
        call = statement.value.func if isinstance(statement.value, ast.Call) else None
        return {call.value.id} if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) else set()
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | {n.name for n in ast.walk(statement) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def _file(module: str) -> Path | None:
    base = _HOME.joinpath(*module.split(".")) if module else _HOME
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


class _Names(ast.NodeTransformer):
    """Calls what is imported by its own name, leaves out imports of the project and annotations, and notes what is reached."""

    def __init__(self, module: str, own: Set[str], imported: Mapping[str, tuple[str, str]]) -> None:
        self.module, self.own, self.imported = module, own, imported
        self.reached: set[tuple[str, str]] = set()

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.imported and self.imported[node.id][1]:
            at = self.imported[node.id]
        elif node.id in self.own:
            at = (self.module, node.id)
        else:
            return node
        self.reached.add(at)
        return ast.Name(at[1], node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        module = self.imported.get(node.value.id, ("", "-")) if isinstance(node.value, ast.Name) else ("", "-")
        if not module[1]:  # a definition in a module that is imported whole
            self.reached.add((module[0], node.attr))
            return ast.Name(node.attr, node.ctx)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node  # a field's type is kept as it stands, and reaches nothing

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if (node.module or "").split(".")[0] == _HOME.name else node
