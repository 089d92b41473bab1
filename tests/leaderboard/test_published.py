"""What is committed in leaderboard/published/ can be recomputed from its own scenarios."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from benchmark import places, protocol
from benchmark.entries.registry import Registry
from benchmark.run import studies
from leaderboard import page
from leaderboard.publish import KINDS, all_attacks, load, pages
from leaderboard.ranking import Board, defense_table, scenarios

FOLDER = Path(__file__).parents[2] / "leaderboard" / "published"
EDITIONS = sorted(p for p in FOLDER.iterdir() if p.is_dir())


def results_of(folder):
    results = load(folder)
    assert results
    return results, Board(**protocol.load(folder.name).board())


@pytest.mark.parametrize("folder", EDITIONS, ids=lambda p: p.name)
def test_the_tables_follow_from_the_scenarios(folder):
    results, board = results_of(folder)
    frame = scenarios(results)
    for name, table in (("defenses.csv", defense_table(frame, board)), ("attacks.csv", all_attacks(frame, board))):
        pd.testing.assert_frame_equal(
            pd.read_csv(io.StringIO(table.to_csv(index=False))), pd.read_csv(folder / name), rtol=1e-9
        )


@pytest.mark.parametrize("folder", EDITIONS, ids=lambda p: p.name)
def test_the_pages_follow_from_the_scenarios(folder):
    """Of the protocol's and the cards' words, too: after a change of one, `python -m leaderboard.publish` writes them anew."""
    entries = Registry(places.PACKAGED / "submissions").entries.values()
    made = pages(folder, page.Notes.of(protocol.load(folder.name), entries))
    assert made[page.PAGE] == (folder / page.PAGE).read_text("utf-8")
    expected, found = (json.loads(text) for text in (made[page.JSON], (folder / page.JSON).read_text("utf-8")))
    for kind in ("defenses", "kinds", *expected["attacks"]):
        tables = [pd.DataFrame(d[kind] if kind in d else d["attacks"][kind]) for d in (found, expected)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-9)
    compared = ("defenses", "attacks", "kinds")
    assert {k: v for k, v in found.items() if k not in compared} == {
        k: v for k, v in expected.items() if k not in compared
    }
    by_kind = (pd.read_csv(source) for source in (io.StringIO(made[KINDS]), folder / KINDS))
    pd.testing.assert_frame_equal(*by_kind, rtol=1e-9)


@pytest.mark.parametrize("folder", EDITIONS, ids=lambda p: p.name)
def test_they_are_of_the_protocol_as_it_is(folder):
    results, board = results_of(folder)
    assert {r.protocol_digest for r in results} == {protocol.load(folder.name).measures}
    assert {r.status for r in results} <= {"ok", "skipped"}
    scored = {(r.attack, r.defense, r.seed) for r in results}
    assert scored >= {(a, d, s) for a in board.required_attacks for d in board.required_defenses for s in board.seeds}


@pytest.mark.parametrize("folder", EDITIONS, ids=lambda p: p.name)
def test_tuned_rows_are_trials_of_a_published_study(folder):
    """What was searched, and what else was tried, lies beside the rows that came of it (RULES 27)."""
    results, _ = results_of(folder)
    found = studies.published(folder, folder.name)
    assert bool(found) == (folder / studies.PUBLISHED).exists()
    trials = [t for study in found for t in study.trials]
    assert all(0 < t.accuracy < 1 and 0 <= t.leakage <= 1 and t.decides in t.by_attack for t in trials)
    assert {r.defense for r in results if r.claims.get("tuned")} <= {t.defense for t in trials}


@pytest.mark.parametrize("folder", EDITIONS, ids=lambda p: p.name)
def test_random_scores_lie_at_chance(folder):
    """The 95 % interval holds 0.5 on at least 90 % of the targets; what shares a seed shares its scores."""
    results, _ = results_of(folder)
    inside = [r.intervals["auc"][0] <= 0.5 <= r.intervals["auc"][1] for r in results if r.attack == "random_scores"]
    assert sum(inside) >= 0.9 * len(inside)


def means(results, metric):
    rows = [(r.attack, r.defense, r.metrics[metric]) for r in results if metric in r.metrics and r.task == "membership"]
    return pd.DataFrame(rows, columns=["attack", "defense", "value"]).groupby(["defense", "attack"]).value.mean()


def test_fashion_shows_what_the_field_expects():
    """Undefended targets leak, likelihood ratios leak most at 1 % FPR, and DP-SGD lowers the worst case."""
    results, _ = results_of(FOLDER / "fashion-mini-v1")
    undefended = [r for r in results if r.defense == "undefended"]
    for attack in ("loss", "lira"):
        assert all(r.intervals["auc"][0] > 0.5 for r in undefended if r.attack == attack)
    tpr, auc = means(results, "tpr_at_fpr_0.01"), means(results, "auc")
    assert tpr["undefended"].idxmax() in ("lira", "rmia")
    private = next(d for d in tpr.index.get_level_values(0) if d.startswith("dp_sgd"))
    assert tpr[private].max() < tpr["undefended"].max()
    assert auc[private].max() < auc["undefended"].max()
    utility = {(r.defense, r.seed): r for r in results if r.task == "utility"}
    assert all(utility["undefended", s].metrics["train_accuracy"] > 0.999 for s in (0, 1, 2))
    for (defense, seed), result in utility.items():  # guards that keep every label keep every accuracy
        if defense.startswith(("memguard", "diffence")):
            assert result.metrics["test_accuracy"] == utility["undefended", seed].metrics["test_accuracy"]
    assert all("epsilon" in r.claims for (d, _), r in utility.items() if d == private)


def test_canaries_leak_more_than_the_average_sample():
    """Undefended, and under label smoothing, whose average hides it; no bound contradicts the epsilon of DP-SGD."""
    canaries, average = (means(results_of(FOLDER / f"fashion-{n}")[0], "auc") for n in ("canaries-v1", "mini-v1"))
    for defense in ("undefended", "label_smoothing"):
        assert canaries[defense].max() > average[defense].max() + 0.05
    results, _ = results_of(FOLDER / "fashion-canaries-v1")
    private = [r for r in results if r.defense.startswith("dp_sgd")]
    epsilon = min(float(r.claims["epsilon"]) for r in private if r.task == "utility")
    bounds = [r.metrics["epsilon_lower"] for r in private if r.task == "membership" and not r.null_row]
    assert len(bounds) == 6 and max(bounds) < epsilon
    assert max(r.metrics["epsilon_lower"] for r in results if r.defense == "undefended" and r.attack) > 2
