"""Reads what a submission declares, from its syntax tree alone: a closed table of what may stand there.

Nothing of a file is evaluated, and no text of it reaches a library that would: pydantic and typing evaluate
texts in annotations. So the types and constraints of hyperparameters are built here, from this module's own
objects, out of numbers, flags and words whose kind was checked; what the table does not have is refused.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, create_model

from benchmark.api import Card, Hyper, Pretrained, Search
from benchmark.errors import UserError, printable
from benchmark.text import NAME

FIELDS, CHOICES, IDENTIFIER = 64, 100, 64
"""At most: hyperparameters of an entry, choices of a Literal and values of a grid, characters of a hyperparameter's name."""
WORD = r"[A-Za-z0-9_.\-]+"
"""A text that may stand as it is in names of entries, and so in queries, addresses and pages."""
TYPES: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
_KNOWN = "int, float, bool, str or Literal[...], one of these | None, or Annotated[TYPE, Field(...), Search(...)]"
_PLAIN = f"a finite number, a printable text of at most {NAME} characters, True, False or None"
_BOUNDS: Mapping[str, tuple[type, ...]] = {
    "gt": (int, float), "ge": (int, float), "lt": (int, float), "le": (int, float), "multiple_of": (int, float),
    "min_length": (str,), "max_length": (str,), "allow_inf_nan": (float,), "description": (),
}  # fmt: skip
"""What `Field` may say, and of which types; a description of all. An alias, or a field that is left out of dumps, would hide it from the store's keys."""


def literal(node: ast.expr, path: Path) -> Any:
    """Constants and collections of them, and `frozenset(...)` and `Card(...)` of such. Raises UserError for anything else."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not isinstance(
            number, bool
        ):
            return -number
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            items = [literal(e, path) for e in elements]
            return tuple(items) if isinstance(node, ast.Tuple) else items if isinstance(node, ast.List) else set(items)
        case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
            return {literal(cast(ast.expr, k), path): literal(v, path) for k, v in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id="frozenset"), args=[ast.Tuple() | ast.List() | ast.Set() as inner], keywords=[]):
            return frozenset(literal(inner, path))
        case ast.Call(func=ast.Name(id="frozenset"), args=[], keywords=[]):
            return frozenset()
        case ast.Call(func=ast.Name(id="Card")):
            return _made(node, Card, path)
    raise _refused(node, "a literal", path)


def hyperparameters(cls: ast.ClassDef, path: Path, taken: tuple[str, ...] = ()) -> type[Hyper]:
    """The model that a class `Params` describes; `taken` are names that mean something else. Raises UserError."""
    more = cls.decorator_list or cls.keywords or getattr(cls, "type_params", None)
    if more or [getattr(base, "id", "") for base in cls.bases] != ["Hyper"]:
        raise UserError(
            f"{path}: line {cls.lineno}: expected class Params(Hyper) without more, given other bases or a decorator"
        )
    fields: dict[str, Any] = {}
    for statement in cls.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                fields[name] = _field(statement, name, path, taken)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.FunctionDef():
                pass
            case _:
                raise _refused(statement, "NAME: TYPE = DEFAULT in Params", path)
    if len(fields) > FIELDS:
        raise UserError(f"{path}: Params: expected at most {FIELDS} hyperparameters, given {len(fields)}")
    return _model(fields, path)


def marks(params: type[Hyper]) -> dict[str, Pretrained]:
    """The hyperparameters that name pretrained models."""
    fields = params.model_fields.items()
    return {name: mark for name, f in fields for mark in f.metadata if isinstance(mark, Pretrained)}


def _model(fields: dict[str, Any], path: Path) -> type[Hyper]:
    """Types and defaults come from the table; pydantic holds the defaults to the constraints."""
    try:
        model = create_model("Params", __base__=Hyper, **fields)
        defaults = model().model_dump()
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "Params"
        raise UserError(f"{path}: Params: {where}: {wrong['msg']}, given the default {wrong['input']!r}") from None
    except Exception as error:  # pydantic raises several kinds for constraints that don't fit
        raise UserError(f"{path}: Params: {' '.join(str(error).split())}") from None
    for name, (_, given) in fields.items():
        if defaults[name] != given:  # else the entry's plain name would not stand for its defaults
            raise UserError(
                f"{path}: Params: {name}: expected a default that stays as it is, given {given!r}, which is read as {defaults[name]!r}"
            )
    for name, mark in marks(model).items():
        if model.model_fields[name].annotation != str | None or defaults[name] is not None:
            raise UserError(f"{path}: Params: {name}: Pretrained: expected Annotated[str | None, Pretrained()] = None")
        if not isinstance(mark.instead_of, tuple) or any(n == name or n not in [*fields] for n in mark.instead_of):
            raise UserError(
                f"{path}: Params: {name}: Pretrained: instead_of: expected a tuple of other hyperparameters, given {mark.instead_of!r}"
            )
    return model


def _field(statement: ast.AnnAssign, name: str, path: Path, taken: tuple[str, ...]) -> tuple[Any, Any]:
    """The type of a hyperparameter, made of the table's own objects, and its default."""
    own = name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and len(name) <= IDENTIFIER
    if not own or name.startswith(("_", "model_dump", "model_validate")) or hasattr(Hyper, name) or name in taken:
        raise UserError(
            f"{path}: line {statement.lineno}: expected a hyperparameter with another name (this one is taken), "
            f"given {name[: 2 * IDENTIFIER]!r}"
            if own
            else f"{path}: line {statement.lineno}: expected a hyperparameter's name of at most {IDENTIFIER} ASCII letters, "
            f"digits and _, given {name[: 2 * IDENTIFIER]!r}"
        )
    if statement.value is None:
        raise UserError(f"{path}: line {statement.lineno}: {name}: expected a default, given none")
    kind, value = _annotation(statement.annotation, path), literal(statement.value, path)
    if not _plain(value):
        raise _refused(statement.value, f"a default that is {_PLAIN}", path)
    return kind, value


def _annotation(node: ast.expr, path: Path) -> Any:
    match node:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[base, *more])) if more:
            kind, plain = _type(base, path)
            metadata = [_mark(m, plain, path) for m in more]
            if len({type(m) for m in metadata}) < len(metadata):
                raise _refused(node, "Field, Search and Pretrained once each", path)
            return Annotated[(kind, *metadata)]  # type: ignore[return-value]
    return _type(node, path)[0]


def _type(node: ast.expr, path: Path) -> tuple[Any, type | None]:
    """A type of the table, and which of TYPES it is of: None for a Literal."""
    match node:
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name], TYPES[name]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return _choice(inner, path), None
        case (
            ast.BinOp(op=ast.BitOr(), left=ast.Constant(value=None), right=other)
            | ast.BinOp(op=ast.BitOr(), left=other, right=ast.Constant(value=None))
        ) if not isinstance(other, ast.BinOp):
            kind, plain = _type(other, path)
            return kind | None, plain
    raise _refused(node, _KNOWN, path)


def _choice(node: ast.expr, path: Path) -> Any:
    elements = node.elts if isinstance(node, ast.Tuple) else [node]
    values = [literal(element, path) for element in elements]
    for element, value in zip(elements, values, strict=True):
        if not _plain(value) or (isinstance(value, str) and not re.fullmatch(WORD, value)):
            raise _refused(element, "choices that are words, finite numbers, True, False or None", path)
    if not 0 < len(values) <= CHOICES:
        raise UserError(
            f"{path}: line {node.lineno}: Literal: expected from 1 to {CHOICES} choices, given {len(values)}"
        )
    return Literal[tuple(values)]


def _mark(node: ast.expr, kind: type | None, path: Path) -> Any:
    """What stands behind a type in Annotated[...]."""
    match node:
        case ast.Call(func=ast.Name(id="Field")):
            return _constraints(node, kind, path)
        case ast.Call(func=ast.Name(id="Search")) if kind in (int, float):
            search = _made(node, Search, path)
            if not (_finite(search.low) and _finite(search.high)):
                raise _refused(node, "Search(LOW, HIGH) with finite numbers", path)
            if not isinstance(search.log, bool):
                raise _refused(node, "Search with log True or False", path)
            if not isinstance(search.grid, tuple) or len(search.grid) > CHOICES or not all(map(_finite, search.grid)):
                raise _refused(node, f"Search with a grid of at most {CHOICES} finite numbers in a tuple", path)
            return search
        case ast.Call(func=ast.Name(id="Pretrained")):
            return _made(node, Pretrained, path)
    raise _refused(node, "Field(...), Search(...) of a number, or Pretrained(...) behind the type", path)


def _constraints(node: ast.Call, kind: type | None, path: Path) -> Any:
    odd = [k.arg or "**" for k in node.keywords if k.arg not in _BOUNDS]
    if odd or node.args:
        given = odd[0] if odd else "a default"
        raise UserError(f"{path}: line {node.lineno}: Field: expected {', '.join(_BOUNDS)}; given {given}")
    found: dict[str, Any] = {}
    for word in node.keywords:
        name = str(word.arg)
        if kind not in _BOUNDS[name] and name != "description":
            raise _refused(node, f"no {name} in Field of this type", path)
        value = found[name] = literal(word.value, path)
        if name == "description":
            fits, expected = isinstance(value, str) and _plain(value), f"a printable line of at most {NAME} characters"
        elif name == "allow_inf_nan":
            fits, expected = isinstance(value, bool), "True or False"
        elif name.endswith("_length"):
            fits, expected = type(value) is int and 0 <= value <= NAME, f"a whole number from 0 to {NAME}"
        else:
            fits, expected = _finite(value) and (name != "multiple_of" or value > 0), "a finite number"
        if not fits:
            raise _refused(word.value, f"{expected} as {name} of Field", path)
    return Field(**found)


def _plain(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable() and len(value) <= NAME
    return value is None or isinstance(value, bool) or _finite(value)


def _finite(value: Any) -> bool:
    """Whether it is a number that a float or a 64-bit word holds."""
    return (type(value) is int and -(2**63) <= value < 2**63) or (type(value) is float and math.isfinite(value))


def _made(node: ast.Call, kind: type, path: Path) -> Any:
    """One of the contract's own plain records, of literals."""
    if any(k.arg is None for k in node.keywords):
        raise _refused(node, f"{kind.__name__}(...) without **", path)
    values = [literal(a, path) for a in node.args], {str(k.arg): literal(k.value, path) for k in node.keywords}
    try:
        return kind(*values[0], **values[1])
    except TypeError as error:
        raise UserError(f"{path}: line {node.lineno}: {kind.__name__}: {error}") from None


def _refused(node: ast.AST, expected: str, path: Path) -> UserError:
    try:
        given = ast.unparse(node)
    except (
        ValueError,
        RecursionError,
    ):  # Python writes no number of more than 4,300 digits, but reads it in hexadecimal
        given = "what is too long or too deep to be shown"
    line = getattr(node, "lineno", 0)
    return UserError(f"{path}: line {line}: expected {expected}, given {printable(given, 60)!r}")
