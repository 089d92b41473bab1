"""The summary of a defense that its parent run in MLflow holds: worst case, utility and cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmark.digests import digest
from benchmark.entries.registry import Chain
from benchmark.result import Result
from benchmark.run.tracking import Tracker

if TYPE_CHECKING:
    from leaderboard.ranking import Board

_NUMBERS = (
    *(f"worst_{m}{end}" for m in ("auc", "tpr_at_fpr_0.01") for end in ("", "_low", "_high")),
    "test_accuracy", "test_accuracy_low", "test_accuracy_high", "train_accuracy", "ece", "robust_accuracy",
    "certified_accuracy", "epsilon_lower", "train_seconds", "train_ratio", "ms_per_query", "ms_per_query_alone",
)  # fmt: skip
_TEXTS = ("worst_auc_attack", "worst_tpr_at_fpr_0.01_attack", "reason", "trust", "isolation", "epsilon", "tuned")


@dataclass(frozen=True)
class Summary:
    """The arguments of `Tracker.summarise`. `data`: the data set's name, and a digest of the splits."""

    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    data: tuple[str, str]


def log(tracker: Tracker, results: Iterable[Result], chains: Iterable[Chain], board: Board) -> None:
    """Log a summary of each of these defenses, computed as the board computes it.

    results: all results of the protocol.
    """
    rows = list(results)
    table = _table(rows, board)
    for chain in chains:
        if mine := [r for r in rows if r.defense == chain.name]:
            summary = _summary(table[chain.name], mine, chain, board)
            tracker.summarise(mine[0].protocol, chain.name, summary.metrics, summary.params, summary.tags, summary.data)


def _summary(row: dict[str, Any], mine: list[Result], chain: Chain, board: Board) -> Summary:
    """row: the defense's row of the board's table. mine: the defense's results."""
    over = f"the board's attacks, seeds {', '.join(map(str, board.seeds))}"
    seeds = tuple(sorted({r.seed for r in mine if r.status == "ok"}))
    if seeds and not math.isfinite(
        row["worst_auc"]
    ):  # not all of the board's attacks were run on it: take those that were
        scored = {(r.attack, r.seed) for r in mine if r.task == "membership" and r.status == "ok"}
        met = tuple(sorted({a for a, _ in scored if all((a, s) in scored for s in seeds)}))
        of_its_own = replace(board, required_attacks=met, required_defenses=(), seeds=seeds, baseline=chain.name)
        row, over = _table(mine, of_its_own)[chain.name], f"what it has met, seeds {', '.join(map(str, seeds))}"
    completed = [r for r in mine if r.attack and r.status in ("ok", "skipped")]
    metrics = {n: float(row[n]) for n in _NUMBERS if n in row and math.isfinite(row[n])}
    metrics |= {"scenarios": len(completed), "scenarios_failed": sum(bool(r.attack) for r in mine) - len(completed)}
    tags = {n: str(row[n]) for n in _TEXTS if isinstance(row.get(n), str) and row[n]}
    tags["worst_case_over"] = over
    params = {"dataset": mine[0].dataset, "architecture": mine[0].architecture, "defense": chain.name}
    ids: Counter[str] = Counter()
    for part in chain.parts:
        ids[part.entry.id] += 1  # a cascade may hold an entry twice
        id = part.entry.id + (f"-{ids[part.entry.id]}" if ids[part.entry.id] > 1 else "")
        params |= {f"{id}.{k}": str(v) for k, v in part.params.model_dump(mode="json").items()}
        params |= {f"{id}.{k}": str(v) for k, v in part.key.get("axes", {}).items()}
        if card := part.entry.card:
            card_fields = {
                "title": card.title,
                "authors": ", ".join(card.authors),
                "reference": card.reference,
                "year": card.year,
            }
            tags |= {f"{id}.{k}": str(v) for k, v in card_fields.items() if v is not None}
    splits = sorted({r.provenance.get("split", "") for r in mine})
    return Summary(metrics, params, tags, (mine[0].dataset, digest(*splits)[:32]))


def _table(rows: list[Result], board: Board) -> dict[str, dict[str, Any]]:
    from leaderboard.ranking import defense_table

    table = defense_table(rows, board).set_index("defense")
    return {str(name): table.loc[name].to_dict() for name in table.index}
