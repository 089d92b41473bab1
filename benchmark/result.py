"""One scored scenario: an immutable record. Plain data, so that tables and the app need no torch."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Status = Literal["ok", "failed", "timeout", "out-of-memory", "skipped"]
Trust = Literal["self-reported", "reproduced", "official"]
Isolation = Literal["", "bubblewrap", "reviewed", "trusted"]
"""Where code ran that nobody has reviewed: the weakest place among the row's files that are not listed as reviewed.

bubblewrap: each of them ran isolated, whatever ran beside it. trusted: one of them ran in the judge's process, by
`--trust`. Where every file of the row is listed as reviewed, the weakest place of all: reviewed (the judge's process),
or bubblewrap with `--isolation always`. "" for rows that don't say.
"""
TaskName = Literal["membership", "inversion", "attribute", "stealing", "utility"]


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
    """none, or the needs joined by "+": shadow, partial, bank-online, bank-offline; then guards, if it holds the target's."""
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
        """Raises pydantic's ValidationError for anything that is not a record."""
        return cls.model_validate_json(text)


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
