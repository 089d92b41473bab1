"""One scored scenario: an immutable record. Plain data, so that tables and the app need no torch."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark.metrics import COSTS, METRICS, TASK_METRICS, Metric
from benchmark.text import given, parsed

Status = Literal["ok", "failed", "timeout", "out-of-memory", "skipped"]
Trust = Literal["self-reported", "reproduced", "official"]
Isolation = Literal["", "bubblewrap", "reviewed", "trusted"]
"""Where code ran that nobody has reviewed: the weakest place among the row's files that are not listed as reviewed.

bubblewrap: each of them ran isolated, whatever ran beside it. trusted: one of them ran in the judge's process, by
`--trust`. Where every file of the row is listed as reviewed, the weakest place of all: reviewed (the judge's process),
or bubblewrap with `--isolation always`. "" for rows that don't say.
"""


def _task(name: str) -> str:
    if name not in (known := (*TASK_METRICS, "utility")):
        raise ValueError(f"expected one of {', '.join(known)}, given {given(name)}")
    return name


TaskName = Annotated[str, AfterValidator(_task)]
"""A kind of attack, of which there is a table; or utility."""
Claim = Literal[
    "epsilon", "delta", "accountant", "adjacency", "sampling", "noise", "robust", "certificate", "extra_data", "attacked_by",
    "tuned", "alone", "lookup",
]  # fmt: skip
"""What a record says in words: of a defense's privacy (`noise`: how secret that is) and radii, what it reads and lacks, how
it was tuned, and what the judge found."""


class Picture(BaseModel):
    """Images as plain bytes: nothing is decoded that a submission could have shaped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, int, int, int]
    """Images, height, width, channels."""
    pixels: str
    """Base64 of one byte a value, 0 to 255, in C order."""

    @model_validator(mode="after")
    def _whole(self) -> Picture:
        try:
            given = len(base64.b64decode(self.pixels, validate=True))
        except binascii.Error:
            raise ValueError("expected pixels in base64") from None
        if min(self.shape) < 1 or math.prod(self.shape) != given:
            raise ValueError(f"expected pixels of shape {self.shape}, given {given} bytes")
        return self

    @classmethod
    def of(cls, images: NDArray[np.floating[Any]]) -> Picture:
        """From images (n, c, h, w) in [0, 1]."""
        rows = np.ascontiguousarray(np.round(np.clip(images, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1))
        return cls(shape=rows.shape, pixels=base64.b64encode(rows.tobytes()).decode())

    def array(self) -> NDArray[np.uint8]:
        """(n, h, w, c), 0 to 255."""
        return np.frombuffer(base64.b64decode(self.pixels), np.uint8).reshape(self.shape)


class Result(BaseModel):
    """The score of one attack on one target, or (task `utility`, attack "") the utility of one target.

    A metric that the sample cannot resolve is absent, never 0. `intervals` are 95 % bootstrap
    intervals over samples. `null_auc` and `null_tpr` hold the metric under permuted membership labels;
    the permutations are the same for all attacks on one target, so that a null worst case is chosen
    over attacks draw by draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """Digest of everything that made it; also its address in the store."""
    protocol: str
    protocol_digest: str
    task: TaskName
    attack: str
    """Canonical entry, such as `nn_sorted` or `attribute_mlp[embedding=untrained]`; "" for utility."""
    defense: str
    """Canonical chain, such as `undefended` or `label_smoothing+diffence[n=10]`."""
    dataset: str
    architecture: str
    seed: int
    status: Status
    reason: str = ""
    """Why it was skipped or failed, in one line."""
    access: str = ""
    knowledge: str = ""
    """none, or the needs joined by "+": shadow, partial, references-online, references-offline; then guards, if it holds the target's."""
    null_row: bool = False
    metrics: dict[str, float] = Field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    roc: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """FPR and TPR of the ROC curve's corners, thinned to at most 100 points."""
    histogram: tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]] | None = None
    """Edges (k + 1) of equal bins, and how many scores of members and of non-members lie in each (k); the outer bins
    hold what lies beyond them. The attack seed is the ROC curve's."""
    pictures: dict[str, Picture] = Field(default_factory=dict)
    """Of an inversion attack: `reconstructions` and `class_means`, one image a class (the first 10 classes)."""
    null_auc: tuple[float, ...] = ()
    null_tpr: tuple[float, ...] = ()
    """TPR at 1 % FPR under permuted labels; empty where 1 % cannot be resolved."""
    claims: dict[str, str] = Field(default_factory=dict)
    cost: dict[str, float] = Field(default_factory=dict)
    """seconds, queries, peak_mb; for utility also train_seconds, ms_per_query, ms_per_query_alone."""
    provenance: dict[str, str] = Field(default_factory=dict)
    """Commit, versions, device, digests of the sources, the split and the data."""
    log: str = ""
    """The last lines that a failed submission printed, escaped."""
    isolation: Isolation = ""
    trust: Trust = "self-reported"
    """official: scored on a secret split. reproduced: scored again elsewhere with the same numbers."""
    finished: float = 0.0
    """Seconds since 1970."""

    def says(self, claim: Claim) -> str:
        """The claim; "" where it has none."""
        return self.claims.get(claim, "")

    @property
    def track(self) -> str:
        """The adversary: access and auxiliary knowledge (RULES 12)."""
        return f"{self.access}/{self.knowledge}" if self.access else ""

    def to_json(self) -> str:
        """Compact JSON, numbers to 6 significant digits: enough for any table, small enough for a tag."""
        unknown: dict[str, Any] = {"roc": None, "histogram": None, "null_auc": [], "null_tpr": [], "finished": 0.0}
        return json.dumps(unknown | _rounded(self.model_dump(mode="json")), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Raises ValueError, in one line, for anything that is not a record within bounds (`from_fields`)."""
        if len(text) > LONGEST:
            raise ValueError(f"expected a record of at most {LONGEST} characters, given {len(text)}")
        return cls.from_fields(parsed(text))

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Result:
        """A record that somebody else wrote, from its fields as JSON has them: lists, numbers, texts.

        Raises ValueError, in one line, where a field is unknown, missing or of another type, a text has no end, a
        metric is none of `METRICS`, or a number is none or beyond what it can be.
        """
        try:
            _RECORD(fields)
            return cls.model_validate(fields)
        except _Refused as problem:
            raise ValueError(": ".join([*problem.where, str(problem)])) from None
        except ValidationError as problem:
            first = problem.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{given(where)[1:-1]}: {first['msg']}") from None


def _rounded(value: Any) -> Any:
    """What JSON can hold and `from_json` reads: a number that is none is left out, with the interval it is in."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if value > 1e8 else float(f"{value:.6g}")
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()  # half a surrogate pair is no text
    if isinstance(value, dict):
        rounded = {_rounded(k): _rounded(v) for k, v in value.items()}
        return {k: v for k, v in rounded.items() if v is not None}
    if isinstance(value, list | tuple):
        items = [_rounded(v) for v in value]
        return None if None in items else items
    return value


# --- What a record that others wrote may hold -------------------------------------------------------

LONGEST = 4 << 20
"""Characters of one record as JSON: its pictures, and 100 points of a curve."""
UNTIL = 4102444800.0
"""The year 2100. Of two scorings the last to finish is shown, so none may come from the end of time."""
_NUMBER = {int, float}  # and not bool, which is an int elsewhere


class _Refused(ValueError):
    """`where`: the names that lead to the value, outermost first."""

    def __init__(self, expected: str, value: object) -> None:
        super().__init__(f"expected {expected}, given {given(value)}")
        self.where: list[str] = []

    def under(self, name: object) -> _Refused:
        self.where.insert(0, given(name)[1:-1])
        return self


def _text(limit: int) -> Any:
    def check(value: object) -> None:
        if type(value) is not str:
            raise _Refused("a text", value)
        if len(value) > limit:
            raise _Refused(f"at most {limit} characters", f"{len(value)}: {value[:20]}")

    return check


def _number(low: float, high: float, whole: bool = False) -> Any:
    def check(value: Any) -> None:
        if type(value) not in _NUMBER or not low <= value <= high or (whole and value != int(value)):
            raise _Refused(f"a {'whole ' * whole}number from {low:.6g} to {high:.6g}", value)

    return check


def _flag(value: object) -> None:
    if type(value) is not bool:
        raise _Refused("true or false", value)


def _seed(value: Any) -> None:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise _Refused("a whole number of at most 64 bits", value)


def _numbers(low: float, high: float, least: int, most: int, rising: bool = False, whole: bool = False) -> Any:
    """A list of so many numbers, each in the range."""
    kinds = {int} if whole else _NUMBER
    what = f"{'whole ' * whole}numbers from {low:.6g} to {high:.6g}"

    def check(values: Any) -> None:
        if type(values) not in (list, tuple) or not least <= len(values) <= most:
            count = least if least == most else f"{least} to {most}"
            raise _Refused(f"a list of {count} {what}", values)
        # Sets and builtins: a curve has a hundred numbers, a board a hundred thousand curves.
        if values and not (kinds.issuperset(map(type, values)) and min(values) >= low and max(values) <= high):
            raise _Refused(what, next((v for v in values if type(v) not in kinds or not low <= v <= high), values))
        if rising and sorted(values) != list(values):
            raise _Refused("numbers that do not fall", values)

    return check


def _lists(*checks: tuple[str, Any]) -> Any:
    """None, or a list for each of the names."""

    def check_all(value: Any) -> None:
        if value is None:
            return
        if type(value) not in (list, tuple) or len(value) != len(checks):
            raise _Refused(f"{len(checks)} lists", value)
        for (name, check), one in zip(checks, value, strict=True):
            try:
                check(one)
            except _Refused as problem:
                raise problem.under(name) from None

    return check_all


_RATES = _numbers(0, 1, 2, 1000, rising=True)
_COUNTS = _numbers(0, 1e9, 1, 1000, whole=True)
_CURVE = _lists(("FPR", _RATES), ("TPR", _RATES))
_BINS = _lists(("edges", _numbers(-1e300, 1e300, 2, 1001, rising=True)), ("members", _COUNTS), ("nonmembers", _COUNTS))


def _curve(value: Any) -> None:
    _CURVE(value)
    if value is not None and (len(value[0]) != len(value[1]) or value[0][0] != 0):
        raise _Refused("as many FPRs as TPRs, the first FPR 0", [*map(len, value), value[0][0]])


def _bins(value: Any) -> None:
    _BINS(value)
    if value is not None and not len(value[0]) - 1 == len(value[1]) == len(value[2]):
        raise _Refused("one edge more than counts of either side", [*map(len, value)])


def _each(most: int, check: Any, limit: int = 300) -> Any:
    """A dict of at most so many values, all alike."""

    def check_all(value: Any) -> None:
        if type(value) is not dict or len(value) > most:
            raise _Refused(f"at most {most} values by name", value)
        for name, one in value.items():
            if len(name) > limit:
                raise _Refused(f"names of at most {limit} characters", name)
            try:
                check(one)
            except _Refused as problem:
                raise problem.under(name) from None

    return check_all


def _known(what: str, checks: Mapping[str, Any]) -> Any:
    """A dict of which every name is known, with a check of its own."""

    def check_all(value: Any) -> None:
        if type(value) is not dict:
            raise _Refused(f"{what}s by name", value)
        for name, one in value.items():
            if name not in checks:
                raise _Refused(f"a {what} that this version knows", name)
            try:
                checks[name](one)
            except _Refused as problem:
                raise problem.under(name) from None

    return check_all


def _range(metric: Metric) -> tuple[float, float]:
    """From where to where, as records hold it: to 6 digits."""
    low, high = (float(f"{end:.6g}") for end in (metric.low, metric.high))
    return min(low, metric.low), max(high, metric.high)


_PICTURE = _known("field", {"shape": _numbers(1, 10_000, 4, 4, whole=True), "pixels": _text(1 << 20)})
_METRICS = _known("metric", {m.name: _number(*_range(m), whole=m.whole) for m in METRICS.values()})
_INTERVALS = _known("metric", {m.name: _numbers(*_range(m), 2, 2, rising=True) for m in METRICS.values()})
_NAME, _WORD, _SAID, _DRAWS = _text(2000), _text(300), _text(10_000), _numbers(0, 1, 0, 10_000)
_RECORD = _known("field", {
    **dict.fromkeys(("key", "protocol", "protocol_digest", "task", "status", "access", "knowledge", "isolation", "trust"), _WORD),
    **dict.fromkeys(("attack", "defense", "dataset", "architecture"), _NAME),
    "reason": _SAID, "log": _text(100_000), "seed": _seed, "null_row": _flag,
    "metrics": _METRICS, "intervals": _INTERVALS, "roc": _curve, "histogram": _bins, "pictures": _each(4, _PICTURE),
    "null_auc": _DRAWS, "null_tpr": _DRAWS, "claims": _each(64, _SAID), "provenance": _each(64, _SAID),
    "cost": _known("cost", dict.fromkeys(COSTS, _number(0, 1e15))), "finished": _number(0, UNTIL),
})  # fmt: skip
"""What each field of a `Result` is held to. A check raises _Refused."""
