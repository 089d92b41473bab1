"""What the matrix of attacks and defenses shows, a row a cell. Pure functions of ranked tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from leaderboard.kinds import GUARDED, PASSES
from leaderboard.texts import short_names


def matrix(scenarios: pd.DataFrame, metric: str, defenses: Sequence[str], attacks: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: the mean over seeds of an attack on a defense, or why there is none.

    scenarios: `ranking.scenarios` of one task. defenses: in their order. attacks: rows of `ranking.attack_table` in their
    order, the track of each is its group; those that met no required defense come last. Columns attack, defense, row, column
    (short names), group, value, text (what the cell shows), note (its seeds in words).
    """
    pair = ["attack", "defense"]
    ok = scenarios.status == "ok"
    cells = scenarios.assign(value=scenarios[metric].where(ok)).groupby(pair, sort=False).agg(
        value=("value", "mean"), scored=("value", "count"), seeds=("seed", "size")
    )  # fmt: skip
    others = scenarios[~ok].groupby(pair, sort=False)
    reasons = {key: dict(zip(rows.status, rows.reason, strict=True)) for key, rows in others}
    why = [reasons.get(key, {}) for key in cells.index]
    cells["note"] = [
        f"{scored} of {seeds} scored" + "".join(f"; {status}: {reason}" for status, reason in w.items())
        for scored, seeds, w in zip(cells.scored, cells.seeds, why, strict=True)
    ]
    cells["text"] = [
        f"{value:.2f}"
        if scored
        else "failed"
        if set(w) - {"skipped"}
        else PASSES
        if str(w.get("skipped", "")).startswith(GUARDED)
        else "–"
        for value, scored, w in zip(cells.value, cells.scored, why, strict=True)
    ]
    names = {"attack": list(dict.fromkeys(attacks.attack)), "defense": list(dict.fromkeys(defenses))}
    there = {kind: set(scenarios[kind]) for kind in pair}
    ordered = [[n for n in names[k] if n in there[k]] + sorted(there[k] - set(names[k])) for k in pair]
    every = pd.MultiIndex.from_product(ordered, names=pair)
    cells = cells.drop(columns=["scored", "seeds"]).reindex(every).reset_index()
    cells["note"], cells["text"] = cells.note.fillna("not scored"), cells.text.fillna("")
    for kind, short in (("attack", "row"), ("defense", "column")):
        cells[short] = cells[kind].map(short_names(cells[kind].unique()))
    track = dict(zip(attacks.attack, np.where(attacks.null_row.astype(bool), "null rows", attacks.track), strict=True))
    cells["group"] = cells.attack.map(track).fillna("on no required defense")
    return cells
