"""Reads what a submission declares (card, needs, hyperparameters) from its syntax tree, without running it.

No code of a file is evaluated. Nor does a text of it reach a library that would evaluate it, as pydantic and typing do with
texts in annotations: types and constraints of hyperparameters are built here from this module's own objects and from
literals that were checked. What is not in the tables below is refused.
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
"""Limits: hyperparameters of an entry; choices of a Literal, and values of a grid; characters of a hyperparameter's name."""
WORD = r"[A-Za-z0-9_.\-]+"
"""A text that needs no escaping in names of entries, and so in queries, addresses and pages."""
TYPES: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
"""The types that a hyperparameter may have, besides Literal, by their names in annotations."""
_KNOWN_TYPES = "int, float, bool, str or Literal[...], one of these | None, or Annotated[TYPE, Field(...), Search(...)]"
_SCALAR_VALUES = f"a finite number, a printable text of at most {NAME} characters, True, False or None"
_BOUNDS: Mapping[str, tuple[type, ...]] = {
    "gt": (int, float), "ge": (int, float), "lt": (int, float), "le": (int, float), "multiple_of": (int, float),
    "min_length": (str,), "max_length": (str,), "allow_inf_nan": (float,), "description": (),
}  # fmt: skip
"""The arguments that `Field` may have, and the types that each goes with; a description goes with all.

An alias, or a field that is left out of dumps, would hide a hyperparameter from the store's keys.
"""


def literal(node: ast.expr, path: Path) -> Any:
    """The value of a constant, of a collection of constants, or of `frozenset(...)` or `Card(...)` of such. Raises UserError for others."""
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
            return _record(node, Card, path)
    raise _error(node, "a literal", path)


def hyperparameters(cls: ast.ClassDef, path: Path, taken: tuple[str, ...] = ()) -> type[Hyper]:
    """The pydantic model that a class `Params` describes. Raises UserError for what the tables do not have.

    `taken`: names that hyperparameters cannot have, for they mean fields of the recipe or of the adversary.
    """
    unsupported = cls.decorator_list or cls.keywords or getattr(cls, "type_params", None)
    if unsupported or [getattr(base, "id", "") for base in cls.bases] != ["Hyper"]:
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
                raise _error(statement, "NAME: TYPE = DEFAULT in Params", path)
    if len(fields) > FIELDS:
        raise UserError(f"{path}: Params: expected at most {FIELDS} hyperparameters, given {len(fields)}")
    return _model(fields, path)


def pretrained_marks(params: type[Hyper]) -> dict[str, Pretrained]:
    """The `Pretrained` marks of the hyperparameters that name pretrained models, by hyperparameter."""
    fields = params.model_fields.items()
    return {name: mark for name, f in fields for mark in f.metadata if isinstance(mark, Pretrained)}


def _model(fields: dict[str, Any], path: Path) -> type[Hyper]:
    """The model of fields from `_field`. Raises UserError for defaults that their types or constraints do not allow."""
    try:
        model = create_model("Params", __base__=Hyper, **fields)
        defaults = model().model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "Params"
        raise UserError(f"{path}: Params: {where}: {first['msg']}, given the default {first['input']!r}") from None
    except Exception as error:  # pydantic raises several kinds for constraints that don't fit
        raise UserError(f"{path}: Params: {' '.join(str(error).split())}") from None
    for name, (_, default) in fields.items():
        if defaults[name] != default:  # the entry's name without brackets stands for these defaults
            raise UserError(
                f"{path}: Params: {name}: expected a default that stays as it is, given {default!r}, which is read as {defaults[name]!r}"
            )
    for name, mark in pretrained_marks(model).items():
        if model.model_fields[name].annotation != str | None or defaults[name] is not None:
            raise UserError(f"{path}: Params: {name}: Pretrained: expected Annotated[str | None, Pretrained()] = None")
        if not isinstance(mark.instead_of, tuple) or any(n == name or n not in [*fields] for n in mark.instead_of):
            raise UserError(
                f"{path}: Params: {name}: Pretrained: instead_of: expected a tuple of other hyperparameters, given {mark.instead_of!r}"
            )
    return model


def _field(statement: ast.AnnAssign, name: str, path: Path, taken: tuple[str, ...]) -> tuple[Any, Any]:
    """The type of a hyperparameter, built from TYPES, and its default."""
    valid_identifier = (
        name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and len(name) <= IDENTIFIER
    )
    if (
        not valid_identifier
        or name.startswith(("_", "model_dump", "model_validate"))
        or hasattr(Hyper, name)
        or name in taken
    ):
        raise UserError(
            f"{path}: line {statement.lineno}: expected a hyperparameter with another name (this one is taken), "
            f"given {name[: 2 * IDENTIFIER]!r}"
            if valid_identifier
            else f"{path}: line {statement.lineno}: expected a hyperparameter's name of at most {IDENTIFIER} ASCII letters, "
            f"digits and _, given {name[: 2 * IDENTIFIER]!r}"
        )
    if statement.value is None:
        raise UserError(f"{path}: line {statement.lineno}: {name}: expected a default, given none")
    kind, value = _annotated_type(statement.annotation, path), literal(statement.value, path)
    if not _is_scalar(value):
        raise _error(statement.value, f"a default that is {_SCALAR_VALUES}", path)
    return kind, value


def _annotated_type(node: ast.expr, path: Path) -> Any:
    """The type that an annotation means, with its metadata where it is Annotated[...]."""
    match node:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[base, *arguments])) if arguments:
            kind, base_type = _type(base, path)
            metadata = [_metadata(m, base_type, path) for m in arguments]
            if len({type(m) for m in metadata}) < len(metadata):
                raise _error(node, "Field, Search and Pretrained once each", path)
            return Annotated[(kind, *metadata)]  # type: ignore[return-value]
    return _type(node, path)[0]


def _type(node: ast.expr, path: Path) -> tuple[Any, type | None]:
    """The type that an annotation means, and the member of TYPES that it is, apart from None; None for a Literal."""
    match node:
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name], TYPES[name]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return _literal_type(inner, path), None
        case (
            ast.BinOp(op=ast.BitOr(), left=ast.Constant(value=None), right=other)
            | ast.BinOp(op=ast.BitOr(), left=other, right=ast.Constant(value=None))
        ) if not isinstance(other, ast.BinOp):
            kind, base_type = _type(other, path)
            return kind | None, base_type
    raise _error(node, _KNOWN_TYPES, path)


def _literal_type(node: ast.expr, path: Path) -> Any:
    """Literal[...] of the choices in its brackets."""
    elements = node.elts if isinstance(node, ast.Tuple) else [node]
    values = [literal(element, path) for element in elements]
    for element, value in zip(elements, values, strict=True):
        if not _is_scalar(value) or (isinstance(value, str) and not re.fullmatch(WORD, value)):
            raise _error(element, "choices that are words, finite numbers, True, False or None", path)
    if not 0 < len(values) <= CHOICES:
        raise UserError(
            f"{path}: line {node.lineno}: Literal: expected from 1 to {CHOICES} choices, given {len(values)}"
        )
    return Literal[tuple(values)]


def _metadata(node: ast.expr, kind: type | None, path: Path) -> Any:
    """The `Field`, `Search` or `Pretrained` behind a type in Annotated[...]."""
    match node:
        case ast.Call(func=ast.Name(id="Field")):
            return _constraints(node, kind, path)
        case ast.Call(func=ast.Name(id="Search")) if kind in (int, float):
            search = _record(node, Search, path)
            if not (_is_finite_number(search.low) and _is_finite_number(search.high)):
                raise _error(node, "Search(LOW, HIGH) with finite numbers", path)
            if not isinstance(search.log, bool):
                raise _error(node, "Search with log True or False", path)
            if (
                not isinstance(search.grid, tuple)
                or len(search.grid) > CHOICES
                or not all(map(_is_finite_number, search.grid))
            ):
                raise _error(node, f"Search with a grid of at most {CHOICES} finite numbers in a tuple", path)
            return search
        case ast.Call(func=ast.Name(id="Pretrained")):
            return _record(node, Pretrained, path)
    raise _error(node, "Field(...), Search(...) of a number, or Pretrained(...) behind the type", path)


def _constraints(node: ast.Call, kind: type | None, path: Path) -> Any:
    """`Field(...)` with the constraints of this call, checked for a hyperparameter of type `kind`."""
    unknown = [k.arg or "**" for k in node.keywords if k.arg not in _BOUNDS]
    if unknown or node.args:
        refused = unknown[0] if unknown else "a default"
        raise UserError(f"{path}: line {node.lineno}: Field: expected {', '.join(_BOUNDS)}; given {refused}")
    constraints: dict[str, Any] = {}
    for keyword_node in node.keywords:
        name = str(keyword_node.arg)
        if kind not in _BOUNDS[name] and name != "description":
            raise _error(node, f"no {name} in Field of this type", path)
        value = constraints[name] = literal(keyword_node.value, path)
        if name == "description":
            fits, expected = (
                isinstance(value, str) and _is_scalar(value),
                f"a printable line of at most {NAME} characters",
            )
        elif name == "allow_inf_nan":
            fits, expected = isinstance(value, bool), "True or False"
        elif name.endswith("_length"):
            fits, expected = type(value) is int and 0 <= value <= NAME, f"a whole number from 0 to {NAME}"
        else:
            fits, expected = _is_finite_number(value) and (name != "multiple_of" or value > 0), "a finite number"
        if not fits:
            raise _error(keyword_node.value, f"{expected} as {name} of Field", path)
    return Field(**constraints)


def _is_scalar(value: Any) -> bool:
    """Whether a hyperparameter may have this value: see `_SCALAR_VALUES`."""
    if isinstance(value, str):
        return value.isprintable() and len(value) <= NAME
    return value is None or isinstance(value, bool) or _is_finite_number(value)


def _is_finite_number(value: Any) -> bool:
    """Whether it is a finite float, or an int of at most 64 bits."""
    return (type(value) is int and -(2**63) <= value < 2**63) or (type(value) is float and math.isfinite(value))


def _record(node: ast.Call, kind: type, path: Path) -> Any:
    """A `Card`, `Search` or `Pretrained` of the literals in this call. Raises UserError for arguments that it does not have."""
    if any(k.arg is None for k in node.keywords):
        raise _error(node, f"{kind.__name__}(...) without **", path)
    values = [literal(a, path) for a in node.args], {str(k.arg): literal(k.value, path) for k in node.keywords}
    try:
        return kind(*values[0], **values[1])
    except TypeError as error:
        raise UserError(f"{path}: line {node.lineno}: {kind.__name__}: {error}") from None


def _error(node: ast.AST, expected: str, path: Path) -> UserError:
    try:
        source = ast.unparse(node)
    except (ValueError, RecursionError):  # ValueError: Python writes no integer of over 4,300 digits
        source = "what is too long or too deep to be shown"
    line = getattr(node, "lineno", 0)
    return UserError(f"{path}: line {line}: expected {expected}, given {printable(source, 60)!r}")
