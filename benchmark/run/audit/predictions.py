"""A model's answers on members and on non-members: read from CSV, Parquet and npz within bounds, and checked.

Columns of a table: `p_0` ... `p_9` (probabilities), `logp_0` ... (log-probabilities) or `logit_0` ...; `label`, a whole number
from 0; `member`, 0 or 1, in a file that holds both sides; and, where there are any, `id` (or `file`), `group_NAME` (a subgroup), `x_NAME`
(a number of the input), and for reference models `ref0_p_0` ... with `ref0_member`. An npz has arrays instead: `probabilities`,
`log_probabilities` or `logits` (n, k), `labels` (n,), `members` (n,), `ids` (n,), `group_NAME` (n,), `inputs` (n, ...),
`references` (m, n, k) in the same form as the answers, and `reference_members` (m, n).
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from csv import reader
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp

from benchmark import reading
from benchmark.errors import UserError, printable
from benchmark.metrics import Bools, Floats
from benchmark.text import plain

Ints = NDArray[np.int64]
Texts = NDArray[np.str_]
Form = Literal["probabilities", "log-probabilities", "logits"]
FORMS: dict[Form, tuple[str, str]] = {
    "probabilities": ("p", "probabilities"),
    "log-probabilities": ("logp", "log_probabilities"),
    "logits": ("logit", "logits"),
}
"""The prefix of a table's columns and the name of an npz's array, by what the answers are."""
LARGEST = 1 << 30
"""Bytes of a file at most, packed or not."""
NUMBERS = 250_000_000
"""Numbers at most of all answers together, those of reference models included: 2 GB."""
LEAST = 25
"""Members, and non-members, at least."""
_LONGEST = 1000
"""Characters of an id or a group's name at most."""
OFF = 1e-3
"""How far the sum of a record's probabilities may lie from 1: rounded to four decimals it may."""
_FORMATS = ("csv", "parquet", "npz")


@dataclass(frozen=True)
class Source:
    """A file that answers came from."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Predictions:
    """Answers on n records of k classes, all checked. `form`: what they were before they became log-posteriors."""

    log_posteriors: Floats
    """(n, k), natural logarithm; -inf where a probability is 0."""
    y: Ints
    members: Bools
    form: Form
    ids: Texts | None = None
    groups: Mapping[str, Texts] = field(default_factory=dict)
    """Subgroups (n,) by the name of what they are of."""
    inputs: Floats | None = None
    """(n, d) numbers of the inputs, for the classifier that doesn't ask the model."""
    references: Floats | None = None
    """(m, n, k) log-posteriors of m reference models."""
    reference_members: Bools | None = None
    """(m, n): who was in whose training data. None: nobody was in any."""
    sources: tuple[Source, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def classes(self) -> int:
        return int(self.log_posteriors.shape[1])


def predictions(
    answers: ArrayLike,
    labels: ArrayLike,
    members: ArrayLike,
    *,
    form: Form,
    ids: ArrayLike | None = None,
    groups: Mapping[str, ArrayLike] | None = None,
    inputs: ArrayLike | None = None,
    references: ArrayLike | None = None,
    reference_members: ArrayLike | None = None,
    where: str = "",
    sources: tuple[Source, ...] = (),
    starts: Mapping[str, int] | None = None,
) -> Predictions:
    """Checked predictions of arrays: answers (n, k) of this form, labels (n,) in [0, k), members (n,) bool.

    ids (n,), groups of (n,), inputs (n, ...), references (m, n, k) in the same form, reference_members (m, n) bool. `where`
    begins messages, and `starts` has the first record of each file by its name, so that they name the file. Raises UserError, in one line, for what can't be answers.
    """
    at = f"{where}: " if where else ""
    given, y = _records(answers, labels, form, at, starts)
    n, k = given.shape
    side = flags(members, n, f"{at}members")
    for what, count in (("members", int(side.sum())), ("non-members", int((~side).sum()))):
        if count < LEAST:
            raise UserError(f"{at}expected at least {LEAST} {what}, given {count}: fewer show nothing")
    theirs = None if references is None else _numbers(references, f"{at}references", 3)
    if theirs is not None and (theirs.shape[1:] != (n, k) or not len(theirs)):
        raise UserError(f"{at}references: expected shape (models, {n}, {k}), given {theirs.shape}")
    if given.size + (0 if theirs is None else theirs.size) > NUMBERS:
        raise UserError(f"{at}expected at most {NUMBERS:,} numbers, given more; take a part of the records")
    of_references = None
    if reference_members is not None:
        if theirs is None:
            raise UserError(f"{at}reference_members: expected them with references, given them alone")
        of_references = flags(reference_members, (len(theirs), n), f"{at}reference_members")
    texts = None if ids is None else _texts(ids, n, f"{at}ids")
    if texts is not None:
        _check_ids(texts, side, at)
    return Predictions(
        _log_posteriors(given, form, at, starts), y, side, form, texts,
        {plain(str(name), 60): _texts(values, n, f"{at}group {plain(str(name), 60)}") for name, values in (groups or {}).items()},
        None if inputs is None else _inputs(inputs, n, at),
        None if theirs is None else np.stack([_log_posteriors(a, form, f"{at}reference {i}: ", starts) for i, a in enumerate(theirs)]),
        of_references, sources,
    )  # fmt: skip


def answers(path: Path) -> tuple[Floats, Ints, Source]:
    """Log-posteriors (n, k) and labels (n,) of one file whose members the caller knows: it must not name them.

    Raises UserError, in one line.
    """
    table = _table(path)
    source: Source = table["source"]
    if "members" in table:
        raise UserError(f"{source.name}: expected answers without a column of members, given one that has it")
    return *log_posteriors(table["answers"], table["labels"], table["form"], source.name), source


def log_posteriors(answers: ArrayLike, labels: ArrayLike, form: Form, where: str = "") -> tuple[Floats, Ints]:
    """Checked log-posteriors (n, k) and labels (n,) of answers of this form. Raises UserError, in one line."""
    at = f"{where}: " if where else ""
    given, y = _records(answers, labels, form, at, None)
    return _log_posteriors(given, form, at, None), y


def load(members: Path, nonmembers: Path | None = None) -> Predictions:
    """Predictions of one file with a column `member`, or of a file of members and one of non-members, in the same form.

    The end of a name says what a file is: .csv, .parquet or .npz. Raises UserError, in one line.
    """
    paths = [members] if nonmembers is None else [members, nonmembers]
    tables = [_table(path) for path in paths]
    where = " and ".join(plain(path.name, 120) for path in paths)
    if nonmembers is not None:
        if "members" in tables[0] or "members" in tables[1]:
            raise UserError(
                f"{where}: expected two files without a column of members, given one that has it; give that alone"
            )
        tables = [
            t | {"members": np.full(len(t["labels"]), side)} for t, side in zip(tables, (True, False), strict=True)
        ]
        if odd := {*tables[0]} ^ {*tables[1]}:
            raise UserError(f"{where}: expected the same columns, given {', '.join(sorted(odd))} in one of them alone")
        shapes = [t["answers"].shape[1] for t in tables]
        if shapes[0] != shapes[1]:
            raise UserError(f"{where}: expected equally many classes, given {shapes[0]} and {shapes[1]}")
    elif "members" not in tables[0]:
        raise UserError(f"{where}: expected a column member (npz: an array members), given none; or name --non-members")
    if len({t["form"] for t in tables}) > 1:
        raise UserError(f"{where}: expected one form, given {' and '.join(t['form'] for t in tables)}")
    joined = {name: _joined(name, [t[name] for t in tables]) for name in tables[0] if name not in ("form", "source")}
    groups = {name.removeprefix("group_"): joined.pop(name) for name in [*joined] if name.startswith("group_")}
    answers, labels, side = (joined.pop(name) for name in ("answers", "labels", "members"))
    sources = tuple(t["source"] for t in tables)
    if len({source.sha256 for source in sources}) < len(sources):
        raise UserError(f"{where}: expected members that are no non-members, given the same file twice")
    firsts = np.cumsum([0, *(len(t["labels"]) for t in tables[:-1])]).tolist()
    starts = {source.name: first for source, first in zip(sources, firsts, strict=True)}
    return predictions(
        answers,
        labels,
        side,
        form=tables[0]["form"],
        groups=groups,
        where=where,
        sources=sources,
        starts=starts,
        **joined,
    )


# --- Files ------------------------------------------------------------------------------------------


def _table(path: Path) -> dict[str, Any]:
    """The arrays of a file, named as the arguments of `predictions`, with its form and `source`."""
    kind, name = path.suffix.lower().removeprefix("."), plain(path.name, 120)
    if kind not in _FORMATS:
        raise UserError(f"{name}: expected a file named .csv, .parquet or .npz, given {path.suffix or 'no ending'!r}")
    data = reading.content(path, LARGEST, "predictions")
    if not data:
        raise UserError(f"{name}: expected predictions, given an empty file")
    table = _of_npz(data, name) if kind == "npz" else _of_columns(_columns(data, kind, name), name)
    return table | {"source": Source(name, len(data), hashlib.sha256(data).hexdigest())}


def _of_npz(data: bytes, name: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > 2 * LARGEST:
            raise UserError(f"{name}: expected at most {2 * LARGEST:,} bytes unpacked, given {size:,}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for a damaged file
        raise UserError(
            f"{name}: expected an npz of plain arrays, given something else: {printable(str(error), 120)}"
        ) from None
    forms = [form for form, (_, array) in FORMS.items() if array in found]
    if len(forms) != 1:
        raise UserError(
            f"{name}: expected one of the arrays {', '.join(a for _, a in FORMS.values())}, given {len(forms)}"
        )
    if "labels" not in found:
        raise UserError(f"{name}: expected an array labels, given {', '.join(map(plain, sorted(found)))}")
    if odd := [key for key, array in found.items() if not array.ndim]:
        raise UserError(f"{name}: {plain(odd[0], 60)}: expected a value for each record, given a single one")
    table = {"form": forms[0], "answers": found.pop(FORMS[forms[0]][1])}
    if table["answers"].ndim != 2:
        raise UserError(
            f"{name}: {FORMS[forms[0]][1]}: expected shape (records, classes), given {table['answers'].shape}"
        )
    known = {"labels", "members", "ids", "inputs", "references", "reference_members"}
    if unknown := [key for key in found if key not in known and not key.startswith("group_")]:
        raise UserError(
            f"{name}: expected arrays {', '.join(sorted(known))} and group_NAME, given {plain(unknown[0], 60)!r} too"
        )
    return table | found


def _columns(data: bytes, kind: str, name: str) -> dict[str, NDArray[Any]]:
    """The columns of a CSV or Parquet file."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if kind == "csv":
            head = data[: 1 << 22].split(b"\n", 1)[0].decode("utf-8-sig").strip("\r")
            columns: list[str] = next(iter(reader([head])), [])
            text = {c: pa.string() for c in columns if c == "id" or c.startswith("group_")}
            options = csv.ConvertOptions(column_types=text, strings_can_be_null=False)
            table = csv.read_csv(io.BytesIO(data), convert_options=options)
        else:
            file = parquet.ParquetFile(io.BytesIO(data))
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if size > 2 * LARGEST or file.metadata.num_rows * file.metadata.num_columns > 2 * NUMBERS:
                raise UserError(f"{name}: expected at most {2 * LARGEST:,} bytes unpacked, given more")
            table = file.read()
    except UserError:
        raise
    except Exception as error:  # Arrow's own kinds, and those of Python's for text
        raise UserError(
            f"{name}: expected a {kind} table, given something else: {printable(str(error), 160)}"
        ) from None
    if len({*table.column_names}) < table.num_columns:
        raise UserError(f"{name}: expected columns of different names, given two of one name")
    if not table.num_rows:
        raise UserError(f"{name}: expected records, given a table without rows")
    found = {}
    for column in table.column_names:
        values = table[column]
        if values.null_count:
            first = int(np.flatnonzero(values.is_null().to_numpy())[0])
            raise UserError(
                f"{name}: column {plain(column, 60)}: expected a value in every row, given none, or NaN, in record {first + 1} "
                f"({values.null_count:,} like it)"
            )
        found[column] = values.to_numpy()
    return found


def _of_columns(columns: dict[str, NDArray[Any]], name: str) -> dict[str, Any]:
    """The arrays of a table's columns."""
    forms = [form for form, (prefix, _) in FORMS.items() if f"{prefix}_0" in columns]
    if len(forms) != 1:
        listed = ", ".join(f"{prefix}_0 ..." for prefix, _ in FORMS.values())
        raise UserError(f"{name}: expected columns {listed} of one kind, given {len(forms)} kinds")
    prefix = FORMS[forms[0]][0]
    left = dict(columns)
    table: dict[str, Any] = {"form": forms[0], "answers": _answers(left, f"{prefix}_", name)}
    if "label" not in left:
        raise UserError(
            f"{name}: expected a column label, given {', '.join(plain(c, 30) for c in list(left)[:5]) or 'answers alone'}"
        )
    table["labels"] = left.pop("label")
    for column, field_name in (("member", "members"), ("id", "ids"), ("file", "ids")):
        if column in left and field_name not in table:
            table[field_name] = left.pop(column)
    if references := [i for i in range(1000) if f"ref{i}_{prefix}_0" in left]:
        if references != list(range(len(references))):
            raise UserError(
                f"{name}: expected reference models ref0 to ref{len(references) - 1}, given ref{references[-1]}"
            )
        table["references"] = np.stack([_answers(left, f"ref{i}_{prefix}_", name) for i in references])
        if any(f"ref{i}_member" in left for i in references):
            if missing := [i for i in references if f"ref{i}_member" not in left]:
                raise UserError(
                    f"{name}: expected ref{missing[0]}_member as for the other reference models, given none"
                )
            table["reference_members"] = np.stack([left.pop(f"ref{i}_member") for i in references])
    if inputs := [c for c in left if c.startswith("x_")]:
        table["inputs"] = np.stack([_numbers(left.pop(c), f"{name}: column {plain(c, 60)}", 1) for c in inputs], 1)
    table |= {c: left.pop(c) for c in [*left] if c.startswith("group_") and len(c) > 6}
    if left:
        raise UserError(
            f"{name}: expected {prefix}_0 ..., label, member, id or file, group_NAME, x_NAME and ref0_{prefix}_0 ..., given a column "
            f"{plain(next(iter(left)), 60)!r} too"
        )
    return table


def _answers(columns: dict[str, NDArray[Any]], prefix: str, name: str) -> Floats:
    """The columns PREFIX0, PREFIX1 ... as one array; they are taken out of `columns`."""
    numbers = sorted(int(m[1]) for c in columns if (m := re.fullmatch(rf"{prefix}(\d{{1,6}})", c)))
    if numbers != list(range(len(numbers))):
        gap = next((i for i, number in enumerate(numbers) if i != number), 0)
        raise UserError(
            f"{name}: expected columns {prefix}0 to {prefix}{numbers[-1] if numbers else 1}, given none {prefix}{gap}"
        )
    return np.stack([_numbers(columns.pop(f"{prefix}{i}"), f"{name}: column {prefix}{i}", 1) for i in numbers], 1)


def _joined(name: str, parts: Sequence[Any]) -> Any:
    """The arrays of the files as one; along the records, which are the second axis of what belongs to reference models."""
    if len(parts) == 1:
        return parts[0]
    axis = 1 if name in ("references", "reference_members") else 0
    try:
        arrays = [np.asarray(p) for p in parts]
        if name == "ids" or name.startswith("group_"):
            arrays = [_as_text(a, name) for a in arrays]
        return np.concatenate(arrays, axis)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{name}: expected the same shape in both files, given others: {printable(str(error), 120)}"
        ) from None


# --- Checks -----------------------------------------------------------------------------------------


def _records(
    answers: ArrayLike, labels: ArrayLike, form: Form, at: str, starts: Mapping[str, int] | None
) -> tuple[Floats, Ints]:
    """Answers (n, k), numbers of any kind as yet, and their labels (n,) in [0, k)."""
    if form not in FORMS:
        raise UserError(f"{at}form: expected one of {', '.join(FORMS)}, given {form!r}")
    given = _numbers(answers, f"{at}answers", 2)
    n, k = given.shape
    if k < 2:
        raise UserError(
            f"{at}expected answers for at least 2 classes, given {k}; a binary model has one for either class"
        )
    return given, _labels(labels, n, k, at, starts)


def as_array(values: Any, what: str) -> NDArray[Any]:
    """The values as an array. Raises UserError for what is none, such as lists of unequal lengths."""
    detached = (
        values.detach().cpu() if hasattr(values, "detach") else values
    )  # a tensor of PyTorch's may keep gradients
    try:
        return np.asarray(detached)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{what}: expected an array, given something else: {printable(str(error), 120)}") from None


def _numbers(values: ArrayLike, what: str, dimensions: int) -> Floats:
    array = as_array(values, what)
    if array.ndim != dimensions:
        raise UserError(f"{what}: expected {dimensions} dimension{'s' * (dimensions > 1)}, given shape {array.shape}")
    if array.dtype.kind not in "fiu":
        raise UserError(f"{what}: expected numbers, given {'text' if array.dtype.kind in 'OUS' else array.dtype}")
    return array.astype(np.float64, copy=False)


def flags(values: ArrayLike, shape: int | tuple[int, int], what: str) -> Bools:
    array, expected = as_array(values, what), (shape,) if isinstance(shape, int) else shape
    if array.shape != expected:
        raise UserError(f"{what}: expected shape {expected}, given {array.shape}")
    if array.dtype.kind not in "bfiu" or not np.isin(array, (0, 1)).all():
        raise UserError(f"{what}: expected 0 or 1 (or true and false), given something else")
    return array.astype(bool)


def _labels(values: ArrayLike, n: int, k: int, at: str, starts: Mapping[str, int] | None) -> Ints:
    array = as_array(values, f"{at}labels")
    if array.shape != (n,):
        raise UserError(f"{at}labels: expected one a record, shape ({n},), given {array.shape}")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all() or (array != np.floor(array)).any():
        raise UserError(f"{at}labels: expected whole numbers from 0 to {k - 1}, given something else")
    if out := np.flatnonzero((array < 0) | (array >= k)).tolist():
        raise UserError(
            f"{at}labels: expected 0 to {k - 1}, for there are {k} classes, given {array[out[0]]:g} in {_record(out[0], starts)}"
        )
    return array.astype(np.int64)


def _texts(values: ArrayLike, n: int, what: str) -> Texts:
    array = as_array(values, what)
    if array.shape != (n,):
        raise UserError(f"{what}: expected one a record, shape ({n},), given {array.shape}")
    return _as_text(array, what)


def _as_text(array: NDArray[Any], what: str) -> Texts:
    """As text (n,). NumPy keeps every text as wide as the longest one. Raises UserError for one that is too long."""
    try:
        longest = max(map(len, map(str, array.tolist())), default=0) if array.dtype.kind in "OUS" else 0
    except (ValueError, SystemError):  # code points that are none
        raise UserError(f"{what}: expected text, given something else") from None
    if longest > _LONGEST:
        raise UserError(f"{what}: expected at most {_LONGEST} characters a record, given {longest:,}")
    return array.astype(str)


def _inputs(values: ArrayLike, n: int, at: str) -> Floats:
    array = as_array(values, f"{at}inputs")
    if array.ndim < 1 or len(array) != n or array.dtype.kind not in "bfiu":
        raise UserError(f"{at}inputs: expected {n} rows of numbers, given {array.dtype} of shape {array.shape}")
    if not array.size:
        raise UserError(f"{at}inputs: expected at least one number a record, given shape {array.shape}")
    flat: Floats = array.reshape(n, -1).astype(np.float64)
    if np.isinf(flat).any() or np.isnan(flat).all(0).any():  # some may be missing
        raise UserError(f"{at}inputs: expected finite numbers, given infinite ones or a column without any")
    return flat


def _check_ids(ids: Texts, members: Bools, at: str) -> None:
    """Raises UserError where an id is there twice: once on either side, or twice on one."""
    names, counts = np.unique(ids, return_counts=True)
    twice = names[counts > 1]
    if not len(twice):
        return
    both = np.intersect1d(ids[members], ids[~members])
    if len(both):
        raise UserError(
            f"{at}expected members that are no non-members, given {len(both):,} ids on both sides, such as {plain(str(both[0]), 40)!r}"
        )
    raise UserError(
        f"{at}ids: expected every record once, given {len(twice):,} ids twice or more, such as {plain(str(twice[0]), 40)!r}"
    )


def _log_posteriors(values: Floats, form: Form, at: str, starts: Mapping[str, int] | None) -> Floats:
    """Log-posteriors (n, k) of answers of this form. Raises UserError for the first record that can't be one."""
    if form == "logits":
        _check(np.isfinite(values).all(1), values, f"{at}expected finite logits", starts)
        return np.asarray(log_softmax(values, axis=1), np.float64)
    if form == "probabilities":
        with np.errstate(invalid="ignore"):
            _check(
                ((values >= 0) & (values <= 1 + OFF)).all(1), values, f"{at}expected probabilities in [0, 1]", starts
            )
        sums = values.sum(1)
        _check(
            np.abs(sums - 1) <= OFF, sums[:, None], f"{at}expected probabilities that sum to 1 (within {OFF:g})", starts
        )
        with np.errstate(divide="ignore"):
            return np.log(values)
    with np.errstate(invalid="ignore"):
        _check((values <= OFF).all(1), values.max(1)[:, None], f"{at}expected log-probabilities, 0 or less", starts)
    sums = logsumexp(values, axis=1)
    _check(
        np.abs(sums) <= OFF,
        np.exp(sums)[:, None],
        f"{at}expected log-probabilities whose exponentials sum to 1 (within {OFF:g})",
        starts,
    )
    return values


def _check(fine: Any, values: Floats, message: str, starts: Mapping[str, int] | None) -> None:
    if fine.all():
        return
    row = int(np.flatnonzero(~fine)[0])
    bad = values[row]
    odd = bad[~np.isfinite(bad)] if not np.isfinite(bad).all() else bad[np.argsort(-np.abs(bad - 0.5), kind="stable")]
    many = f"{int((~fine).sum()):,} record{'s' * (int((~fine).sum()) > 1)}"
    raise UserError(f"{message}, given {odd[0]:.6g} in {_record(row, starts)} ({many} like it)")


def _record(row: int, starts: Mapping[str, int] | None) -> str:
    """How a message names a record: by its number in its file, from 1."""
    if not starts or len(starts) < 2:
        return f"record {row + 1}"
    name, first = max(((n, f) for n, f in starts.items() if f <= row), key=lambda item: item[1])
    return f"record {row - first + 1} of {name}"
