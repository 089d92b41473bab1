"""How tables, charts and pages write names, numbers and intervals. Pure functions: no torch, no app."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from benchmark.text import base_name

LONGEST = 36
"""Most characters of a name in a plot. In a longer one hyperparameters become initials; then it is cut."""


def short_names(names: Iterable[str]) -> dict[str, str]:
    """A short unique name for each: without hyperparameters if that is unique, else by `initials`, else in full."""
    short = {name: base_name(name) for name in names}
    taken = list(short.values())
    candidates = {name: s if taken.count(s) == 1 else initials(name) for name, s in short.items()}
    shown = list(candidates.values())  # two entries with one name would share a column
    return {name: s if shown.count(s) == 1 else name for name, s in candidates.items()}


def initials(name: str) -> str:
    """A name that is longer than LONGEST with its hyperparameters' initials: a[batch_size=5,...] -> a[bs=5,...]."""
    if len(name) <= LONGEST:
        return name
    short = re.sub(r"([a-z_0-9]+)=", lambda m: "".join(word[0] for word in m[1].split("_") if word) + "=", name)
    return short if len(short) <= LONGEST else f"{short[: LONGEST - 1]}…"


def digits(table: pd.DataFrame, column: str) -> int:
    """Decimals, 2 or 3, that a column's 95 % intervals support: by the lower quartile of their half-widths."""
    half = float((table[f"{column}_high"] - table[f"{column}_low"]).quantile(0.25)) / 2
    return 2 if half >= 0.01 else 3


def rank_digits(rows: pd.DataFrame, column: str) -> int:
    """Decimals for ranked rows: as many as the intervals support, but 3 where two ranks would print the same number."""
    fine = digits(rows, column)
    prints = rows[column].map(lambda v: f"{v:.{fine}f}")
    return 3 if (rows["rank"].groupby(prints).nunique() > 1).any() else fine


def interval(table: pd.DataFrame, column: str, digits: int = 3) -> pd.Series:
    """A column's intervals as text, such as 0.62 – 0.67; "" without one."""
    pairs = zip(table[f"{column}_low"], table[f"{column}_high"], strict=True)
    texts = ["" if pd.isna(a) else f"{a:z.{digits}f} – {b:z.{digits}f}" for a, b in pairs]
    return pd.Series(texts, index=table.index, dtype=str)
