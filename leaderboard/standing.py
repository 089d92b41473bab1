"""What of an audited model and a board's defenses may be compared, and what stands between them. Pure functions of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from benchmark.run.audit.report import Audit
from benchmark.text import NAME, base_name, plain
from leaderboard.forest import Beside
from leaderboard.ranking import WORST, Board


@dataclass(frozen=True)
class Facts:
    """What a board's numbers rest on."""

    dataset: str
    architecture: str
    classes: int | None
    """Of the data; None where no record says it."""
    members: int
    nonmembers: int
    """Scored members and non-members of a target: the median over rows."""
    tracks: Mapping[str, str]
    """The track (access and knowledge) of each attack of the pool, by its name."""
    canaries: bool
    """Whether the members are planted canaries."""
    seeds: int


def facts(frame: pd.DataFrame, table: pd.DataFrame, board: Board, canaries: bool) -> Facts:
    """frame: `ranking.scenarios`. table: its `ranking.defense_table`. canaries: whether the protocol plants them."""
    pool = table.attrs["pool"]
    scored = frame[(frame.task == "membership") & (frame.status == "ok")]
    by_class = scored.result[scored.class_auc.notna()]
    first = frame.result.iloc[0]
    tracks = scored[scored.attack.isin(pool)].groupby("attack", observed=True).track.first()
    counts = scored[["members", "nonmembers"]].median().fillna(0)
    return Facts(
        first.dataset, first.architecture, len(by_class.iloc[0].values.get("class_auc", ())) or None if len(by_class) else None,
        int(counts.members), int(counts.nonmembers), {a: str(tracks.get(a, "")) for a in pool}, canaries, len(board.seeds),
    )  # fmt: skip


def metrics(audit: Audit, table: pd.DataFrame) -> list[str]:
    """The metrics whose worst case both the audit and a ranked defense have; the one that ranks first."""
    ranked, first = table[table.reason == ""], table.attrs["metric"]
    both = [m for m in WORST if m in audit.worst and ranked[f"worst_{m}"].notna().any()]
    return sorted(both, key=lambda m: m != first)


def beside(audit: Audit, metric: str) -> Beside:
    """The audited model as a row of the plot."""
    case = audit.worst[metric]
    return Beside(
        plain(audit.title, 120), case.value, case.low, case.high, case.null,
        plain(case.attack, NAME) + (", low scores" if case.reversed else ""), audit.model.nonmembers.accuracy,
    )  # fmt: skip


def verdict(audit: Audit, facts: Facts) -> tuple[bool, str]:
    """Whether the two may stand in one plot, and in one or two sentences why not, or on what condition."""
    if audit.verdict.state == "unclear":
        return False, "Not comparable: the audit is unclear, so that its numbers are no measure of leakage."
    if facts.canaries:
        return False, "Not comparable: the members of this board are planted canaries, and yours are not."
    if facts.classes and facts.classes != audit.model.classes:
        return False, (
            f"Not comparable: the model was trained on other data. It tells {audit.model.classes} classes apart; "
            f"{facts.dataset} has {facts.classes}."
        )
    return True, (
        f"Comparable only if the model was trained on {facts.dataset}, which no audit can tell. Even then this is for orientation, and "
        "not a rank: the lines below the plot say what differs."
    )


def differences(audit: Audit, facts: Facts) -> list[str]:
    """What differs between the audit and the board besides the data, one sentence or two each."""
    ran = {base_name(a.name) for a in audit.attacks if a.counts}
    pool = list(facts.tracks)
    lacking = [a for a in pool if base_name(a) not in ran]
    some = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
    referring = sum("references" in track for track in facts.tracks.values())
    chance = max((c.null for m, c in audit.worst.items() if m == "auc"), default=math.nan)
    luck = f" By chance alone the audit's worst AUC reaches {chance:.3f}." if math.isfinite(chance) else ""
    network = audit.model.network or "not told by its answers"
    found = [
        f"Network: {plain(network, NAME)} here, {facts.architecture} there.",
        f"Records: {audit.model.members.count:,} members and {audit.model.nonmembers.count:,} non-members here, {facts.members:,} and "
        f"{facts.nonmembers:,} of each model there. The fewer there are, the larger a worst case is by luck.{luck}",
        f"Attacks: of the {len(pool)} that decide there, {len(pool) - len(lacking)} ran and count here"
        + (f" (not {some}). What did not run could find more." if lacking else "."),
    ]
    if referring:
        found.append(
            f"Reference models: {audit.model.references or 'none'} here; {referring} of the attacks there have some, trained like the "
            "target. Without them low false positive rates are understated."
        )
    found.append(
        "Estimate: one model here; attack and sign are chosen on the records that they are reported on, which reads larger, and the "
        f"interval is over records. There it is a mean over models and {facts.seeds} seeds; attack and sign are chosen on the other "
        "seeds, and the interval is over seeds (RULES 17, 21). Neither interval says how the other's numbers would move."
    )
    return found
