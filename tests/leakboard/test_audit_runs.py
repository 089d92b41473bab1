"""An audit is one run in MLflow: what it holds, what never gets there, and what is left of it where MLflow doesn't answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import leakboard
from benchmark.run import tracking
from benchmark.run.audit import canaries, epsilon
from benchmark.run.audit.canary_secret import Secret
from benchmark.run.audit.predictions import Source
from benchmark.run.audit.report import Audit
from leakboard import audit_runs
from leakboard.audits import FAILS, JSON, PAGE, RECORDS
from tests.conftest import Home
from tests.leaderboard.conftest import make_audit
from tests.run.audit.worlds import world


@pytest.fixture
def options(home: Home) -> list[str]:
    """Of a command on the answers of a model that leaks; the files lie in the user's home, and have ids."""
    folder, given = home.folder / "person", world(1, n=120, k=3, leak=3.0)
    folder.mkdir()
    home.patch.setenv("HOME", str(folder))
    frame = pd.DataFrame(np.exp(given.log_posteriors)).add_prefix("p_").assign(label=given.y, member=given.members * 1)
    frame.assign(id=[f"record-{i}" for i in range(240)]).to_csv(folder / "both.csv", index=False)
    return ["audit", "predictions", "--members", str(folder / "both.csv"), "--out", "here"]


def runs() -> list[Any]:
    client = tracking.connect()
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def artifacts(run: Any) -> dict[str, str]:
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def test_a_command_logs_its_audit_once(home: Home, options: list[str]) -> None:
    gate = ["--fail-if", "auc > 0.5", "--fail-if", "auc > 0.99", "--title", "Mine"]
    done = home.call(*options, *gate)
    assert done.code == FAILS, done.err
    (run,) = runs()
    assert f"experiment leakboard.audits, run {run.info.run_id[:8]} (leakboard ui)" in done.out + done.err
    assert done.out.endswith("next: python -m webbrowser here/report.html\n      leakboard board --audit here\n")
    report = Audit.model_validate_json((home.folder / "here" / JSON).read_text("utf-8"))
    case, found = report.worst["auc"], run.data.metrics
    ends = [found[f"worst_auc{end}"] for end in ("", "_low", "_high", "_null_99", "_p")]
    assert ends == [case.value, case.low, case.high, case.null, case.p]
    assert found["p"] == report.verdict.p and found["test_accuracy"] == report.model.nonmembers.accuracy
    assert {name.partition("_")[0] for name in found} == {"worst", "p", "train", "test", "ece"}
    assert run.data.params == {
        "way": "predictions", "title": "Mine", "network": "none", "classes": "3", "members": "120", "nonmembers": "120",
        "references": "0", "released": "posteriors", "attacks": str(len(report.attacks)), "seed": "0",
    }  # fmt: skip
    tags = run.data.tags
    assert (tags["verdict"], tags["sentence"], tags["tool"]) == ("leaks", report.verdict.sentence, report.tool)
    assert tags["file.1"] == f"{report.files[0].sha256} both.csv"
    assert (tags["gate"], tags["gate.1"], tags["gate.2"]) == ("fails", "fails: auc > 0.5", "passes: auc > 0.99")
    assert (run.info.run_name, run.info.status) == ("Mine", "FINISHED")

    again = home.call(*options, *gate)
    assert f"there already as run {run.info.run_id[:8]}" in again.out + again.err
    assert len(runs()) == 1, "nothing is new but when"
    done = home.call(*options, "--seed", "1", "--json")
    assert json.loads(done.out)["run"] in {r.info.run_id for r in runs()} and len(runs()) == 2


def test_no_record_and_no_home_gets_there(home: Home, options: list[str]) -> None:
    assert home.call(*options, "--title", f"of {home.folder}/person/x").code == 0
    (run,) = runs()
    files = artifacts(run)
    assert {*files} == {PAGE, JSON}, f"{RECORDS} stays here"
    written = (home.folder / "here" / RECORDS).read_text("utf-8")
    assert "record-" in written
    said = "\n".join([*files.values(), *run.data.params.values(), run.info.run_name])
    said += "\n".join(text for name, text in run.data.tags.items() if not name.startswith("mlflow.source"))
    assert not re.search(r"record-\d", said) and str(home.folder / "person") not in said
    assert "--members ~/both.csv" in files[JSON] and run.data.params["title"] == "of ~/x"


def test_a_server_that_does_not_answer_costs_a_line(home: Home, options: list[str]) -> None:
    home.patch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    done = home.call(*options)
    assert done.code == 0 and {p.name for p in (home.folder / "here").iterdir()} == {PAGE, JSON, RECORDS}
    (line,) = [line for line in (done.out + done.err).splitlines() if "MLflow" in line]
    assert line.startswith("MLflow at http://user:***@127.0.0.1:9 did not answer") and "secret" not in line
    assert line.endswith("the files are written, and the same command logs the audit once MLflow takes it")
    done = home.call(*options, "--json")
    assert done.code == 0 and json.loads(done.out)["run"] is None
    home.patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.folder}/mlflow.db")
    assert home.call(*options).code == 0 and len(runs()) == 1


def test_from_python_nothing_is_logged(home: Home) -> None:
    given = world(1, n=60, k=3, leak=3.0)
    leakboard.audit(np.exp(given.log_posteriors), given.y, given.members).write(home.folder / "python")
    assert not runs()


def test_canaries_are_logged_with_their_bounds(home: Home) -> None:
    rng = np.random.default_rng(0)
    y, included = rng.integers(0, 3, 200), rng.random(200) < 0.5
    z = 4.0 * included[:, None] * np.eye(3)[y] + rng.normal(size=(200, 3))
    secret = Secret(
        labels=y.tolist(),
        included=included.tolist(),
        guesses=epsilon.planned(200),
        kind="noise",
        seed="7" * 64,
        files={},
    )
    log_posteriors = z - np.log(np.exp(z).sum(1, keepdims=True))
    report = canaries.audit(
        log_posteriors, y, secret, claimed=0.5, when="now", sources=(Source("answers.csv", 9, "ab" * 32),)
    )
    assert audit_runs.log(report, {"canaries.html": "x"}).run
    later = report.model_copy(update={"when": "later", "command": "another"})
    assert audit_runs.key(later) == audit_runs.key(report) != audit_runs.key(report.model_copy(update={"delta": 0.1}))
    (run,) = runs()
    bounds = {b.name: b.epsilon for b in report.bounds}
    assert run.data.metrics == {
        "epsilon_lower": bounds["any mechanism"], "epsilon_lower_any_mechanism": bounds["any mechanism"],
        "epsilon_lower_gaussian_curve": bounds["Gaussian curve"], "epsilon_lower_pure_epsilon": bounds["pure epsilon"],
        "mu_lower": report.mu, "right": report.right, "p": report.p,
    }  # fmt: skip
    assert run.data.params["claimed"] == "0.5" and run.data.params["delta"] == "1e-05"
    assert run.data.tags["verdict"] == "refuted" and run.data.tags["file.1"] == f"{'ab' * 32} answers.csv"


def test_how_long_trainings_took_makes_no_other_audit(home: Home) -> None:
    given = world(2, n=60, k=3)
    report = leakboard.audit(np.exp(given.log_posteriors), given.y, given.members).report
    recipe = {"file": "recipe.py", "references": 2, "size": 60, "trained": True, "seen": 1.0, "unseen": 0.5}
    one, other, third = (
        audit_runs.key(Audit.model_validate(report.model_dump() | {"recipe": recipe | more}))
        for more in ({"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 1.0, "size": 61})
    )
    assert one == other != third


def test_what_other_kinds_gain_is_logged() -> None:
    gain = {"over": "steal_null", "value": 0.1, "low": 0.05, "high": 0.15}
    attack = {
        "name": "steal_labels", "title": "", "reference": "", "null": False, "access": "label", "counts": True, "queries": 9,
        "metrics": {}, "gain": gain,
    }  # fmt: skip
    weaker = attack | {"name": "steal_posteriors", "gain": gain | {"value": 0.01}}
    kinds = [
        {"kind": "stealing", "sentence": "", "metric": "agreement", "attacks": [weaker, attack]},
        {"kind": "inversion", "sentence": "not run", "metric": "recognised"},
    ]
    metrics = audit_runs._of_model(make_audit(others=kinds)).metrics
    assert {k: v for k, v in metrics.items() if "gain" in k} == {
        "stealing_gain": 0.1, "stealing_gain_low": 0.05, "stealing_gain_high": 0.15,
    }  # fmt: skip
