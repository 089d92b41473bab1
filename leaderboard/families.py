"""The members of a family of protocols beside each other, with their mean: what papers print over data sets and networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd


def siblings(name: str, names: Sequence[str]) -> list[str]:
    """Those of `names` in the family of the protocol FAMILY.MEMBER, itself among them; none for a protocol alone."""
    family, dot, _ = name.rpartition(".")
    return [n for n in names if n.rpartition(".")[0] == family] if dot else []


def beside(tables: Mapping[str, pd.DataFrame], entry: str, metric: str, *, largest_first: bool = False) -> pd.DataFrame:
    """One row an entry: its value with each member and their mean. Columns: the entry, mean, ranked, and the members without their family.

    tables: of `ranking.defense_table` or `ranking.attack_table`, by member; entry: their column of names; metric: their column that
    is shown. Only what is ranked with a member counts there; `ranked`: with how many. The mean is over all members, so that
    entries are compared on the same data: NaN for an entry that is not ranked with each; these come last.
    """
    values = {
        name.rpartition(".")[2]: table[table.reason == ""].set_index(entry)[metric] for name, table in tables.items()
    }
    found = pd.DataFrame(values, dtype=float)
    means = pd.DataFrame({"mean": found.mean(axis=1, skipna=False), "ranked": found.notna().sum(axis=1)})
    whole = means.join(found).rename_axis(entry).reset_index()
    return whole.sort_values(["mean", entry], ascending=[not largest_first, True], ignore_index=True)
