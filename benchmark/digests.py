"""The digests that keys, versions and names are made of: of values, and of Python code.

Apart from the store, for the app needs them and no torch; on the standard library alone, so that every version of
Python can be held to the same values.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
from collections.abc import Iterator
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


def code_digest(*paths: Path) -> str:
    """Digest of Python files (UTF-8) that ignores comments, docstrings and layout."""
    return tree_digest(*(ast.parse(path.read_text("utf-8")) for path in paths))


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
