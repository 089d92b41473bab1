"""Made-up results: a maker of single records, and a small board of many entries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmark.result import Result
from leaderboard.ranking import Board

TRACKS = {"loss": "", "random": "", "lira": "bank-online", "nn_sorted": "shadow", "boundary": "", "gradient": "partial"}
STRENGTH = {"random": 0.0, "loss": 0.06, "boundary": 0.05, "nn_sorted": 0.09, "lira": 0.16, "gradient": 0.11}
DEFENSES = {
    "undefended": (1.0, 0.84, 12.0), "label_smoothing[epsilon=0.3]": (1.35, 0.85, 12.5), "early_stopping": (0.7, 0.82, 6.0),
    "selena": (0.35, 0.80, 310.0), "dp_sgd[noise=0.5]": (0.1, 0.72, 95.0), "hamp": (0.55, 0.82, 15.0),
    "undefended+memguard": (0.8, 0.84, 14.0), "constant": (0.0, 0.10, 0.1), "selena+diffence[n=10]": (0.3, 0.79, 380.0),
}  # fmt: skip


def make_result(task: str, attack: str, defense: str, seed: int, **changes: object) -> Result:
    """A record with status ok; `metrics` are completed by the counts that the judge records."""
    metrics = {"members": 1000.0, "nonmembers": 1000.0} if task == "membership" else {}
    values: dict[str, object] = {
        "key": f"{task}-{attack}-{defense}-{seed}", "protocol": "toy-v1", "protocol_digest": "d1", "task": task,
        "attack": attack, "defense": defense, "dataset": "toy", "architecture": "tiny", "seed": seed, "status": "ok",
        "access": "posterior" if attack else "", "knowledge": "none" if attack else "", "finished": 1.7e9 + seed,
    }  # fmt: skip
    metrics |= changes.pop("metrics", {})  # type: ignore[arg-type, assignment]
    return Result.model_validate(values | changes | {"metrics": metrics})


def make_board(seeds: tuple[int, ...] = (0, 1, 2)) -> tuple[list[Result], Board]:
    """Six membership attacks and an attribute attack against nine defenses: ties, gaps, a collapsed model."""
    random = np.random.default_rng(0)
    results = []
    for defense, (leak, accuracy, seconds) in DEFENSES.items():
        for seed in seeds:
            test = accuracy + random.normal(0, 0.008)
            claims = {
                "epsilon": "7.9",
                "delta": "1e-5",
                "accountant": "RDP",
                "adjacency": "add-remove",
                "sampling": "poisson",
            }
            results.append(make_result(
                "utility", "", defense, seed, metrics={"test_accuracy": test, "train_accuracy": min(1, test + 0.15 * leak), "ece": 0.05 + 0.05 * leak},
                cost={"train_seconds": seconds, "seconds": seconds}, claims=claims if defense.startswith("dp") else {},
            ))  # fmt: skip
            for attack, strength in STRENGTH.items():
                results.append(_membership(random, attack, defense, seed, strength * leak))
            for embedding, gain in (("target", 0.08), ("untrained", 0.0)):
                found = 0.52 + gain * leak + random.normal(0, 0.004)
                metrics = {"attribute_accuracy": found, "attribute_balanced_accuracy": found, "attribute_majority": 0.5}
                name = "attribute_mlp" + ("" if embedding == "target" else f"[embedding={embedding}]")
                results.append(make_result("attribute", name, defense, seed, access="white-box", knowledge="shadow", null_row=embedding != "target", metrics=metrics, cost={"seconds": 3.0}))  # fmt: skip
    required = tuple(d for d in DEFENSES if d != "constant")
    board = Board(("random", "loss", "lira", "nn_sorted", "boundary"), required, seeds, "undefended", 0.7)
    return [r for r in results if (r.attack, r.defense, r.seed) != ("lira", "hamp", seeds[-1])], board


def _membership(random: np.random.Generator, attack: str, defense: str, seed: int, gain: float) -> Result:
    labels = {"access": "label" if attack == "boundary" else "white-box" if attack == "gradient" else "posterior"}
    labels |= {"knowledge": TRACKS[attack] or "none"}
    if attack == "gradient" and "+" in defense:
        return make_result(
            "membership",
            attack,
            defense,
            seed,
            status="skipped",
            reason="a guard is outside this threat model",
            **labels,
        )
    auc = float(np.clip(0.5 + gain + random.normal(0, 0.008), 0, 1))
    fpr = np.r_[0, np.geomspace(1e-3, 1, 60)]
    tpr = np.clip(fpr ** ((1 - auc) / auc), 0, 1)
    tpr_at = float(np.interp(0.01, fpr, tpr))
    return make_result(
        "membership", attack, defense, seed, null_row=attack == "random", roc=(tuple(fpr), tuple(tpr)),
        metrics={"auc": auc, "tpr_at_fpr_0.01": tpr_at, "tpr_at_fpr_0.01_reversed": max(0, 0.02 - tpr_at), "balanced_accuracy": 0.5 + 0.8 * (auc - 0.5)},
        null_auc=tuple(random.normal(0.5, 0.013, 40)), null_tpr=tuple(random.uniform(0.004, 0.02, 40)),
        cost={"seconds": 40.0 if attack == "lira" else 1.5, "queries": 2000.0 * (200 if attack == "boundary" else 1)},
        provenance={"run_id": f"{abs(hash((attack, defense, seed))):x}"[:12], "experiment_id": "1", "commit": "abc123", "device": "cpu"}, **labels,
    )  # fmt: skip


EVIL = "![x](http://evil.example/x.png) <script>alert(1)</script>[link=http://evil.example]y[/link]:bomb:\x1b[2J\x1b]0;z\x07"
"""What a terminal, Rich, Markdown and a browser would each obey."""


def hostile(results: list[Result]) -> list[Result]:
    """Rows of an attack and of a defense that put EVIL, and a megabyte, wherever a record takes text."""
    long = EVIL * 10_000
    rows = []
    for r in (r for r in results if r.defense == "selena" or r.attack == "nn_sorted"):
        changes: dict[str, object] = {"log": long, "reason": EVIL, "dataset": EVIL, "claims": {"epsilon": EVIL}}
        changes |= {"defense": EVIL} if r.defense == "selena" else {"attack": EVIL}
        changes |= {"access": EVIL, "knowledge": EVIL} if r.attack else {}
        rows.append(r.model_copy(update=changes | {"key": f"evil {r.key}"}))
        failed = {"defense": long, "status": "failed", "metrics": {"trust": 1.0}, "key": f"failed {r.key}"}
        rows.append(r.model_copy(update=changes | failed))
    unique = {(r.task, r.attack, r.defense, r.seed): r for r in rows}
    return [*results, *unique.values()]


@pytest.fixture
def result() -> Callable[..., Result]:
    return make_result


@pytest.fixture
def made_up() -> tuple[list[Result], Board]:
    return make_board()
