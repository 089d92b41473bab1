"""Digests of values and of Python code, of which the keys of the store are made.

This module needs the standard library alone: the app has digests without PyTorch, and a test holds every installed
version of Python to the same ones.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import itertools
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any

_PRINTABLE_SINCE_15 = """cf3 ece 2ffc-2fff 31ef 10efd-10eff 1123f-11241 11b00-11b09 11f00-11f10 11f12-11f3a 11f3e-11f59 1342f 13440-13455
1b132 1b155 1d2c0-1d2d3 1df25-1df2a 1e030-1e06d 1e08f 1e4d0-1e4f9 1f6dc 1f774-1f776 1f77b-1f77f 1f7d9 1fa75-1fa77 1fa87-1fa88
1faad-1faaf 1fabb-1fabd 1fabf 1face-1facf 1fada-1fadb 1fae8 1faf7-1faf8 2b739 2ebf0-2ee5d 31350-323af"""
"""Code points that became printable with Unicode 15 or later: `repr` shows them from Python 3.12 on, and escapes them in 3.11."""
_ESCAPES = {
    code: ("\\u%04x" if code < 0x10000 else "\\U%08x") % code
    for first, _, last in (span.partition("-") for span in _PRINTABLE_SINCE_15.split())
    for code in range(int(first, 16), int(last or first, 16) + 1)
}


def digest(*parts: Any) -> str:
    """The first 40 hex digits of the SHA-256 of the parts' canonical JSON. Raises TypeError for what a key cannot hold."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def tree_digest(*trees: ast.Module) -> str:
    """Digest of syntax trees without their docstrings; every version of Python that can parse the code gives the same."""
    state = hashlib.sha256()
    for tree in trees:
        for piece in _dump_pieces(tree):
            state.update(piece.encode())
    return state.hexdigest()[:40]


def _dump_pieces(tree: ast.AST) -> Iterator[str]:
    """The text of `ast.dump` on Python 3.11, in pieces.

    Later versions differ: 3.12 writes absent type parameters and empty texts in f-strings, 3.13 leaves out empty lists.
    Not recursive, so that it takes any tree that Python has parsed.
    """
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, list):
            inside = [part for i, item in enumerate(node) for part in ([", "] if i else []) + [_node_or_text(item)]]
            stack += ["]", *reversed(inside), "["]
        else:
            pieces = [f"{type(node).__name__}("]
            for name, value in _dumped_fields(node):
                pieces += [f"{name}=" if len(pieces) == 1 else f", {name}=", value]
            stack += [")", *reversed(pieces)]


def _dumped_fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The fields of a node that the dump holds, in order: no docstrings, and no absent ones."""
    for name in node._fields:
        value: Any = getattr(node, name, None)
        is_constant = isinstance(node, ast.Constant | ast.MatchSingleton) and name == "value"
        if (value is None and not is_constant) or (name == "type_params" and not value):
            continue
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = [s for s in value if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        if isinstance(node, ast.JoinedStr):
            value = list(_merged_texts(value))
        yield name, repr(value).translate(_ESCAPES) if is_constant else _node_or_text(value)


def _merged_texts(values: list[ast.expr]) -> Iterator[ast.expr]:
    """The parts of an f-string as Python 3.11 parses it: adjacent texts merged, empty ones dropped."""
    for is_text, parts in itertools.groupby(values, lambda v: isinstance(v, ast.Constant)):
        texts = list(parts)
        if not is_text:
            yield from texts
        elif text := "".join(t.value for t in texts):  # type: ignore[attr-defined]
            yield ast.Constant(text, kind=texts[0].kind)  # type: ignore[attr-defined]


def _node_or_text(value: Any) -> Any:
    """A node or a list of nodes as it is, anything else as text."""
    return value if isinstance(value, ast.AST | list) else repr(value).translate(_ESCAPES)


def _as_json(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a key cannot hold {type(value).__name__}")


# --- The code that numbers are made by --------------------------------------------------------------

_PACKAGE = Path(__file__).parent
_NUMBER_CODE = ("api", "data", "judge", "metrics", "networks", "sandbox.local", "targets")
"""Rooms (packages) and modules whose code results depend on. The others carry, check and show results: they are in no key."""
_STORED = ("targets.store",)
"""What lies in these rooms and still is in no key: it only keeps what the others made."""
_ADDED: dict[str, str] = {}
"""Texts of modules that lie outside of the package, by name."""
_READING = threading.Lock()
"""Attacks are keyed in threads, and Python before 3.11.8 and 3.12.2 ends with SystemError where two parse at once."""


def add_module(name: str, text: str) -> None:
    """Let `code_of` know a module that has no file in the package, such as a user's own network."""
    if _ADDED.get(name) != text:
        _ADDED[name] = text
        for kept in (code_of, libraries_of, _definition, _read):
            kept.cache_clear()


@cache
def code_of(*roots: str) -> str:
    """Digest of definitions, each `room.module:name`, and of all that they use in the code that makes numbers.

    A definition uses the names in it that are top-level in its module or imported by it, and so on from there. The digest
    does not depend on the module that a definition lies in, on comments, docstrings and annotations of functions, or on
    definitions that are not used: files may move, be renamed and grow. Raises LookupError for a root that does not exist.
    """
    pieces = sorted({piece for definition in _reachable(*roots) for piece in _definition(*definition)[0]})
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:40]


@cache
def libraries_of(*roots: str) -> frozenset[str]:
    """The packages that the code of `code_of` imports, besides PyTorch, NumPy and the standard library."""
    imports = [_module(module)[2].get(name, "") for module, name in _reachable(*roots)]
    return frozenset({name.split(".")[0] for name in imports} - {*sys.stdlib_module_names, "torch", "numpy", ""})


def _reachable(*roots: str) -> set[tuple[str, str]]:
    """The roots and all definitions that they use, directly or not, as (module, name)."""
    definitions: set[tuple[str, str]] = set()
    pending = [(root.partition(":")[0], root.partition(":")[2]) for root in roots]
    rooms = (*_NUMBER_CODE, *(module for module, _ in pending))
    while pending:
        definition = pending.pop()
        if definition not in definitions:
            definitions.add(definition)
            pending += [
                (m, n)
                for m, n in _definition(*definition)[1]
                if n and _is_within(m, rooms) and not _is_within(m, _STORED)
            ]
    return definitions


def _is_within(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@cache
def _definition(module: str, name: str) -> tuple[list[str], frozenset[tuple[str, str]]]:
    """The digests of the statements that define a name, and the (module, name) of each definition that they use."""
    own, imported, foreign = _module(module)
    if name in foreign:
        return [f"{name} is {foreign[name]}"], frozenset()
    if name in imported and name not in own:  # re-exported from another module
        return [], frozenset({imported[name]})
    if name not in own and not name.startswith("__"):  # __file__ and the like are in every module
        raise LookupError(f"benchmark.{module}: expected a definition of {name}, given none")
    dumps: list[str] = []
    reached: set[tuple[str, str]] = set()
    for statement in own.get(name, []):
        names = _Canonical(module, own.keys() | foreign.keys(), imported)
        dumps.append(tree_digest(ast.Module([names.visit(copy.deepcopy(statement))], [])))
        reached |= names.reached
    return dumps, frozenset(reached - {(module, name)})


_Module = tuple[dict[str, list[ast.stmt]], dict[str, tuple[str, str]], dict[str, str]]


def _module(name: str) -> _Module:
    with _READING:
        return _read(name)


@cache
def _read(name: str) -> _Module:
    """The top-level statements of a module by the names that they define, and its imports by their local names.

    Imports from the project are (module, name), with name "" for a whole module; imports of other packages are dotted names.
    """
    path = _file(name)
    if path is None and name not in _ADDED:
        raise LookupError(f"no module {name}")
    tree = ast.parse(path.read_text("utf-8") if path else _ADDED[name])
    own: dict[str, list[ast.stmt]] = {}
    imported: dict[str, tuple[str, str]] = {}
    foreign: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise LookupError(f"benchmark.{name}: expected `from {_PACKAGE.name}... import`, given a relative import")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _PACKAGE.name:
            if any(alias.name == "*" for alias in node.names):
                raise LookupError(f"benchmark.{name}: expected names to import, given *")
            room = (node.module or "").partition(".")[2]
            for alias in node.names:
                submodule = f"{room}.{alias.name}".lstrip(".")
                imported[alias.asname or alias.name] = (submodule, "") if _file(submodule) else (room, alias.name)
        elif isinstance(node, ast.ImportFrom):
            foreign |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            if any(a.name.split(".")[0] == _PACKAGE.name for a in node.names):
                raise LookupError(f"benchmark.{name}: expected `from {_PACKAGE.name}... import`, which can be followed")
            foreign |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
    for statement in tree.body:
        for name_defined in _names_defined_by(statement):
            own.setdefault(name_defined, []).append(statement)
    if twice := sorted(own.keys() & {*imported, *foreign}):
        raise LookupError(
            f"benchmark.{name}: expected one meaning of a name, given {twice[0]} as its own and as an import"
        )
    return own, imported, foreign


def _names_defined_by(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement defines or, as a call of a method such as `NAME.add(...)`, changes."""
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
    base = _PACKAGE.joinpath(*module.split(".")) if module else _PACKAGE
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


class _Canonical(ast.NodeTransformer):
    """Gives imported definitions their original names, drops annotations and imports of the project, and notes what is used."""

    def __init__(self, module: str, own: Set[str], imported: Mapping[str, tuple[str, str]]) -> None:
        self.module, self.own, self.imported = module, own, imported
        self.reached: set[tuple[str, str]] = set()

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.imported and self.imported[node.id][1]:
            definition = self.imported[node.id]
        elif node.id in self.own:
            definition = (self.module, node.id)
        else:
            return node
        self.reached.add(definition)
        return ast.Name(definition[1], node.ctx)

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
        return None if (node.module or "").split(".")[0] == _PACKAGE.name else node
