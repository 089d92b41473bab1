"""The real command on real data: one seed of digits-v2, from nothing to a published board."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from benchmark.result import Result

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory, worker_id):
    """One folder for all processes of this run of pytest: what one has scored the others find."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "end-to-end"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def protocol(place):
    """digits-v2 with fewer targets, queries and steps: a fifth of the time, and all else as it is."""
    text = (ROOT / "benchmark" / "protocols" / "digits-v2.yaml").read_text("utf-8")
    for whole, less in (
        ("name: digits-v2", "name: digits-e2e"), ("references: {online: 8, offline: 4}", "references: {online: 4, offline: 2}"),
        ("targets: 10", "targets: 2"), ("attacks:\n", "label_only: 60\nattacks:\n"),
        ("n=5,timestep=80,train_steps=200", "n=3,timestep=80,train_steps=50"), ("- near_copies\n", "- near_copies[copies=4]\n"),
        ("- fredrikson\n", "- fredrikson[steps=100]\n"),
        ("steal_mse[learning_rate=0.1]", "steal_mse[learning_rate=0.1,epochs=10]"),
        ("steal_null[learning_rate=0.1]", "steal_null[learning_rate=0.1,epochs=10]"),
    ):  # fmt: skip
        assert whole in text
        text = text.replace(whole, less)
    path = place / "digits-e2e.yaml"
    with FileLock(place / "lock"):
        path.write_text(text, "utf-8")
    return str(path)


def leakboard(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "LEAKBOARD_STORE": str(place / "store"),
        "LEAKBOARD_PUBLISHED": str(place / "published"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
    }
    command = [sys.executable, "-m", "leakboard", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scored(place, protocol):
    with FileLock(place / "lock"):
        done = leakboard(place, "run", "--protocol", protocol, "--seed", "0", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    return {(r.attack, r.defense): r for r in (Result.model_validate(x) for x in json.loads(done.stdout))}


@pytest.mark.slow
def test_every_scenario_is_scored_or_skipped_with_a_reason(scored):
    assert len(scored) == 20 * 7
    assert {r.status for r in scored.values()} == {"ok", "skipped"}
    assert all(r.reason for r in scored.values() if r.status == "skipped")


@pytest.mark.slow
def test_the_anchors_lie_where_they_must(scored):
    for (attack, defense), result in scored.items():
        if attack == "random_scores" and defense == "undefended":
            assert result.metrics["auc"] == pytest.approx(0.5, abs=1e-9), "over a complete pair it is chance, exactly"
            assert result.values["auc"][0] != pytest.approx(0.5, abs=1e-3)
        # Label attacks too: a constant answer is right for one class, of members and non-members alike.
        if defense == "constant_output" and result.track == "posterior/none":
            assert result.metrics["auc"] == pytest.approx(0.5)


@pytest.mark.slow
def test_guards_that_keep_the_label_keep_the_accuracy_exactly(scored):
    accuracy = {d: r.metrics["test_accuracy"] for (a, d), r in scored.items() if a == ""}
    for defense, value in accuracy.items():
        if defense.startswith(("memguard", "diffence")):
            assert value == accuracy["undefended"]
    assert accuracy["undefended"] > 0.9 > accuracy["constant_output"]


@pytest.mark.slow
def test_epsilon_is_printed_with_what_it_needs(scored):
    claims = next(r.claims for (a, d), r in scored.items() if a == "" and d.startswith("dp_sgd"))
    assert 1 < float(claims["epsilon"]) < 20
    assert {"delta", "accountant", "adjacency", "sampling"} <= claims.keys()


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_is_quick(scored, place, protocol):
    start = time.perf_counter()
    done = leakboard(place, "run", "--protocol", protocol, "--seed", "0")
    assert done.returncode == 0
    assert time.perf_counter() - start < 20
    assert "0 trained" in done.stdout
    assert re.search(r"0 scenarios scored, 140 reused", done.stdout)
    assert done.stdout.rstrip().splitlines()[-1].startswith("next: ")


@pytest.mark.slow
def test_a_logged_run_is_reproduced_from_scratch(scored, place, protocol):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("digits-e2e").experiment_id
    runs = client.search_runs([experiment], "tags.attack = 'nn_sorted' and tags.defense = 'undefended'")
    assert len(runs) == 1
    assert runs[0].data.metrics["auc"] == pytest.approx(scored["nn_sorted", "undefended"].metrics["auc"], abs=1e-5)
    done = leakboard(place, "reproduce", runs[0].info.run_id, "--protocol", protocol)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "every number lies in its interval" in done.stdout


@pytest.mark.slow
def test_publish_writes_what_the_board_shows(scored, place, protocol):
    done = leakboard(place, "publish", "--protocol", protocol)
    assert done.returncode == 0, done.stderr
    folder = place / "published" / "digits-e2e"
    assert {p.name for p in folder.iterdir()} >= {
        "scenarios.parquet",
        "attacks.csv",
        "defenses.csv",
        "provenance.json",
        "index.html",
        "board.json",
    }
