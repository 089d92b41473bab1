"""What a defense's parent run in MLflow says of it: its worst case, its utility and its cost, for the UI to compare."""

from __future__ import annotations

import math
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
    """What `Tracker.summarise` takes."""

    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    data: tuple[str, str]


def log(tracker: Tracker, results: Iterable[Result], chains: Iterable[Chain], board: Board) -> None:
    """Have MLflow say of these defenses what all results of their protocol say, by the board's own rules."""
    rows = list(results)
    table = _table(rows, board)
    for chain in chains:
        if mine := [r for r in rows if r.defense == chain.name]:
            found = _summary(table[chain.name], mine, chain, board)
            tracker.summarise(mine[0].protocol, chain.name, found.metrics, found.params, found.tags, found.data)


def _summary(row: dict[str, Any], mine: list[Result], chain: Chain, board: Board) -> Summary:
    """`row`: of the board's table; `mine`: the defense's results."""
    over = f"the board's attacks, seeds {', '.join(map(str, board.seeds))}"
    seeds = tuple(sorted({r.seed for r in mine if r.status == "ok"}))
    if seeds and not math.isfinite(
        row["worst_auc"]
    ):  # the board's attacks have not all met it: what did is all there is
        alone = replace(board, required_attacks=(), required_defenses=(), seeds=seeds, baseline=chain.name)
        row, over = _table(mine, alone)[chain.name], f"what it has met, seeds {', '.join(map(str, seeds))}"
    done = [r for r in mine if r.attack and r.status in ("ok", "skipped")]
    metrics = {n: float(row[n]) for n in _NUMBERS if n in row and math.isfinite(row[n])}
    metrics |= {"scenarios": len(done), "scenarios_failed": sum(bool(r.attack) for r in mine) - len(done)}
    tags = {n: str(row[n]) for n in _TEXTS if isinstance(row.get(n), str) and row[n]}
    tags["worst_case_over"] = over
    params = {"dataset": mine[0].dataset, "architecture": mine[0].architecture, "defense": chain.name}
    for part in chain.parts:
        params |= {f"{part.entry.id}.{k}": str(v) for k, v in part.params.model_dump(mode="json").items()}
        params |= {f"{part.entry.id}.{k}": str(v) for k, v in part.key.get("axes", {}).items()}
        if card := part.entry.card:
            said = {
                "title": card.title,
                "authors": ", ".join(card.authors),
                "reference": card.reference,
                "year": card.year,
            }
            tags |= {f"{part.entry.id}.{k}": str(v) for k, v in said.items() if v is not None}
    splits = sorted({r.provenance.get("split", "") for r in mine})
    return Summary(metrics, params, tags, (mine[0].dataset, digest(*splits)[:32]))


def _table(rows: list[Result], board: Board) -> dict[str, dict[str, Any]]:
    from leaderboard.ranking import defense_table

    table = defense_table(rows, board).set_index("defense")
    return {str(name): table.loc[name].to_dict() for name in table.index}
