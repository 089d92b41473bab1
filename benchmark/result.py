"""The record of one scored scenario (attack, defense, seed). Plain data, so that tables and the app need no PyTorch."""

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
from benchmark.text import parse_json, short_repr

Status = Literal["ok", "failed", "timeout", "out-of-memory", "skipped"]
Trust = Literal["self-reported", "reproduced", "official"]
Isolation = Literal["", "bubblewrap", "reviewed", "trusted"]
"""Where a row's code ran: the least isolated place among its files that are not listed as reviewed.

bubblewrap: all of them ran isolated. trusted: one of them ran in the judge's process, by `--trust`. Where all files of
the row are listed as reviewed: reviewed if one of them ran in the judge's process, bubblewrap if none did
(`--isolation always`). "" where the row does not say.
"""


def _known_task(name: str) -> str:
    if name not in (known := (*TASK_METRICS, "utility")):
        raise ValueError(f"expected one of {', '.join(known)}, given {short_repr(name)}")
    return name


TaskName = Annotated[str, AfterValidator(_known_task)]
"""A kind of attack, by the name of its table, or `utility`."""
Claim = Literal[
    "epsilon", "delta", "accountant", "adjacency", "sampling", "noise", "robust", "certificate", "extra_data", "attacked_by",
    "tuned", "alone", "lookup",
]  # fmt: skip
"""A key of `Result.claims`.

The guarantee of differential privacy: epsilon, delta, accountant, adjacency, sampling, and noise (whether others can draw the
same noise). Radii of L-infinity balls: robust (aimed at), certificate (proved). extra_data: what the defense reads besides
the training set. attacked_by: a known attack on it that is not here. tuned: how its hyperparameters were selected. Findings of
the judge: lookup (members are answered otherwise than their near-duplicates), alone (the guards leave the answers of members
and of non-members alone at different rates).
"""


class Picture(BaseModel):
    """Images as raw pixels in base64: no image format is decoded, for a submission made the content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, int, int, int]
    """(n, h, w, c)."""
    pixels: str
    """Base64 of one byte a value, 0 to 255, in the order of `shape`."""

    @model_validator(mode="after")
    def _whole(self) -> Picture:
        try:
            size = len(base64.b64decode(self.pixels, validate=True))
        except binascii.Error:
            raise ValueError("expected pixels in base64") from None
        if min(self.shape) < 1 or math.prod(self.shape) != size:
            raise ValueError(f"expected pixels of shape {self.shape}, given {size} bytes")
        return self

    @classmethod
    def of(cls, images: NDArray[np.floating[Any]]) -> Picture:
        """From images (n, c, h, w) in [0, 1]; values outside are clipped."""
        rows = np.ascontiguousarray(np.round(np.clip(images, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1))
        return cls(shape=rows.shape, pixels=base64.b64encode(rows.tobytes()).decode())

    def array(self) -> NDArray[np.uint8]:
        """The images (n, h, w, c), 0 to 255."""
        return np.frombuffer(base64.b64decode(self.pixels), np.uint8).reshape(self.shape)


class Result(BaseModel):
    """The score of one attack on one target; or the utility of one target (task `utility`, attack "").

    A metric that the sample cannot resolve is absent, never 0. `intervals` are 95 % intervals over samples. `null_auc` and
    `null_tpr` hold the metric under permuted membership labels, one value a permutation. All attacks on one target share
    the permutations, so that the maximum over attacks can be taken permutation by permutation (the null worst case).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """Digest of everything that the numbers depend on; also the record's key in the store."""
    protocol: str
    protocol_digest: str
    task: TaskName
    attack: str
    """Canonical name, such as `nn_sorted` or `attribute_mlp[embedding=untrained]`; "" for utility."""
    defense: str
    """Canonical name of the cascade, such as `undefended` or `label_smoothing+diffence[n=10]`."""
    dataset: str
    architecture: str
    seed: int
    status: Status
    reason: str = ""
    """Why the scenario was skipped or failed, in one line."""
    access: str = ""
    knowledge: str = ""
    """What the attacker knows besides the target: none, or the attack's needs joined by "+"; then guards, with `guards=target`."""
    null_row: bool = False
    metrics: dict[str, float] = Field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    values: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Some of the metrics of a membership attack for each target, in the order of the targets' numbers, where there were several; and
    `class_auc` for each class, where each has members and non-members. `metrics` has their means."""
    roc: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """FPR and TPR of the ROC curve's corners, thinned to at most 100 points."""
    histogram: tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]] | None = None
    """Edges (k + 1) of equal bins, and how many scores of members and of non-members lie in each (k); the outer bins
    hold what lies beyond them, too. Of the same attack seed as `roc`."""
    pictures: dict[str, Picture] = Field(default_factory=dict)
    """For inversion attacks: `reconstructions`, `class_means` and, of public data, `nearest_members`, one image a class (the first 10)."""
    null_auc: tuple[float, ...] = ()
    null_tpr: tuple[float, ...] = ()
    """TPR at 1 % FPR under permuted labels; empty where 1 % cannot be resolved."""
    claims: dict[str, str] = Field(default_factory=dict)
    cost: dict[str, float] = Field(default_factory=dict)
    """seconds, queries (images asked for), peak_mb; for utility also train_seconds, ms_per_query, ms_per_query_alone."""
    provenance: dict[str, str] = Field(default_factory=dict)
    """Commit, versions, device, digests of the sources, the split and the data."""
    log: str = ""
    """The last lines that a failed submission printed, escaped."""
    isolation: Isolation = ""
    trust: Trust = "self-reported"
    """official: scored on a secret split. reproduced: scored again elsewhere with the same numbers."""
    finished: float = 0.0
    """When the scoring ended, in seconds since 1970 (UTC)."""

    def claim(self, name: Claim) -> str:
        """The text of a claim; "" where the record has none of this name."""
        return self.claims.get(name, "")

    @property
    def track(self) -> str:
        """The adversary, as access/knowledge (RULES 12); "" for utility."""
        return f"{self.access}/{self.knowledge}" if self.access else ""

    def to_json(self) -> str:
        """Compact JSON, numbers to 6 significant digits: enough for any table, small enough for a tag."""
        unknown: dict[str, Any] = {
            "roc": None,
            "histogram": None,
            "null_auc": [],
            "null_tpr": [],
            "values": {},
            "finished": 0.0,
        }
        return json.dumps(unknown | _rounded(self.model_dump(mode="json")), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read a record. Raises ValueError, in one line, for any text that is not a record within bounds (`from_fields`)."""
        if len(text) > LONGEST:
            raise ValueError(f"expected a record of at most {LONGEST} characters, given {len(text)}")
        return cls.from_fields(parse_json(text))

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Result:
        """A record that somebody else wrote, from its fields as JSON has them: lists, numbers, texts.

        Raises ValueError, in one line, where a field is unknown, missing or of another type, a text is too long, a
        metric is none of `METRICS`, or a number is NaN or out of its range.
        """
        try:
            _RECORD(fields)
            return cls.model_validate(fields)
        except _Refused as refusal:
            raise ValueError(": ".join([*refusal.where, str(refusal)])) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{short_repr(where)[1:-1]}: {first['msg']}") from None


def _rounded(value: Any) -> Any:
    """The value with its floats rounded to 6 digits. NaN and infinity become None and are left out, with the list they are in."""
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
"""Characters of one record as JSON at most: most are of its pictures."""
YEAR_2100 = 4102444800.0
"""In seconds since 1970. Of two scorings the one that finished last is shown: a record from the far future would always win."""
_NUMBER = {int, float}  # compared by exact type: bool is a subclass of int


class _Refused(ValueError):
    """A value that is not what its field may hold. `where`: the names that lead to it, outermost first."""

    def __init__(self, expected: str, value: object) -> None:
        super().__init__(f"expected {expected}, given {short_repr(value)}")
        self.where: list[str] = []

    def under(self, name: object) -> _Refused:
        self.where.insert(0, short_repr(name)[1:-1])
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


def _number_list(low: float, high: float, least: int, most: int, rising: bool = False, whole: bool = False) -> Any:
    """A check for lists of `least` to `most` numbers from low to high."""
    kinds = {int} if whole else _NUMBER
    what = f"{'whole ' * whole}numbers from {low:.6g} to {high:.6g}"

    def check(values: Any) -> None:
        if type(values) not in (list, tuple) or not least <= len(values) <= most:
            count = least if least == most else f"{least} to {most}"
            raise _Refused(f"a list of {count} {what}", values)
        # Sets and builtins are fast: a curve has a hundred numbers, a board a hundred thousand curves.
        if values and not (
            kinds.issuperset(map(type, values))
            and min(values) >= low
            and max(values) <= high
            and not math.isnan(sum(values))  # a NaN escapes min and max
        ):
            raise _Refused(what, next((v for v in values if type(v) not in kinds or not low <= v <= high), values))
        if rising and sorted(values) != list(values):
            raise _Refused("numbers that do not fall", values)

    return check


def _list_of_lists(*checks: tuple[str, Any]) -> Any:
    """A check for None, or one list for each name, which its own check holds."""

    def check_all(value: Any) -> None:
        if value is None:
            return
        if type(value) not in (list, tuple) or len(value) != len(checks):
            raise _Refused(f"{len(checks)} lists", value)
        for (name, check), one in zip(checks, value, strict=True):
            try:
                check(one)
            except _Refused as refusal:
                raise refusal.under(name) from None

    return check_all


_RATES = _number_list(0, 1, 2, 1000, rising=True)
_COUNTS = _number_list(0, 1e9, 1, 1000, whole=True)
_CURVE = _list_of_lists(("FPR", _RATES), ("TPR", _RATES))
_BINS = _list_of_lists(
    ("edges", _number_list(-1e300, 1e300, 2, 1001, rising=True)), ("members", _COUNTS), ("nonmembers", _COUNTS)
)


def _curve(value: Any) -> None:
    _CURVE(value)
    if value is not None and (len(value[0]) != len(value[1]) or value[0][0] != 0):
        raise _Refused("as many FPRs as TPRs, the first FPR 0", [*map(len, value), value[0][0]])


def _bins(value: Any) -> None:
    _BINS(value)
    if value is not None and not len(value[0]) - 1 == len(value[1]) == len(value[2]):
        raise _Refused("one edge more than counts of either side", [*map(len, value)])


def _mapping_of(most: int, check: Any, limit: int = 300) -> Any:
    """A check for dicts of at most `most` values, each held to the same check; `limit`: characters of a name."""

    def check_all(value: Any) -> None:
        if type(value) is not dict or len(value) > most:
            raise _Refused(f"at most {most} values by name", value)
        for name, one in value.items():
            if len(name) > limit:
                raise _Refused(f"names of at most {limit} characters", name)
            try:
                check(one)
            except _Refused as refusal:
                raise refusal.under(name) from None

    return check_all


def _known_fields(what: str, checks: Mapping[str, Any]) -> Any:
    """A check for dicts whose names are all in `checks`, each value held to the check of its name."""

    def check_all(value: Any) -> None:
        if type(value) is not dict:
            raise _Refused(f"{what}s by name", value)
        for name, one in value.items():
            if name not in checks:
                raise _Refused(f"a {what} that this version knows", name)
            try:
                checks[name](one)
            except _Refused as refusal:
                raise refusal.under(name) from None

    return check_all


def _bounds(metric: Metric) -> tuple[float, float]:
    """The range of a metric, widened to what rounding its ends to 6 digits gives."""
    low, high = (float(f"{end:.6g}") for end in (metric.low, metric.high))
    return min(low, metric.low), max(high, metric.high)


_PICTURE = _known_fields("field", {"shape": _number_list(1, 10_000, 4, 4, whole=True), "pixels": _text(1 << 20)})
_METRICS = _known_fields("metric", {m.name: _number(*_bounds(m), whole=m.whole) for m in METRICS.values()})
_INTERVALS = _known_fields("metric", {m.name: _number_list(*_bounds(m), 2, 2, rising=True) for m in METRICS.values()})
_NAME, _SHORT, _PARAGRAPH, _NULL_VALUES = _text(2000), _text(300), _text(10_000), _number_list(0, 1, 0, 10_000)
_RECORD = _known_fields("field", {
    **dict.fromkeys(("key", "protocol", "protocol_digest", "task", "status", "access", "knowledge", "isolation", "trust"), _SHORT),
    **dict.fromkeys(("attack", "defense", "dataset", "architecture"), _NAME),
    "reason": _PARAGRAPH, "log": _text(100_000), "seed": _seed, "null_row": _flag,
    "metrics": _METRICS, "intervals": _INTERVALS, "roc": _curve, "histogram": _bins, "pictures": _mapping_of(4, _PICTURE),
    "null_auc": _NULL_VALUES, "null_tpr": _NULL_VALUES, "values": _known_fields("metric", {m.name: _number_list(*_bounds(m), 2, 4096) for m in METRICS.values()}),
    "claims": _mapping_of(64, _PARAGRAPH), "provenance": _mapping_of(64, _PARAGRAPH),
    "cost": _known_fields("cost", dict.fromkeys(COSTS, _number(0, 1e15))), "finished": _number(0, YEAR_2100),
})  # fmt: skip
"""What each field of a `Result` is held to. A check raises _Refused."""
