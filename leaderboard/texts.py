"""How tables, charts and pages write names, numbers and intervals. Pure functions: no torch, no app."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

import pandas as pd

from benchmark.text import base_name, name_parts

LONGEST = 36
"""Most characters of a short name. In a longer one hyperparameters become initials; then the last ones are left out."""


MOST_DIGITS = 6
"""Decimals that a record holds."""


def short_names(names: Iterable[str]) -> dict[str, str]:
    """A short unique name for each: without hyperparameters if that is unique, else with those that tell it apart.

    Settings that all entries of one base name share are left out; what is long still is shortened by `initials`. Names
    that would meet another stay in full.
    """
    names = list(dict.fromkeys(names))
    by_base: dict[str, list[str]] = {}
    for name in names:
        by_base.setdefault(base_name(name), []).append(name)
    candidates = {}
    for base, alike in by_base.items():
        if len(alike) == 1:
            candidates[alike[0]] = base
            continue
        parts = [name_parts(name) for name in alike]
        shared = [set.intersection(*(set(settings) for _, settings in part)) for part in zip(*parts, strict=True)]
        for name, mine in zip(alike, parts, strict=True):
            left = [
                (id, [s for s in settings if s not in same]) for (id, settings), same in zip(mine, shared, strict=True)
            ]
            candidates[name] = initials("+".join(f"{id}[{','.join(s)}]" if s else id for id, s in left))
    shown = list(candidates.values())  # two entries with one name would share a column
    return {name: candidates[name] if shown.count(candidates[name]) == 1 else name for name in names}


def settings_of(table: pd.DataFrame, required: Iterable[str]) -> pd.Series:
    """The name under which each defense's row folds: one setting of those that share a base name (`base_name`).

    table: `ranking.defense_table`. That is the one that the protocol requires first, else the default, else the ranked
    one that comes first. It is chosen without the scores where the protocol or the defense names one.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys(required))}
    base = table.defense.map(base_name)
    heads = {
        name: min(mine, key=lambda d: (order.get(d, len(order)), d != name))  # of equal ones the first
        for name, mine in table.defense.groupby(base, sort=False)
    }
    return base.map(heads)


def initials(name: str) -> str:
    """A name that is longer than LONGEST with its hyperparameters' initials: a[batch_size=5,...] -> a[bs=5,...]."""
    if len(name) <= LONGEST:
        return name
    short = re.sub(r"([a-z_0-9]+)=", lambda m: "".join(word[0] for word in m[1].split("_") if word) + "=", name)
    while len(short) > LONGEST and "," in short.removesuffix(",…]"):
        short = f"{short.removesuffix(',…]').rpartition(',')[0]},…]"
    return short if len(short) <= LONGEST else f"{short[: LONGEST - 1]}…"


def breaking(name: str) -> str:
    """A name as HTML that a line may break behind its signs."""
    return re.sub(r"([_+\[,])", r"\1<wbr>", escape(name))


def digits(table: pd.DataFrame, column: str) -> int:
    """Decimals, 2 or 3, that a column's 95 % intervals support: by the lower quartile of their half-widths."""
    half = float((table[f"{column}_high"] - table[f"{column}_low"]).quantile(0.25)) / 2
    return 2 if half >= 0.01 else 3


def rank_digits(rows: pd.DataFrame, column: str) -> int:
    """Decimals for ranked rows: as many as the intervals support, but more where two ranks would print the same number."""

    def apart(decimals: int) -> bool:
        prints = rows[column].map(lambda v: f"{v:.{decimals}f}")
        return not (rows["rank"].groupby(prints).nunique() > 1).any()

    return next((d for d in range(digits(rows, column), MOST_DIGITS) if apart(d)), MOST_DIGITS)


def interval(table: pd.DataFrame, column: str, digits: int = 3) -> pd.Series:
    """A column's intervals as text, such as 0.62 – 0.67; "" without one."""
    pairs = zip(table[f"{column}_low"], table[f"{column}_high"], strict=True)
    texts = ["" if pd.isna(a) else f"{a:z.{digits}f} – {b:z.{digits}f}" for a, b in pairs]
    return pd.Series(texts, index=table.index, dtype=str)
