"""The papers' numbers beside ours. Numbers and names of entries are in `papers.yaml`; the code names no entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from benchmark.metrics import METRICS
from benchmark.result import Result
from leaderboard.claims import Score, by_seed
from leaderboard.comparison import Estimate, estimate

UNITS = {"percent": (0.01, " %"), "fraction": (1.0, ""), "ms": (1.0, " ms"), "hours": (3600.0, " h")}
"""The factor from a printed number to the units of our records, and the unit's sign as it is printed."""
COSTS = {"train_seconds": "Seconds to train"}
"""Labels of costs in records, which have no entry in METRICS."""
COLUMNS = [
    "table", "row", "metric", "printed", "paper", "ours", "low", "high", "defense", "attack", "protocol", "differs",
    "dataset", "network", "size",
]  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(_Strict):
    """One number of a paper's table, and what of ours stands beside it."""

    row: str
    """Its row, in the paper's words."""
    value: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]
    """The number as it is printed."""
    defense: str = ""
    attacks: tuple[str, ...] = ()
    """Our attacks, of which the best is taken; "" is a target's utility."""
    metric: str = ""
    setting: str = ""
    """In what the paper's setting differs from ours besides data, network and size."""


class Table(_Strict):
    """A table of a paper, or its part for one data set."""

    table: str
    about: str
    dataset: str
    """Our name for a data set that we have, else the paper's."""
    network: str
    size: str
    """Samples of each part of the split, as text."""
    unit: Literal["percent", "fraction", "ms", "hours"]
    protocols: Annotated[tuple[str, ...], Field(min_length=1)]
    numbers: tuple[Number, ...]

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        common = {k: given[k] for k in ("defense", "attacks", "metric") if k in given}
        rest = {k: v for k, v in given.items() if k not in common}
        return rest | {"numbers": [common | number for number in given.get("numbers", ())]}

    @model_validator(mode="after")
    def _whole(self) -> Table:
        for n in self.numbers:
            if not (n.defense and n.attacks and n.metric in METRICS.keys() | COSTS.keys()):
                raise ValueError(f"{self.table}, {n.row}: expected a defense, attacks and a known metric")
        return self


class Paper(_Strict):
    """A paper. `id` is the letter with which the names of its claims begin."""

    id: Annotated[str, Field(pattern="^[A-Z]$")]
    name: str
    cite: str
    tables: tuple[Table, ...]


def load() -> tuple[Paper, ...]:
    """The papers of `papers.yaml`. Raises ValidationError."""
    content = yaml.safe_load(Path(__file__).with_name("papers.yaml").read_text("utf-8"))
    return TypeAdapter(tuple[Paper, ...]).validate_python(content)


def label(metric: str) -> str:
    """A metric's or a cost's name in words."""
    return METRICS[metric].label if metric in METRICS else COSTS[metric]


def is_share(metric: str) -> bool:
    """Whether the metric lies in [0, 1]; costs and times do not."""
    return metric in METRICS and METRICS[metric].high <= 1


def side_by_side(
    paper: Paper, results: Callable[[str], Iterable[Result]], sizes: Mapping[str, int | None]
) -> pd.DataFrame:
    """A table with one row for each number of a paper: as printed, in our units, and ours with its interval.

    results(protocol): records of one edition. sizes: samples of a part by protocol, None where unknown. Ours is NaN
    where it is not scored. Columns: COLUMNS.
    """
    scores: dict[str, _Scored] = {}
    rows = []
    for table in paper.tables:
        scale, mark = UNITS[table.unit]
        for name in table.protocols:
            if name not in scores:
                scores[name] = _Scored(name, list(results(name)))
        values_of = {p: [scores[p].values(n) for n in table.numbers] for p in table.protocols}
        # Numbers of one table are compared with each other, so they come from one protocol: the one that has most of
        # them with an interval, of equals the first listed. What it lacks comes from another.
        order = sorted(table.protocols, key=lambda p: -sum(len(values) > 1 for _, values in values_of[p]))
        for i, number in enumerate(table.numbers):
            row: dict[str, object] = {"table": table.table, "row": number.row, "metric": label(number.metric)}
            row |= {"printed": f"{number.value}{mark}", "paper": float(number.value) * scale, "defense": number.defense}
            row |= {"dataset": table.dataset, "network": table.network, "size": table.size}
            name = max(order, key=lambda p: min(len(values_of[p][i][1]), 2))
            ours, (attacks, values) = scores[name], values_of[name][i]
            own = _estimate(number.metric, values)
            row |= {
                "ours": own.mean,
                "low": own.low,
                "high": own.high,
                "attack": _several(attacks or number.attacks),
            }
            if len(values):
                row |= {"protocol": ours.protocol, "differs": ours.differs(table, number, sizes)}
            rows.append(row)
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


class _Scored:
    """Our scores under one protocol."""

    def __init__(self, protocol: str, results: list[Result]) -> None:
        self.protocol = protocol
        self.first = results[0] if results else None
        self.table: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        for r in results:
            if r.status == "ok":
                self.table.setdefault((r.attack, r.defense), {})[r.seed] = r.cost | r.metrics

    def values(self, number: Number) -> tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.float64]]]:
        """Which of a number's attacks are scored, and the value of the best of them by seed (s,)."""
        there = tuple(a for a in number.attacks if (a, number.defense) in self.table)
        if not there:
            return (), np.empty(0)
        score = Score(protocol=self.protocol, attacks=there, defense=number.defense, metric=number.metric)
        return there, np.array(list(by_seed(self.table, score).values()), float)

    def differs(self, table: Table, number: Number, sizes: Mapping[str, int | None]) -> str:
        """In words, in what the paper's setting differs from ours."""
        assert self.first is not None
        size = sizes.get(self.protocol)
        pairs = {
            "data": (table.dataset, self.first.dataset),
            "network": (table.network, self.first.architecture),
            "size": (table.size, f"{size:,}" if size else "another"),
        }
        parts = [f"{what} {theirs}, not {mine}" for what, (theirs, mine) in pairs.items() if theirs != mine]
        return "; ".join([*parts, *([number.setting] if number.setting else [])])


def _estimate(metric: str, values: np.ndarray[Any, np.dtype[np.float64]]) -> Estimate:
    """The mean over seeds (s,), its interval cut to the metric's range; for times the median, without an interval."""
    if metric in COSTS or metric.startswith("ms_"):
        return Estimate(float(np.median(values)) if len(values) else np.nan, np.nan, np.nan)
    mean, low, high = estimate(values)
    return Estimate(mean, float(np.maximum(low, METRICS[metric].low)), float(np.minimum(high, METRICS[metric].high)))


def _several(attacks: tuple[str, ...]) -> str:
    return attacks[0] if len(attacks) == 1 else f"best of {len(attacks)}"
